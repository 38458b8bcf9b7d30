//! Servers that go away, come back, or are silent.
#![forbid(unsafe_code)]

use super::*;

#[test]
fn what_a_lost_connection_had_is_repeated_on_the_next() {
    let (server, disk) = forgetful(&[5, 0, 20], 0);
    let rig = rig(&server, ",reconnect-delay=60");
    let memory = Mutex::new((0..=255).cycle().take(64 * 512).collect::<Vec<u8>>());
    rig.submit(0..SECTORS, |channel, tag| {
        let at = usize::try_from(tag).unwrap() * 512;
        let mut request = channel.request(Op::Write, tag * 512, tag);
        request.set_memory(&mut memory.lock().unwrap()[at..at + 512]);
        request
    });
    rig.wait(|| rig.finished().len() == 64);
    assert!(rig.finished().iter().all(|&(_, result)| result == 0));
    assert!(disk.lock().unwrap()[..64 * 512] == memory.lock().unwrap()[..]);
    assert_eq!(server.connections.load(Ordering::Relaxed), 4);
}

#[test]
fn without_a_delay_requests_fail_with_the_connection_and_later_ones_pass() {
    let (server, _disk) = forgetful(&[1], 0);
    let rig = rig(&server, "");
    assert_eq!(run(&rig, Op::Read, 0..1), [0]);
    assert_eq!(run(&rig, Op::Read, 1..2), [EIO]);
    let mut tags = 2..3;
    rig.wait(|| {
        let results = run(&rig, Op::Read, tags.clone());
        tags = tags.end..tags.end + 1;
        results == [0]
    });
}

#[test]
fn requests_wait_for_a_server_no_longer_than_the_delay() {
    let (server, _disk) = forgetful(&[0], 0);
    let rig = rig(&server, ",reconnect-delay=1");
    std::fs::remove_file(&server.path).unwrap();
    let start = Instant::now();
    assert_eq!(run(&rig, Op::Read, 0..3), [EIO; 3]);
    assert!(start.elapsed() >= Duration::from_secs(1));
    // The time is over, so others do not wait.
    submit(&rig, Op::Read, 3..4);
    assert_eq!(rig.finished().len(), 4);
    assert_eq!(rig.finished()[3].1, EIO);
}

#[test]
fn a_drain_does_not_wait_for_a_server_that_is_lost() {
    let (server, _disk) = forgetful(&[0], 0);
    let rig = rig(&server, ",reconnect-delay=4000");
    std::fs::remove_file(&server.path).unwrap();
    submit(&rig, Op::Read, 0..3);
    let (_drained, calls) = rig.drain();
    rig.wait(|| calls.load(Ordering::Relaxed) == 1);
    assert!(rig.finished().iter().all(|&(_, result)| result == EIO));
}

#[test]
fn a_queue_that_wants_to_rest_does_not_wait_for_a_server_at_all() {
    let (server, _disk) = forgetful(&[0], 0);
    let rig = rig(&server, ",reconnect-delay=4000");
    std::fs::remove_file(&server.path).unwrap();
    rig.with(|channel| channel.set_hurried(true));
    assert_eq!(run(&rig, Op::Read, 0..3), [EIO; 3]);
}

#[test]
fn a_drain_waits_for_a_server_that_comes_back_soon() {
    let (server, _disk) = forgetful(&[0], 0);
    let rig = rig(&server, ",reconnect-delay=4000");
    submit(&rig, Op::Read, 0..3);
    let (_drained, calls) = rig.drain();
    rig.wait(|| calls.load(Ordering::Relaxed) == 1);
    assert_eq!(
        rig.finished().iter().map(|&(_, result)| result).max(),
        Some(0)
    );
    assert_eq!(rig.finished().len(), 3);
}

