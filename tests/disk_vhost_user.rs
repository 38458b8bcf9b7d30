//! Disks over vhost-user with an independent front end: what is written is what is read, for every engine, depth, number of
//! queues and way of notifying.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use qcontext::{Poller, QContext};
use support::directory::unique;
use support::front_end::{Guest, Io};
use support::random::Random;
use support::served_disk::{Disk, Engine};
use support::skip::skip;
use support::workload::Workload;

const MIB: u64 = 1 << 20;
const BUFFERED: [Engine; 2] = [
    Engine::Uring { direct: false },
    Engine::Threads { direct: false },
];

/// Random writes and reads at every depth on 1 and 4 queues, compared with what should be there.
fn verify(engine: Engine, event_idx: bool) {
    verify_with(Poller::Epoll, engine, event_idx);
}

fn verify_with(poller: Poller, engine: Engine, event_idx: bool) {
    for queues in [1, 4] {
        let context = QContext::builder(&unique("ctx"))
            .threaded(true)
            .poller(poller)
            .build()
            .unwrap();
        if context.poller() != poller {
            return skip(format!("this kernel gives no {poller}"));
        }
        let disk = Disk::new(engine, 64 * MIB, queues, &context);
        for depth in [1, 7, 32, 128] {
            let workload = Workload {
                depth,
                requests: 300 + depth * 12,
                keeps_data: engine != Engine::Null,
            };
            let memory = workload.memory(usize::from(queues));
            let mut guest =
                Guest::connect(&disk.socket, queues.into(), 1024, event_idx, memory).unwrap();
            assert_eq!(guest.features() & 1 << 29 != 0, event_idx);
            workload.run(
                &mut guest,
                &mut Random(u64::from(queues) * 1000 + depth as u64),
            );
        }
        let stats = disk.stats();
        assert!(stats.reads > 0 && stats.writes > 0, "{stats:?}");
        assert_eq!(stats.errors, 0);
    }
}

#[test]
fn data_survives_io_uring_with_event_idx() {
    verify(Engine::Uring { direct: false }, true);
}

#[test]
fn data_survives_io_uring_without_event_idx() {
    verify(Engine::Uring { direct: false }, false);
}

#[test]
fn data_survives_direct_io_uring() {
    verify(Engine::Uring { direct: true }, true);
}

#[test]
fn data_survives_threads_with_event_idx() {
    verify(Engine::Threads { direct: false }, true);
}

#[test]
fn data_survives_threads_without_event_idx() {
    verify(Engine::Threads { direct: false }, false);
}

#[test]
fn data_survives_direct_threads() {
    verify(Engine::Threads { direct: true }, false);
}

#[test]
fn data_survives_a_context_that_waits_in_the_ring() {
    for engine in BUFFERED {
        verify_with(Poller::IoUring, engine, true);
    }
    verify_with(Poller::IoUring, Engine::Uring { direct: true }, false);
}

#[test]
fn data_survives_a_context_that_waits_by_poll() {
    for engine in BUFFERED {
        verify_with(Poller::Poll, engine, true);
    }
}

#[test]
fn null_disk_answers_everything_with_event_idx() {
    verify(Engine::Null, true);
}

#[test]
fn null_disk_answers_everything_without_event_idx() {
    verify(Engine::Null, false);
}

#[test]
fn what_was_written_is_in_the_file_and_a_flush_reaches_it() {
    for engine in BUFFERED {
        let context = QContext::new(&unique("ctx"), true).unwrap();
        let disk = Disk::new(engine, MIB, 1, &context);
        let mut guest = Guest::connect(&disk.socket, 1, 64, true, 4096).unwrap();
        guest.memory.bytes().fill(0x5a);
        let io = Io {
            write: true,
            offset: 8192,
            segments: vec![(0, 4096)],
        };
        assert_eq!(guest.run(0, &io), 0);
        let image = std::fs::read(&disk.file).unwrap();
        assert_eq!(image[8192..12288], [0x5a; 4096]);
        assert!(image[..8192].iter().all(|&byte| byte == 0));
        let before = disk.node.data_syncs();
        assert_eq!(guest.flush(0), 0);
        assert_eq!(disk.node.data_syncs(), before + 1);
    }
}

