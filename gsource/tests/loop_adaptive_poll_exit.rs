//! Entering and leaving poll mode: no kick is lost on the way out, and no handler is kept alive or waits for longer.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{AioContext, EventNotifier, FdHandler, PollParams, Reactor, Wait};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::both_loops;
use support::deadline::deadline;
use support::loops::{Count, Slot, drop_probe};

const PARAMS: PollParams = PollParams {
    // So long that on a slow machine, too, a wait is short enough to start polling.
    max_ns: 10_000_000_000,
    grow: 0,
    shrink: 0,
};

both_loops! {
    fn handler_removed_before_its_turn_is_not_kept_by_the_polling(driven) {
        driven.aio.set_poll_params(PARAMS).unwrap();
        let (first, second) = (EventNotifier::new().unwrap(), EventNotifier::new().unwrap());
        let (remains, drops) = drop_probe();
        // Each removes the other, so the first one removes a handler that is ready.
        let other = Slot::new();
        let nested = driven.nested();
        let (aio, fds) = (driven.aio.clone(), [first.as_raw_fd(), second.as_raw_fd()]);
        let remove_other = {
            let other: Slot<AioContext> = other.clone();
            move |own: usize| {
                if let Some(aio) = other.take() {
                    assert!(aio.remove_fd_handler(fds[1 - own]));
                    drop(aio);
                    nested(Wait::NoBlock);
                }
            }
        };
        let remove_other = Arc::new(std::sync::Mutex::new(remove_other));
        let remains = Arc::new(remains);
        for (own, fd) in fds.into_iter().enumerate() {
            let (remove_other, remains) = (Arc::clone(&remove_other), Arc::clone(&remains));
            let handler = FdHandler::new()
                .edge_triggered()
                .on_read(move || {
                    remains.touch();
                    if let Ok(remove_other) = remove_other.try_lock() {
                        remove_other(own);
                    }
                })
                .io_poll(|| false, || ());
            aio.set_fd_handler(fd, handler).unwrap();
        }
        other.put(aio.clone());
        drop((remains, remove_other));
        first.signal();
        second.signal();
        driven.iterate(Wait::Block);
        for fd in fds {
            aio.remove_fd_handler(fd);
        }
        driven.settle();
        assert_eq!(drops.threads().len(), 1, "both handlers are destroyed");
    }
}

/// What a guest and its device share: posted work, and whether the guest need not signal it.
#[derive(Default)]
struct Mailbox {
    full: AtomicBool,
    silent: AtomicBool,
    served: Count,
}

impl Mailbox {
    /// A device's handler, which takes the kicks.
    fn handler(self: &Arc<Self>, kick: &Arc<EventNotifier>) -> FdHandler {
        let [read, poll, ready, switch] = [(); 4].map(|()| Arc::clone(self));
        let [taken, polled] = [(); 2].map(|()| Arc::clone(kick));
        FdHandler::new()
            .on_read(move || {
                taken.take();
                read.serve();
            })
            .io_poll(
                move || poll.full.load(Ordering::SeqCst),
                move || {
                    polled.take();
                    ready.serve();
                },
            )
            .io_poll_switch(move |polling| switch.silent.store(polling, Ordering::SeqCst))
    }

    fn serve(&self) {
        if self.full.swap(false, Ordering::SeqCst) {
            self.served.hit();
        }
    }

    /// The guest's side.
    fn post(&self, kick: &EventNotifier) {
        self.full.store(true, Ordering::SeqCst);
        if !self.silent.load(Ordering::SeqCst) {
            kick.signal();
        }
    }
}

/// A mailbox on `aio`, whose iterations leave it in poll mode.
fn polled_mailbox(aio: &AioContext) -> (Arc<Mailbox>, Arc<EventNotifier>) {
    let (mailbox, kick) = (
        Arc::<Mailbox>::default(),
        Arc::new(EventNotifier::new().unwrap()),
    );
    aio.set_fd_handler(kick.as_raw_fd(), mailbox.handler(&kick))
        .unwrap();
    mailbox.post(&kick);
    aio.poll(Wait::Block).unwrap();
    assert_eq!(mailbox.served.get(), 1, "by its fd, which enrols it");
    // A short wait teaches the loop to poll, and polling that finds work goes on.
    for _ in 0..2 {
        mailbox.post(&kick);
        aio.poll(Wait::Block).unwrap();
    }
    assert!(mailbox.silent.load(Ordering::SeqCst), "in poll mode");
    (mailbox, kick)
}

#[test]
fn kick_held_back_in_poll_mode_is_served_where_the_context_moves_to() {
    let _deadline = deadline("kick_held_back_in_poll_mode_is_served_where_the_context_moves_to");
    let reactors = [Reactor::new().unwrap(), Reactor::new().unwrap()];
    reactors[0].set_poll_params(PARAMS).unwrap();
    let aio = AioContext::new().unwrap();
    aio.attach_to(&reactors[0]).unwrap();
    let (mailbox, kick) = polled_mailbox(&aio);
    let served = mailbox.served.get();
    mailbox.post(&kick);
    aio.detach().unwrap();
    aio.attach_to(&reactors[1]).unwrap();
    assert!(!mailbox.silent.load(Ordering::SeqCst), "not polled there");
    reactors[1].iterate(Wait::NoBlock).unwrap();
    assert_eq!(mailbox.served.get(), served + 1);
}

#[test]
fn kick_held_back_by_a_nested_iteration_is_served_after_it() {
    let _deadline = deadline("kick_held_back_by_a_nested_iteration_is_served_after_it");
    let aio = AioContext::new().unwrap();
    aio.set_poll_params(PARAMS).unwrap();
    let (mailbox, kick) = polled_mailbox(&aio);
    let served = mailbox.served.get();
    let nested = {
        let (mailbox, aio) = (Arc::clone(&mailbox), aio.clone());
        move || {
            mailbox.serve();
            // The guest posts while this runs, and the iteration in here leaves poll mode.
            let post = Arc::clone(&mailbox);
            post.full.store(true, Ordering::SeqCst);
            aio.schedule_oneshot("ends the nested iteration", || ());
            aio.set_poll_params(PollParams::default()).unwrap();
            aio.poll(Wait::Block).unwrap();
            aio.notify();
            aio.poll(Wait::Block).unwrap();
        }
    };
    let [poll, switch] = [(); 2].map(|()| Arc::clone(&mailbox));
    let kick_fd = kick.as_raw_fd();
    let handler = FdHandler::new()
        .edge_triggered()
        .on_read(|| ())
        .io_poll(move || poll.full.load(Ordering::SeqCst), nested)
        .io_poll_switch(move |polling| switch.silent.store(polling, Ordering::SeqCst));
    aio.set_fd_handler(kick_fd, handler).unwrap();
    kick.signal();
    aio.poll(Wait::Block).unwrap();
    mailbox.post(&kick);
    aio.poll(Wait::Block).unwrap();
    assert!(!mailbox.silent.load(Ordering::SeqCst));
    assert_eq!(mailbox.served.get(), served + 1);
}
