//! Busy-polling with QEMU's semantics: handlers are added to polling and removed, a handler is not polled during its own
//! callback, nested polls, switching notifications.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{AioContext, EventNotifier, FdHandler, PollParams, Wait};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const PARAMS: PollParams = PollParams {
    // So long that on a slow machine, too, a wait is short enough to start polling.
    max_ns: 10_000_000_000,
    grow: 2,
    shrink: 2,
};

#[derive(Default)]
struct Counts {
    reads: AtomicUsize,
    polled: AtomicUsize,
    work: AtomicBool,
}

fn bump(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::SeqCst);
}

fn count(count: &AtomicUsize) -> usize {
    count.load(Ordering::SeqCst)
}

#[test]
fn a_nested_poll_neither_polls_nor_calls_the_handler_it_is_nested_in() {
    let aio = AioContext::new().unwrap();
    aio.set_poll_params(PARAMS).unwrap();
    let outer = Arc::new(Counts::default());
    let polled = Arc::new(EventNotifier::new().unwrap());
    let dummy = Arc::new(EventNotifier::new().unwrap());
    dummy.signal();

    let (seen, event) = (Arc::clone(&outer), Arc::clone(&polled));
    let read = move || {
        assert!(event.take());
        bump(&seen.reads);
    };
    let question = {
        let state = Arc::clone(&outer);
        move || state.work.load(Ordering::SeqCst)
    };
    let ready = {
        let (state, nested) = (Arc::clone(&outer), aio.clone());
        move || {
            bump(&state.polled);
            assert!(state.work.load(Ordering::SeqCst));
            assert!(
                nested.poll(Wait::Block).unwrap(),
                "the dummy's read is progress"
            );
        }
    };
    aio.set_fd_handler(
        polled.as_raw_fd(),
        FdHandler::new().on_read(read).io_poll(question, ready),
    )
    .unwrap();
    polled.signal();

    assert!(
        !aio.poll(Wait::NoBlock).unwrap(),
        "every handler can be polled, so the kernel is not asked"
    );
    assert!(aio.poll(Wait::Block).unwrap());
    assert_eq!(count(&outer.reads), 1);

    // The first short wait lets polling start.
    polled.signal();
    assert!(aio.poll(Wait::Block).unwrap());
    let dummy_reads = Arc::new(AtomicUsize::new(0));
    let (reads, other) = (Arc::clone(&dummy_reads), Arc::clone(&dummy));
    let dummy_read = move || {
        assert!(other.take());
        bump(&reads);
    };
    let never = || panic!("the dummy is never found by polling");
    aio.set_fd_handler(
        dummy.as_raw_fd(),
        FdHandler::new()
            .on_read(dummy_read)
            .io_poll(|| false, never),
    )
    .unwrap();
    outer.work.store(true, Ordering::SeqCst);
    assert!(aio.poll(Wait::Block).unwrap());
    assert_eq!((count(&outer.polled), count(&dummy_reads)), (1, 1));
}

#[test]
fn notifications_are_off_exactly_while_polling() {
    let aio = AioContext::new().unwrap();
    aio.set_poll_params(PARAMS).unwrap();
    let event = Arc::new(EventNotifier::new().unwrap());
    let switches = Arc::new(Mutex::new(Vec::new()));
    let (seen, log) = (Arc::clone(&event), Arc::clone(&switches));
    let handler = FdHandler::new()
        .on_read(move || assert!(seen.take()))
        .io_poll(|| false, || panic!("polling finds nothing"))
        .io_poll_switch(move |polling| log.lock().unwrap().push(polling));
    aio.set_fd_handler(event.as_raw_fd(), handler).unwrap();
    let timer = aio.timer(gsource::Clock::Realtime, || ());
    for _ in 0..4 {
        event.signal();
        assert!(aio.poll(Wait::Block).unwrap());
    }
    timer.arm_in_ns(200_000);
    assert!(aio.poll(Wait::Block).unwrap());
    let switches = std::mem::take(&mut *switches.lock().unwrap());
    assert!(switches.contains(&true), "polling began");
    assert_eq!(
        switches.last(),
        Some(&false),
        "the home slept with notifications on"
    );
    assert!(
        switches.iter().zip(&switches[1..]).all(|(a, b)| a != b),
        "{switches:?}"
    );
}

