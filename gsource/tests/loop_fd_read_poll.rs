//! Readers that are asked whether they want to read.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{FdHandler, Wait};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use support::both_loops;
use support::loops::{Count, counting_notifier, drop_probe, stream_pair};

both_loops! {
    fn read_poll_pauses_and_resumes_reading(driven) {
        let (notifier, reads, handler) = counting_notifier();
        let (may_read, asked) = (Arc::new(AtomicBool::new(false)), Count::new());
        let (answer, question) = (Arc::clone(&may_read), asked.clone());
        let handler = handler.read_poll(move || {
            question.hit();
            answer.load(Ordering::SeqCst)
        });
        driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        notifier.signal();
        driven.settle();
        assert_eq!(reads.get(), 0);
        assert!(asked.get() > 0);
        assert_eq!(driven.wakeups_in(20), 0, "a paused reader does not spin");
        may_read.store(true, Ordering::SeqCst);
        driven.aio.notify();
        driven.until(|| reads.get() == 1);
        notifier.signal();
        assert!(driven.iterate(Wait::Block));
        assert_eq!(reads.get(), 2);
    }

    fn paused_reader_goes_on_writing(driven) {
        let (near, mut far) = stream_pair();
        far.write_all(b"x").unwrap();
        let (reads, writes) = (Count::new(), Count::new());
        let handler = FdHandler::new()
            .on_read(reads.hitter())
            .on_write(writes.hitter())
            .read_poll(|| false);
        driven.aio.set_fd_handler(near.as_raw_fd(), handler).unwrap();
        for _ in 0..3 {
            assert!(driven.iterate(Wait::Block));
        }
        assert_eq!((reads.get(), writes.get()), (0, 3));
        driven.aio.remove_fd_handler(near.as_raw_fd());
    }

    fn paused_reader_that_is_removed_is_destroyed_and_asked_no_more(driven) {
        let (notifier, reads, handler) = counting_notifier();
        let (asked, (probe, drops)) = (Count::new(), drop_probe());
        let question = asked.clone();
        let handler = handler.read_poll(move || {
            probe.touch();
            question.hit();
            false
        });
        driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        notifier.signal();
        driven.settle();
        driven.aio.remove_fd_handler(notifier.as_raw_fd());
        let before = asked.get();
        driven.settle();
        driven.wakeups_in(1);
        assert_eq!((asked.get(), reads.get()), (before, 0));
        assert_eq!(drops.threads().len(), 1);
    }

    // Hazards 3 and 10 of docs/predecessor-hazards.md: read_poll called with the list's lock held.
    fn read_poll_may_wait_for_another_thread_that_registers(driven) {
        let (notifier, reads, handler) = counting_notifier();
        let (other, _, _) = counting_notifier();
        let other_fd = other.as_raw_fd();
        let aio = Mutex::new(Some(driven.aio.clone()));
        let handler = handler.read_poll(move || {
            let first = aio.lock().unwrap().take();
            if let Some(aio) = first {
                let register = move || {
                    aio.set_fd_handler(other_fd, FdHandler::new().on_read(|| ())).unwrap();
                    assert!(aio.remove_fd_handler(other_fd));
                };
                std::thread::spawn(register).join().unwrap();
            }
            true
        });
        driven.aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        notifier.signal();
        driven.until(|| reads.get() == 1);
    }

    fn always_ready_fd_with_a_paused_reader_does_not_spin(driven) {
        let file = std::fs::File::open("/dev/null").unwrap();
        let reads = Count::new();
        let handler = FdHandler::new().on_read(reads.hitter()).read_poll(|| false);
        driven.aio.set_fd_handler(file.as_raw_fd(), handler).unwrap();
        driven.settle();
        assert_eq!(driven.wakeups_in(10), 0);
        assert_eq!(reads.get(), 0);
        driven.aio.remove_fd_handler(file.as_raw_fd());
    }
}
