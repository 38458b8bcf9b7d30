//! Attaching, detaching and moving: nothing is lost, and what was removed is destroyed by the right home.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{AioContext, Clock, EventNotifier, FdHandler, Reactor, Wait};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use support::aio_load::put_under_load;
use support::deadline::deadline;
use support::loops::{Count, Journal, Slot, counting_notifier, probed_handler, watched_notifier};

#[test]
fn attaching_and_detaching_loses_nothing_that_is_pending() {
    let reactor = Reactor::new().unwrap();
    let aio = AioContext::new().unwrap();
    let journal = Journal::new();
    let (notifier, reads) = watched_notifier(&aio);
    let bh = aio.bh("test", journal.noter("bh"));
    let timer = aio.timer(Clock::Realtime, journal.noter("timer"));
    let mut expected = String::new();
    for round in 1..=4 {
        bh.schedule();
        timer.arm_at_ns(0);
        notifier.signal();
        if round % 2 == 1 {
            aio.attach_to(&reactor).unwrap();
            assert!(!aio.is_same(&AioContext::new().unwrap()));
            assert!(reactor.iterate(Wait::Block).unwrap());
            assert!(!reactor.iterate(Wait::NoBlock).unwrap());
        } else {
            aio.detach().unwrap();
            assert!(!reactor.iterate(Wait::NoBlock).unwrap(), "it has left");
            assert!(aio.poll(Wait::Block).unwrap());
            assert!(!aio.poll(Wait::NoBlock).unwrap());
        }
        expected += " bh timer";
        assert_eq!(
            (journal.text(), reads.get()),
            (expected.trim().to_owned(), round)
        );
    }
}

#[test]
fn a_paused_reader_is_asked_again_after_a_move() {
    let reactor = Reactor::new().unwrap();
    let aio = AioContext::new().unwrap();
    let (notifier, reads, handler) = counting_notifier();
    let asked = Count::new();
    let question = asked.clone();
    let handler = handler.read_poll(move || question.hit() > 1);
    aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    notifier.signal();
    aio.poll(Wait::NoBlock).unwrap();
    assert_eq!((asked.get(), reads.get()), (1, 0));
    aio.attach_to(&reactor).unwrap();
    reactor.iterate(Wait::Block).unwrap();
    assert_eq!((asked.get(), reads.get()), (2, 1));
}

#[test]
fn context_attached_to_one_home_is_refused_by_another() {
    let (one, other) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let aio = AioContext::new().unwrap();
    aio.attach_to(&one).unwrap();
    aio.attach_to(&one).unwrap();
    let error = aio.attach_to(&other).unwrap_err();
    assert_eq!(error.kind(), gsource::ErrorKind::Busy);
    aio.detach().unwrap();
    aio.detach().unwrap();
    aio.attach_to(&other).unwrap();
}

/// A bottom half iterates, then moves another context: what the outer walk had left of that is the new reactor's.
#[test]
fn bottom_half_that_moves_another_context_inside_a_nested_iteration() {
    let (old, new) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let (mover, moved) = (AioContext::new().unwrap(), AioContext::new().unwrap());
    mover.attach_to(&old).unwrap();
    moved.attach_to(&old).unwrap();
    let (slot, journal) = (Slot::<AioContext>::new(), Journal::new());
    let (mine, noted, inner, target) = (
        slot.clone(),
        journal.clone(),
        Arc::downgrade(&old),
        Arc::clone(&new),
    );
    let first = mover.bh("first", move || {
        noted.note("first");
        inner.upgrade().unwrap().iterate(Wait::NoBlock).unwrap();
        mine.with(|moved| {
            moved.detach().unwrap();
            moved.attach_to(&target).unwrap();
        });
    });
    let nested = moved.bh("nested", journal.noter("nested"));
    let later = Arc::new(moved.bh("later", journal.noter("later")));
    let again = Arc::clone(&later);
    let scheduler = moved.bh("scheduler", move || again.schedule());
    first.schedule();
    nested.schedule();
    scheduler.schedule();
    slot.put(moved);
    old.iterate(Wait::NoBlock).unwrap();
    old.iterate(Wait::NoBlock).unwrap();
    assert_eq!(journal.text(), "first nested");
    new.iterate(Wait::NoBlock).unwrap();
    assert_eq!(journal.text(), "first nested later");
    drop(slot.take());
}

/// Its new home could call the same callback from another thread before the call has returned.
#[test]
fn context_does_not_move_inside_its_own_callbacks() {
    let reactor = Reactor::new().unwrap();
    let aio = AioContext::new().unwrap();
    aio.attach_to(&reactor).unwrap();
    let notifier = EventNotifier::new().unwrap();
    notifier.signal();
    let (slot, count) = (Slot::<AioContext>::new(), Count::new());
    let refused = || {
        let (mine, hit) = (slot.clone(), count.hitter());
        move || {
            let error = mine.with(|aio| aio.detach()).unwrap_err();
            assert_eq!(error.kind(), gsource::ErrorKind::Busy);
            assert!(error.to_string().contains("callback"), "{error}");
            hit();
        }
    };
    let bh = aio.bh("test", refused());
    bh.schedule();
    let timer = aio.timer(Clock::Realtime, refused());
    timer.arm_at_ns(0);
    aio.set_fd_handler(notifier.as_raw_fd(), FdHandler::new().on_read(refused()))
        .unwrap();
    slot.put(aio);
    reactor.iterate(Wait::NoBlock).unwrap();
    assert_eq!(count.get(), 3);
    slot.take().unwrap().detach().unwrap();
}

/// Threads schedule, arm and signal while the context moves to and fro between two homes.
#[test]
fn nothing_is_lost_while_a_context_moves_under_load() {
    let _deadline = deadline("nothing_is_lost_while_a_context_moves_under_load");
    let (one, other) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let aio = AioContext::new().unwrap();
    let over = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                put_under_load(&aio, 300);
                over.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        while over.load(std::sync::atomic::Ordering::SeqCst) < 3 {
            for reactor in [&one, &other] {
                aio.attach_to(reactor).unwrap();
                (0..3).for_each(|_| assert!(reactor.iterate(Wait::NoBlock).is_ok()));
                aio.detach().unwrap();
                aio.poll(Wait::NoBlock).unwrap();
            }
        }
    });
}

#[test]
fn handler_removed_before_a_move_is_destroyed_by_the_new_home() {
    let reactor = Reactor::new().unwrap();
    let aio = AioContext::new().unwrap();
    let (notifier, handler, drops) = probed_handler();
    aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    notifier.signal();
    assert!(aio.poll(Wait::Block).unwrap(), "the old reactor knows it");
    aio.remove_fd_handler(notifier.as_raw_fd());
    aio.attach_to(&reactor).unwrap();
    assert!(drops.threads().is_empty(), "not under the caller's locks");
    assert!(!reactor.iterate(Wait::NoBlock).unwrap());
    assert_eq!(drops.threads().len(), 1);
}