#[test]
fn work_that_arrives_while_notifications_go_on_is_not_lost() {
    let aio = AioContext::new().unwrap();
    aio.set_poll_params(PARAMS).unwrap();
    let event = Arc::new(EventNotifier::new().unwrap());
    let work = Arc::new(AtomicBool::new(false));
    let found = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&event);
    let (asked, arrives, takes, finds) = (
        Arc::clone(&work),
        Arc::clone(&work),
        Arc::clone(&work),
        Arc::clone(&found),
    );
    let handler = FdHandler::new()
        .on_read(move || assert!(seen.take()))
        .io_poll(
            move || asked.load(Ordering::SeqCst),
            move || {
                takes.store(false, Ordering::SeqCst);
                bump(&finds);
            },
        )
        .io_poll_switch(move |polling| arrives.store(!polling, Ordering::SeqCst));
    aio.set_fd_handler(event.as_raw_fd(), handler).unwrap();
    for _ in 0..4 {
        event.signal();
        assert!(aio.poll(Wait::Block).unwrap());
    }
    // Work appears only at the moment when notifications are enabled again, without a signal.
    assert!(aio.poll(Wait::Block).unwrap());
    assert!(count(&found) > 0);
}

/// A handler whose polling finds what `found` says, with the log of its switch.
fn logged(
    aio: &AioContext,
    found: &Arc<AtomicBool>,
    ready: impl Fn() + Send + 'static,
) -> (Arc<EventNotifier>, Arc<Mutex<Vec<bool>>>) {
    let event = Arc::new(EventNotifier::new().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let (seen, logs) = (Arc::clone(&event), Arc::clone(&log));
    let (asked, takes) = (Arc::clone(found), Arc::clone(found));
    let handler = FdHandler::new()
        .on_read(move || assert!(seen.take()))
        .io_poll(
            move || asked.load(Ordering::SeqCst),
            move || {
                takes.store(false, Ordering::SeqCst);
                ready();
            },
        )
        .io_poll_switch(move |polling| logs.lock().unwrap().push(polling));
    aio.set_fd_handler(event.as_raw_fd(), handler).unwrap();
    (event, log)
}

#[test]
fn a_handler_is_told_once_however_often_polling_finds_work() {
    let aio = AioContext::new().unwrap();
    aio.set_poll_params(PARAMS).unwrap();
    let found = Arc::new(AtomicBool::new(false));
    let (event, log) = logged(&aio, &found, || ());
    for _ in 0..2 {
        event.signal();
        assert!(aio.poll(Wait::Block).unwrap());
    }
    for _ in 0..5 {
        found.store(true, Ordering::SeqCst);
        assert!(aio.poll(Wait::Block).unwrap());
    }
    assert_eq!(*log.lock().unwrap(), [true]);
}

#[test]
fn a_nested_wait_that_ends_polling_ends_it_for_the_handler_it_is_nested_in() {
    let aio = AioContext::new().unwrap();
    aio.set_poll_params(PARAMS).unwrap();
    let found = Arc::new(AtomicBool::new(false));
    let nothing = Arc::new(AtomicBool::new(false));
    let (other, other_log) = logged(&aio, &nothing, || ());
    let (nested, wakes) = (aio.clone(), Arc::clone(&other));
    let (event, log) = logged(&aio, &found, move || {
        // Polling finds nothing here, so the wait is one with notifications on.
        wakes.signal();
        assert!(nested.poll(Wait::Block).unwrap());
    });
    for _ in 0..2 {
        other.signal();
        event.signal();
        assert!(aio.poll(Wait::Block).unwrap());
    }
    found.store(true, Ordering::SeqCst);
    assert!(aio.poll(Wait::Block).unwrap());
    assert_eq!(*other_log.lock().unwrap(), [true, false]);
    assert_eq!(*log.lock().unwrap(), [true, false]);
}

#[test]
fn the_switch_of_a_handler_can_be_replaced() {
    let aio = AioContext::new().unwrap();
    aio.set_poll_params(PARAMS).unwrap();
    let found = Arc::new(AtomicBool::new(false));
    let (event, log) = logged(&aio, &found, || ());
    let calls = Arc::new(AtomicUsize::new(0));
    let bumped = Arc::clone(&calls);
    assert!(aio.set_io_poll_switch(event.as_raw_fd(), move |polling| {
        assert!(polling);
        bump(&bumped);
    }));
    for _ in 0..2 {
        event.signal();
        assert!(aio.poll(Wait::Block).unwrap());
    }
    found.store(true, Ordering::SeqCst);
    assert!(aio.poll(Wait::Block).unwrap());
    assert_eq!(count(&calls), 1);
    assert_eq!(Arc::strong_count(&log), 1, "the first one is destroyed");
    assert!(aio.remove_io_poll_switch(event.as_raw_fd()));
    aio.poll(Wait::NoBlock).unwrap();
    assert_eq!(Arc::strong_count(&calls), 1, "the second one is destroyed");
    assert!(aio.remove_fd_handler(event.as_raw_fd()));
    assert!(!aio.remove_io_poll_switch(event.as_raw_fd()));
    assert!(!aio.set_io_poll_switch(event.as_raw_fd(), |_| ()));
}

#[test]
fn negative_parameters_are_refused_by_name() {
    let aio = AioContext::new().unwrap();
    let error = aio
        .set_poll_params(PollParams { grow: -1, ..PARAMS })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "poll-grow value must be in range [0, 9223372036854775807]"
    );
}