#[test]
fn zeroed_ranges_read_as_zeroes() {
    for engine in BUFFERED {
        let context = QContext::new(&unique("ctx"), true).unwrap();
        let disk = Disk::new(engine, MIB, 1, &context);
        let mut guest = Guest::connect(&disk.socket, 1, 64, true, 65536).unwrap();
        guest.memory.bytes().fill(0xff);
        let whole = |write| Io {
            write,
            offset: 0,
            segments: vec![(0, 65536)],
        };
        assert_eq!(guest.run(0, &whole(true)), 0);
        guest.submit_zeroes(0, 0, 4096, 8192);
        guest.kick(0);
        assert_eq!(guest.wait(0), [(0, 0)]);
        assert_eq!(guest.run(0, &whole(false)), 0);
        let bytes = guest.memory.bytes();
        assert!(bytes[4096..12288].iter().all(|&byte| byte == 0));
        assert!(bytes[..4096].iter().all(|&byte| byte == 0xff));
        assert!(bytes[12288..].iter().all(|&byte| byte == 0xff));
    }
}

#[test]
fn requests_beyond_the_end_fail_and_the_queue_goes_on() {
    let context = QContext::new(&unique("ctx"), true).unwrap();
    let disk = Disk::new(Engine::Uring { direct: false }, MIB, 1, &context);
    let mut guest = Guest::connect(&disk.socket, 1, 64, true, 4096).unwrap();
    assert_eq!(guest.capacity(), MIB);
    let at = |offset| Io {
        write: false,
        offset,
        segments: vec![(0, 4096)],
    };
    assert_eq!(guest.run(0, &at(MIB - 512)), -libc::EIO);
    assert_eq!(guest.run(0, &at(1 << 50)), -libc::EIO);
    assert_eq!(guest.run(0, &at(MIB - 4096)), 0);
}

#[test]
fn memory_comes_and_goes_while_requests_are_in_flight() {
    let context = QContext::new(&unique("ctx"), true).unwrap();
    let disk = Disk::new(Engine::Uring { direct: true }, 16 * MIB, 1, &context);
    let mut guest = Guest::connect(&disk.socket, 1, 256, true, 32 * 4096).unwrap();
    for round in 0..100 {
        for slot in 0..32 {
            let io = Io {
                write: round % 2 == 0,
                offset: slot as u64 * 4096,
                segments: vec![(slot * 4096, 4096)],
            };
            guest.submit(0, slot, &io);
        }
        guest.kick(0);
        guest.map_and_unmap(0x780 + round * 4096).unwrap();
        let mut finished = 0;
        while finished < 32 {
            let done = guest.wait(0);
            assert!(done.iter().all(|&(_, result)| result == 0));
            finished += done.len();
        }
    }
}

#[test]
fn next_guest_finds_the_data_of_the_last() {
    let context = QContext::new(&unique("ctx"), true).unwrap();
    let disk = Disk::new(Engine::Threads { direct: false }, MIB, 1, &context);
    for round in 0..20u8 {
        let mut guest = Guest::connect(&disk.socket, 1, 64, round % 2 == 0, 4096).unwrap();
        let io = |write| Io {
            write,
            offset: 0,
            segments: vec![(0, 4096)],
        };
        assert_eq!(guest.run(0, &io(false)), 0);
        let expected = round;
        assert!(guest.memory.bytes().iter().all(|&byte| byte == expected));
        guest.memory.bytes().fill(round + 1);
        assert_eq!(guest.run(0, &io(true)), 0);
    }
}

#[test]
fn two_disks_share_a_context() {
    let context = QContext::new(&unique("ctx"), true).unwrap();
    let disks = [Engine::Uring { direct: false }, Engine::Null]
        .map(|engine| Disk::new(engine, 16 * MIB, 1, &context));
    let guests = disks.each_ref().map(|disk| {
        let socket = disk.socket.clone();
        let keeps_data = disk.node.driver() != qcontext::block::Driver::NullCo;
        std::thread::spawn(move || {
            let workload = Workload {
                depth: 16,
                requests: 2000,
                keeps_data,
            };
            let mut guest = Guest::connect(&socket, 1, 256, true, workload.memory(1)).unwrap();
            workload.run(&mut guest, &mut Random(99));
        })
    });
    for guest in guests {
        guest.join().unwrap();
    }
    let expected = "is in use by device";
    let error = QContext::delete(context.id()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    drop(disks);
    QContext::delete(context.id()).unwrap();
}
