//! Handlers that are left aside: a poll of an AioContext neither calls them nor ends because of them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use gsource::{AioContext, Clock, Drivers, FdHandler, IoHandlers, Poller, Reactor, Wait};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use support::deadline::deadline;
use support::loops::{Count, counting_notifier, probed_handler, stream_pair};
use support::skip::skip_case;

const SOON_NS: i64 = 20_000_000;

/// A home with two AioContexts, one of them for iohandlers.
struct Home {
    reactor: Arc<Reactor>,
    aio: AioContext,
    iohandlers: IoHandlers,
}

/// Runs `test` with each poller.
fn with_each_poller(name: &str, test: impl Fn(&Home)) {
    let _deadline = deadline(name);
    for poller in Poller::ALL {
        match Reactor::with_poller(poller, Drivers::One) {
            Ok(reactor) => {
                let (aio, iohandlers) = (AioContext::new().unwrap(), IoHandlers::new().unwrap());
                aio.attach_to(&reactor).unwrap();
                iohandlers.aio().attach_to(&reactor).unwrap();
                let home = Home {
                    reactor,
                    aio,
                    iohandlers,
                };
                home.settle();
                test(&home);
            }
            Err(error) => skip_case(&format!("{name} ({poller})"), error),
        }
    }
}

impl Home {
    /// Consumes notifications.
    fn settle(&self) {
        while self.reactor.iterate(Wait::NoBlock).unwrap() {}
    }

    /// One blocking poll, which ends when a timer of the polled AioContext is due.
    fn poll_until_soon(&self) {
        let fired = Count::new();
        let timer = self.aio.timer(Clock::Realtime, fired.hitter());
        let due = Clock::Realtime.now_ns() + SOON_NS;
        timer.arm_at_ns(due);
        assert!(self.aio.poll(Wait::Block).unwrap());
        assert_eq!(fired.get(), 1, "it has waited on");
        assert!(Clock::Realtime.now_ns() >= due);
    }
}

#[test]
fn a_ready_iohandler_does_not_end_a_poll_and_runs_in_the_next_iteration() {
    let name = "a_ready_iohandler_does_not_end_a_poll_and_runs_in_the_next_iteration";
    with_each_poller(name, |home| {
        let (notifier, reads, handler) = counting_notifier();
        home.iohandlers
            .set_fd_handler(notifier.as_raw_fd(), handler)
            .unwrap();
        home.settle();
        notifier.signal();
        for _ in 0..3 {
            home.poll_until_soon();
        }
        assert!(!home.aio.poll(Wait::NoBlock).unwrap());
        assert_eq!(reads.get(), 0);
        assert!(home.reactor.iterate(Wait::Block).unwrap());
        assert_eq!(reads.get(), 1);
        notifier.signal();
        home.poll_until_soon();
        // A poll of its own AioContext serves it.
        assert!(home.iohandlers.aio().poll(Wait::Block).unwrap());
        assert_eq!(reads.get(), 2);
    });
}

#[test]
fn a_writer_and_an_fd_that_is_always_ready_are_left_aside_too() {
    let name = "a_writer_and_an_fd_that_is_always_ready_are_left_aside_too";
    with_each_poller(name, |home| {
        let (stream, _peer) = stream_pair();
        let file = File::open("/proc/self/exe").unwrap();
        let calls = Count::new();
        let writer = FdHandler::new().on_write(calls.hitter());
        home.iohandlers
            .set_fd_handler(stream.as_raw_fd(), writer)
            .unwrap();
        let reader = FdHandler::new().on_read(calls.hitter());
        home.iohandlers
            .set_fd_handler(file.as_raw_fd(), reader)
            .unwrap();
        while home.aio.poll(Wait::NoBlock).unwrap() {}
        home.poll_until_soon();
        assert_eq!(calls.get(), 0);
        assert!(home.reactor.iterate(Wait::Block).unwrap());
        assert!(calls.get() >= 2);
    });
}

