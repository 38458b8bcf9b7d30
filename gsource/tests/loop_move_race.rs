//! Handlers that come and go on one thread while their context moves on another.
#![deny(unsafe_code)]

use gsource::{AioContext, EventNotifier, FdHandler, Reactor, Wait};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Counts the destructors of callbacks.
struct Drops(Arc<AtomicUsize>);

impl Drop for Drops {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_handler_removed_while_its_context_moves_leaves_every_reactor() {
    const ROUNDS: usize = 3_000;
    let aio = AioContext::new().unwrap();
    let reactors = [Reactor::new().unwrap(), Reactor::new().unwrap()];
    let event = Arc::new(EventNotifier::new().unwrap());
    event.signal();
    let dropped = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let registering = {
        let (aio, event, dropped, done) = (
            aio.clone(),
            Arc::clone(&event),
            Arc::clone(&dropped),
            Arc::clone(&done),
        );
        std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                let drops = Drops(Arc::clone(&dropped));
                let handler = FdHandler::new()
                    .on_read(move || assert!(drops.0.load(Ordering::SeqCst) <= ROUNDS));
                aio.set_fd_handler(event.as_raw_fd(), handler).unwrap();
                assert!(aio.remove_fd_handler(event.as_raw_fd()));
            }
            done.store(true, Ordering::SeqCst);
        })
    };
    let mut turn = 0;
    while !done.load(Ordering::SeqCst) {
        let reactor = &reactors[turn % 2];
        aio.attach_to(reactor).unwrap();
        reactor.iterate(Wait::NoBlock).unwrap();
        aio.detach().unwrap();
        aio.poll(Wait::NoBlock).unwrap();
        turn += 1;
    }
    registering.join().unwrap();
    for reactor in &reactors {
        reactor.iterate(Wait::NoBlock).unwrap();
        assert!(
            !reactor.iterate(Wait::NoBlock).unwrap(),
            "nothing is left to be ready"
        );
    }
    aio.poll(Wait::NoBlock).unwrap();
    assert!(!aio.poll(Wait::NoBlock).unwrap());
    assert_eq!(dropped.load(Ordering::SeqCst), ROUNDS);
}
