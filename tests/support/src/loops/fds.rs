//! Fds for handlers: notifiers with handlers that count, connected sockets, numbers that are used again.
#![allow(unsafe_code)] // dup3(2)

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use gsource::{AioContext, EventNotifier, FdHandler};

use super::{Count, Drops, drop_probe};

/// A notifier and the handler that takes its signal and counts.
pub fn counting_notifier() -> (Arc<EventNotifier>, Count, FdHandler) {
    let (notifier, count) = (Arc::new(EventNotifier::new().unwrap()), Count::new());
    let (taken, hit) = (Arc::clone(&notifier), count.clone());
    let handler = FdHandler::new().on_read(move || {
        if taken.take() {
            hit.hit();
        }
    });
    (notifier, count, handler)
}

/// A counting notifier that `aio` watches.
pub fn watched_notifier(aio: &AioContext) -> (Arc<EventNotifier>, Count) {
    let (notifier, count, handler) = counting_notifier();
    aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    (notifier, count)
}

/// A handler whose drop is observed.
pub fn probed_handler() -> (Arc<EventNotifier>, FdHandler, Drops) {
    let (notifier, (probe, drops)) = (Arc::new(EventNotifier::new().unwrap()), drop_probe());
    let taken = Arc::clone(&notifier);
    let handler = FdHandler::new().on_read(move || {
        probe.touch();
        taken.take();
    });
    (notifier, handler, drops)
}

/// Two connected sockets that do not block.
pub fn stream_pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

/// Closes `number` and opens `file` under it, in one step so that no other test can get the number.
pub fn reuse_number(number: RawFd, file: &impl AsRawFd) {
    // SAFETY: the caller owns the number; dup3 takes no pointers.
    let answer = unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) };
    assert_eq!(answer, number);
}
