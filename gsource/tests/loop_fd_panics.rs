//! Callbacks and destructors that panic.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{AioContext, EventNotifier, FdHandler, Wait};
use std::os::fd::AsRawFd;
use support::both_loops;
use support::loops::{Count, Slot, drop_probe, watched_notifier};

both_loops! {
    fn panicking_handler_is_removed_and_others_go_on(driven) {
        let (good, calls) = watched_notifier(&driven.aio);
        let (bad, (probe, drops)) = (EventNotifier::new().unwrap(), drop_probe());
        let handler = FdHandler::new().on_read(move || {
            probe.touch();
            panic!("expected by the test");
        });
        driven.aio.set_fd_handler(bad.as_raw_fd(), handler).unwrap();
        bad.signal();
        good.signal();
        driven.settle();
        assert_eq!((calls.get(), drops.threads().len()), (1, 1));
        assert!(!driven.aio.remove_fd_handler(bad.as_raw_fd()));
        good.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!(driven.wakeups_in(5), 0);
    }

    fn panicking_read_poll_removes_its_handler(driven) {
        let (notifier, asked, reads) = (EventNotifier::new().unwrap(), Count::new(), Count::new());
        let question = asked.clone();
        let handler = FdHandler::new().on_read(reads.hitter()).read_poll(move || {
            question.hit();
            panic!("expected by the test");
        });
        driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        notifier.signal();
        driven.settle();
        driven.aio.notify();
        driven.settle();
        assert_eq!((asked.get(), reads.get()), (1, 0));
        assert!(!driven.aio.remove_fd_handler(notifier.as_raw_fd()));
    }

    fn destructor_that_panics_hurts_nobody(driven) {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("expected by the test");
            }
        }
        let (notifier, nested, aio) = (EventNotifier::new().unwrap(), driven.nested(), Slot::new());
        aio.put(driven.aio.clone());
        let (bomb, fd) = (Bomb, notifier.as_raw_fd());
        let handler = FdHandler::new().on_read(move || {
            let _ = &bomb;
            let aio: AioContext = aio.take().unwrap();
            aio.remove_fd_handler(fd);
            drop(aio);
            nested(Wait::NoBlock);
        });
        driven.aio.set_fd_handler(fd, handler).unwrap();
        notifier.signal();
        assert!(driven.iterate(Wait::Block));
        driven.settle();
        let bomb = Bomb;
        drop(driven.aio.bh("bomb", move || {
            let _ = &bomb;
        }));
        driven.settle();
    }
}
