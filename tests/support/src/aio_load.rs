//! Events of every kind for an AioContext, from another thread: none may be lost, whatever happens to the AioContext meanwhile.
#![forbid(unsafe_code)]

use gsource::{AioContext, Clock, EventNotifier, FdHandler};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Schedules, arms and signals `rounds` times, and waits for all three each time.
pub fn put_under_load(aio: &AioContext, rounds: usize) {
    let (send, receive) = channel();
    let (from_bh, from_timer) = (send.clone(), send.clone());
    let bh = aio.bh("test", move || from_bh.send(()).unwrap());
    let timer = aio.timer(Clock::Realtime, move || from_timer.send(()).unwrap());
    let notifier = Arc::new(EventNotifier::new().unwrap());
    let taken = Arc::clone(&notifier);
    let handler = FdHandler::new().on_read(move || {
        if taken.take() {
            send.send(()).unwrap();
        }
    });
    aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    for _ in 0..rounds {
        bh.schedule();
        timer.arm_in_ns(1000);
        notifier.signal();
        (0..3).for_each(|_| receive.recv().unwrap());
    }
    aio.remove_fd_handler(notifier.as_raw_fd());
}