#[test]
fn a_handler_whose_io_poll_panics_is_removed() {
    let aio = AioContext::new().unwrap();
    aio.set_poll_params(PARAMS).unwrap();
    let event = Arc::new(EventNotifier::new().unwrap());
    let (seen, asked) = (Arc::clone(&event), Arc::new(AtomicUsize::new(0)));
    let question = Arc::clone(&asked);
    let poll = move || {
        bump(&question);
        panic!("expected by the test");
    };
    let handler = FdHandler::new()
        .on_read(move || assert!(seen.take()))
        .io_poll(poll, || ());
    aio.set_fd_handler(event.as_raw_fd(), handler).unwrap();
    event.signal();
    assert!(aio.poll(Wait::Block).unwrap());
    for _ in 0..4 {
        aio.poll(Wait::NoBlock).unwrap();
    }
    assert_eq!(count(&asked), 1);
    assert!(!aio.remove_fd_handler(event.as_raw_fd()));
}

#[test]
fn a_removed_handler_that_was_polled_is_destroyed_by_the_same_iteration_as_others() {
    let aio = AioContext::new().unwrap();
    aio.set_poll_params(PARAMS).unwrap();
    let event = Arc::new(EventNotifier::new().unwrap());
    let (seen, alive) = (Arc::clone(&event), Arc::new(()));
    let held = Arc::clone(&alive);
    let read = move || {
        let _ = &held;
        assert!(seen.take());
    };
    let handler = FdHandler::new().on_read(read).io_poll(|| false, || ());
    aio.set_fd_handler(event.as_raw_fd(), handler).unwrap();
    event.signal();
    aio.poll(Wait::Block).unwrap();
    assert!(aio.remove_fd_handler(event.as_raw_fd()));
    assert!(!aio.poll(Wait::NoBlock).unwrap());
    assert_eq!(Arc::strong_count(&alive), 1);
}
