//! An fd that is closed under its handler, with poll(2), which knows numbers only. Alone in its process, so that no other test
//! opens the number again.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![deny(unsafe_code)]

use gsource::{EventNotifier, FdHandler, Poller, Wait};
use std::os::fd::AsRawFd;
use support::loops::{Count, Driven, Loop, run};

fn closed_number_is_told_of_and_watched_no_more(driven: &Driven) {
    let notifier = EventNotifier::new().unwrap();
    let (calls, number) = (Count::new(), notifier.as_raw_fd());
    let handler = FdHandler::new().on_read(calls.hitter());
    driven.aio.set_fd_handler(number, handler).unwrap();
    driven.settle();
    notifier.signal();
    drop(notifier);
    driven.settle();
    assert_eq!(driven.wakeups_in(10), 0, "it does not spin");
    assert_eq!(calls.get(), 0);
    assert!(driven.aio.remove_fd_handler(number));
}

fn paused_number_that_is_closed_is_no_trouble(driven: &Driven) {
    let notifier = EventNotifier::new().unwrap();
    notifier.signal();
    let number = notifier.as_raw_fd();
    let handler = FdHandler::new().on_read(|| ()).read_poll(|| false);
    driven.aio.set_fd_handler(number, handler).unwrap();
    driven.settle();
    drop(notifier);
    assert_eq!(driven.wakeups_in(5), 0);
    assert!(driven.aio.remove_fd_handler(number));
    assert!(!driven.iterate(Wait::NoBlock));
}

fn number_that_is_open_again_is_watched_when_it_is_set_again(driven: &Driven) {
    let old = EventNotifier::new().unwrap();
    let (calls, number) = (Count::new(), old.as_raw_fd());
    let set = || {
        let handler = FdHandler::new().on_read(calls.hitter());
        driven.aio.set_fd_handler(number, handler)
    };
    set().unwrap();
    drop(old);
    driven.settle();
    assert_eq!(set().unwrap_err().raw_os_error(), Some(libc::EBADF));
    let new = EventNotifier::new().unwrap();
    assert_eq!(new.as_raw_fd(), number, "the lowest number is used again");
    new.signal();
    set().unwrap();
    driven.until(|| calls.get() == 1);
    assert!(driven.aio.remove_fd_handler(number));
}

#[test]
fn closed_numbers_do_not_spin_and_do_not_call() {
    for kind in [Loop::Own, Loop::Glib] {
        run(kind, Poller::Poll, "closed numbers", |driven| {
            closed_number_is_told_of_and_watched_no_more(driven);
            paused_number_that_is_closed_is_no_trouble(driven);
            number_that_is_open_again_is_watched_when_it_is_set_again(driven);
        });
    }
}
