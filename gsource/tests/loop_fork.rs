//! A child process has copies of its parent's contexts, which it cannot use, and makes its own. Alone in its process, because it forks.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unsafe_code)] // fork(2)

use gsource::{AioContext, ErrorKind, EventNotifier, FdHandler, Poller, Wait};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use support::loops::{Count, Driven, Loop, run, watched_notifier};

/// Runs `work` in a child process, which has to succeed.
fn in_child(work: impl FnOnce()) {
    // SAFETY: the child runs `work` only, and leaves without destructors.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let failed = catch_unwind(AssertUnwindSafe(work)).is_err();
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(failed)) };
    }
    let mut status = -1;
    // SAFETY: our child, and a valid place.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child has failed");
}

fn a_child_takes_no_handler_away(driven: &Driven) {
    let (notifier, count) = watched_notifier(&driven.aio);
    driven.settle();
    in_child(|| {
        driven.aio.remove_fd_handler(notifier.as_raw_fd());
    });
    notifier.signal();
    driven.settle();
    assert_eq!(count.get(), 1);
    assert!(driven.aio.remove_fd_handler(notifier.as_raw_fd()));
}

fn a_child_takes_no_event_away(driven: &Driven) {
    let (notifier, count) = watched_notifier(&driven.aio);
    let bh = driven.aio.bh("test", count.hitter());
    driven.settle();
    notifier.signal();
    bh.schedule();
    in_child(|| {
        let error = driven.aio.poll(Wait::NoBlock).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongThread);
        assert!(error.to_string().contains("fork"), "{error}");
        if driven.is_glib() {
            assert!(!driven.iterate(Wait::NoBlock));
        }
        assert_eq!(count.get(), 0);
    });
    driven.settle();
    assert_eq!(count.get(), 2);
}

fn a_child_adds_no_handler(driven: &Driven) {
    let notifier = EventNotifier::new().unwrap();
    in_child(|| {
        let handler = FdHandler::new().on_read(|| ());
        let added = driven.aio.set_fd_handler(notifier.as_raw_fd(), handler);
        // With poll(2) the set is memory, so the child's is its own.
        assert_eq!(added.is_err(), driven.poller != Poller::Poll, "{added:?}");
    });
    driven.settle();
    assert!(!driven.aio.remove_fd_handler(notifier.as_raw_fd()));
}

/// The child returns from the callback, and its loop ends there.
fn a_fork_inside_a_callback_leaves_the_context_to_the_parent(driven: &Driven) {
    let (done, aio) = (Count::new(), driven.aio.clone());
    let hit = done.hitter();
    driven.aio.schedule_oneshot("forks", move || {
        in_child(|| {
            assert!(!aio.is_home());
            assert_eq!(
                aio.poll(Wait::NoBlock).unwrap_err().kind(),
                ErrorKind::WrongThread
            );
        });
        assert!(aio.is_home());
        hit();
    });
    driven.settle();
    assert_eq!(done.get(), 1);
}

fn a_child_has_contexts_of_its_own(_: &Driven) {
    in_child(|| {
        let aio = AioContext::new().unwrap();
        let notifier = Arc::new(EventNotifier::new().unwrap());
        let (count, taken) = (Count::new(), Arc::clone(&notifier));
        let hit = count.hitter();
        let handler = FdHandler::new().on_read(move || {
            taken.take();
            hit();
        });
        aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        notifier.signal();
        assert!(aio.poll(Wait::Block).unwrap());
        assert_eq!(count.get(), 1);
        // And so on.
        in_child(|| assert!(aio.poll(Wait::NoBlock).is_err()));
        assert!(aio.remove_fd_handler(notifier.as_raw_fd()));
    });
}

#[test]
fn what_was_made_before_a_fork_belongs_to_the_parent() {
    for kind in [Loop::Own, Loop::Glib] {
        for poller in Poller::ALL {
            run(kind, poller, "after a fork", |driven| {
                a_child_takes_no_handler_away(driven);
                a_child_takes_no_event_away(driven);
                a_child_adds_no_handler(driven);
                a_fork_inside_a_callback_leaves_the_context_to_the_parent(driven);
                a_child_has_contexts_of_its_own(driven);
            });
        }
    }
}