#[test]
fn a_paused_reader_stays_paused_when_it_is_taken_back() {
    with_each_poller(
        "a_paused_reader_stays_paused_when_it_is_taken_back",
        |home| {
            let (notifier, reads, handler) = counting_notifier();
            let (asked, wants) = (Count::new(), Count::new());
            let (question, answer) = (asked.clone(), wants.clone());
            let handler = handler.read_poll(move || {
                question.hit();
                answer.get() > 0
            });
            home.iohandlers
                .set_fd_handler(notifier.as_raw_fd(), handler)
                .unwrap();
            notifier.signal();
            home.poll_until_soon();
            assert_eq!(asked.get(), 0, "it is not even asked");
            home.settle();
            let before = asked.get();
            assert!(before > 0);
            home.poll_until_soon();
            assert_eq!(reads.get(), 0);
            wants.hit();
            while reads.get() == 0 {
                home.reactor.iterate(Wait::Block).unwrap();
            }
        },
    );
}

#[test]
fn a_handler_that_is_removed_or_moves_while_it_is_put_aside_is_not_lost() {
    let name = "a_handler_that_is_removed_or_moves_while_it_is_put_aside_is_not_lost";
    with_each_poller(name, |home| {
        let (notifier, reads, handler) = counting_notifier();
        let fd = notifier.as_raw_fd();
        home.iohandlers.set_fd_handler(fd, handler).unwrap();
        notifier.signal();
        home.poll_until_soon();
        home.iohandlers.aio().detach().unwrap();
        assert!(home.iohandlers.aio().poll(Wait::Block).unwrap());
        assert_eq!(reads.get(), 1);
        home.iohandlers.aio().attach_to(&home.reactor).unwrap();
        home.settle();
        notifier.signal();
        home.poll_until_soon();
        assert!(home.iohandlers.remove_fd_handler(fd));
        home.settle();
        assert_eq!(reads.get(), 1);
    });
}

#[test]
fn a_handler_that_is_removed_while_it_is_put_aside_is_dropped_by_the_next_poll() {
    let name = "a_handler_that_is_removed_while_it_is_put_aside_is_dropped_by_the_next_poll";
    with_each_poller(name, |home| {
        let (notifier, handler, drops) = probed_handler();
        let fd = notifier.as_raw_fd();
        home.iohandlers.set_fd_handler(fd, handler).unwrap();
        notifier.signal();
        home.poll_until_soon();
        assert!(home.iohandlers.remove_fd_handler(fd));
        // A drain may last, and another thread may wait for the destructor.
        home.aio.poll(Wait::NoBlock).unwrap();
        assert_eq!(drops.threads().len(), 1);
    });
}

#[test]
fn a_poll_inside_a_callback_leaves_what_the_iteration_has_found() {
    let name = "a_poll_inside_a_callback_leaves_what_the_iteration_has_found";
    with_each_poller(name, |home| {
        let (notifier, reads, handler) = counting_notifier();
        home.iohandlers
            .set_fd_handler(notifier.as_raw_fd(), handler)
            .unwrap();
        let (aio, seen, nested) = (home.aio.clone(), reads.clone(), Count::new());
        let done = nested.clone();
        home.aio.schedule_oneshot("drain", move || {
            aio.schedule_oneshot("inner", done.hitter());
            while done.get() == 0 {
                aio.poll(Wait::Block).unwrap();
            }
            assert_eq!(seen.get(), 0);
        });
        notifier.signal();
        home.reactor.iterate(Wait::Block).unwrap();
        assert_eq!(nested.get(), 1);
        while reads.get() == 0 {
            home.reactor.iterate(Wait::Block).unwrap();
        }
        assert_eq!(reads.get(), 1);
    });
}

#[test]
fn a_notification_ends_a_poll_that_has_put_a_handler_aside() {
    let name = "a_notification_ends_a_poll_that_has_put_a_handler_aside";
    with_each_poller(name, |home| {
        let (notifier, reads, handler) = counting_notifier();
        home.iohandlers
            .set_fd_handler(notifier.as_raw_fd(), handler)
            .unwrap();
        home.settle();
        let (aio, tid) = (home.aio.clone(), support::thread::gettid());
        notifier.signal();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                support::thread::wait_asleep(tid);
                aio.notify();
            });
            assert!(!home.aio.poll(Wait::Block).unwrap());
        });
        assert_eq!(reads.get(), 0);
    });
}