#[test]
fn a_drain_does_not_wait_for_a_silent_server_because_a_queue_has_its_own_connection() {
    let is_silent = Arc::new(AtomicBool::new(false));
    let own_served = Arc::new(AtomicUsize::new(0));
    let (silent, served) = (Arc::clone(&is_silent), Arc::clone(&own_served));
    let server = FakeServer::new(move |mut connection| {
        connection.negotiate(transmission_flag::CAN_MULTI_CONN);
        while let Some((asked, _)) = connection.request() {
            if silent.load(Ordering::SeqCst) {
                continue;
            }
            if connection.number > 0 {
                served.fetch_add(1, Ordering::SeqCst);
            }
            connection.chunk(chunk::NONE, true, asked.cookie, b"");
        }
    });
    let home = rig(&server, ",reconnect-delay=4000");
    let other = Rig::over(&home.edge.node());
    let mut tags = 0..1;
    while own_served.load(Ordering::SeqCst) == 0 {
        assert_eq!(run_beside(&home, &other, Op::Write, tags.clone()), [0]);
        tags = tags.end..tags.end + 1;
    }
    is_silent.store(true, Ordering::SeqCst);
    submit(&other, Op::Write, tags.clone());
    let (_drained, calls) = other.drain();
    other.wait(|| {
        home.iterate(1);
        calls.load(Ordering::Relaxed) == 1
    });
    assert_eq!(
        other.finished().last().map(|&(_, result)| result),
        Some(EIO)
    );
}

#[test]
fn a_server_that_answers_nothing_does_not_make_requests_wait_longer() {
    let server = FakeServer::new(|mut connection| {
        if connection.negotiate(0).is_some() && connection.request().is_some() {
            // The begin of a reply.
            connection.send(&[0x66]);
        }
    });
    let rig = rig(&server, ",reconnect-delay=1");
    assert_eq!(run(&rig, Op::Write, 0..3), [EIO; 3]);
}

#[test]
fn an_export_that_lacks_what_it_had_is_not_used() {
    let several = transmission_flag::CAN_MULTI_CONN;
    for (flags, size) in [
        (0, SIZE),
        (several, SIZE - 512),
        (several | transmission_flag::READ_ONLY, SIZE),
    ] {
        let server = FakeServer::new(move |mut connection| {
            if connection.number == 0 {
                connection.negotiate(several);
                connection.request();
            } else if connection.negotiate_size(flags, size).is_some() {
                while let Some((asked, _)) = connection.request() {
                    connection.chunk(chunk::NONE, true, asked.cookie, b"");
                }
            }
        });
        let rig = rig(&server, ",reconnect-delay=1");
        assert_eq!(run(&rig, Op::Write, 0..3), [EIO; 3], "{flags} {size}");
        assert!(server.connections.load(Ordering::Relaxed) > 1);
    }
}

#[test]
fn a_drain_does_not_wait_for_a_server_that_is_silent() {
    let server = FakeServer::new(|mut connection| {
        connection.negotiate(0);
        while connection.request().is_some() {}
    });
    let rig = rig(&server, ",reconnect-delay=4000");
    submit(&rig, Op::Write, 0..3);
    let (_drained, calls) = rig.drain();
    rig.wait(|| calls.load(Ordering::Relaxed) == 1);
    assert_eq!(rig.finished().len(), 3);
    assert!(rig.finished().iter().all(|&(_, result)| result == EIO));
}

#[test]
fn the_last_flush_of_a_device_does_not_wait_for_a_server_that_is_lost() {
    let (server, _disk) = forgetful(&[0], transmission_flag::SEND_FLUSH);
    let rig = rig(&server, ",reconnect-delay=4000");
    std::fs::remove_file(&server.path).unwrap();
    let result = Arc::new(Mutex::new(None));
    let place = Arc::clone(&result);
    crate::block::flush(&rig.edge.node(), &rig.aio, move |outcome| {
        *place.lock().unwrap() = Some(outcome);
    });
    rig.wait(|| result.lock().unwrap().is_some());
    let outcome = result.lock().unwrap().take().unwrap();
    assert!(outcome.is_err(), "{outcome:?}");
}
