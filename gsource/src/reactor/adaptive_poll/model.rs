//! The way out of poll mode into sleep, modelled with what races against it: a guest that posts work and kicks only while
//! notifications are on, and a thread that schedules a bottom half.
#![forbid(unsafe_code)]

use super::leave_poll_mode;
use crate::reactor::notify::NotifyState;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering, fence};
use loom::thread;

struct World {
    /// The guest's work, and its word that a kick is not wanted: a virtqueue's index and its suppression flag.
    posted: AtomicBool,
    silent: AtomicBool,
    /// The kick fd is readable.
    kicked: AtomicBool,
    /// A bottom half waits; its notification is a write of the wake-up fd.
    scheduled: AtomicBool,
    state: NotifyState,
    written: AtomicBool,
}

impl World {
    /// In poll mode.
    fn new() -> Arc<World> {
        Arc::new(World {
            posted: AtomicBool::new(false),
            silent: AtomicBool::new(true),
            kicked: AtomicBool::new(false),
            scheduled: AtomicBool::new(false),
            state: NotifyState::new(),
            written: AtomicBool::new(false),
        })
    }

    /// The guest's side, as virtio prescribes it: the work, a barrier, the flag.
    fn post(&self) {
        self.posted.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !self.silent.load(Ordering::Relaxed) {
            self.kicked.store(true, Ordering::SeqCst);
        }
    }

    fn schedule(&self) {
        self.scheduled.store(true, Ordering::Relaxed);
        if self.state.notify() {
            self.written.store(true, Ordering::SeqCst);
        }
    }

    /// `io_poll_switch(false)`, as virtio's devices have it: the flag, a barrier.
    fn notifications_on(&self) {
        self.silent.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn ask(&self) -> bool {
        self.posted.load(Ordering::Relaxed)
    }
}

/// The home polls once in vain, leaves with `leave`, and sleeps if it may. Whatever it has not seen then wakes it.
fn check(leave: fn(&World) -> bool) {
    loom::model(move || {
        let world = World::new();
        let guest = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.post())
        };
        let scheduler = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.schedule())
        };
        let found = world.ask() || world.state.is_notified() || leave(&world);
        let sleeps = !found && world.state.sleep();
        let sees_bh = world.scheduled.load(Ordering::Relaxed);
        guest.join().unwrap();
        scheduler.join().unwrap();
        if sleeps {
            assert!(world.kicked.load(Ordering::SeqCst), "a kick was lost");
            let woken = sees_bh || world.written.load(Ordering::SeqCst);
            assert!(woken, "a bottom half was lost");
        }
    });
}

#[test]
fn loom_leaving_poll_mode_loses_no_kick() {
    check(|world| leave_poll_mode(|| world.notifications_on(), || world.ask()));
}

/// The model sees what the order is for.
#[test]
#[should_panic(expected = "a kick was lost")]
fn loom_asking_before_notifications_are_on_loses_a_kick() {
    check(|world| {
        let found = world.ask();
        world.notifications_on();
        found
    });
}
