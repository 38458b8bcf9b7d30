//! A model of the two words together with the remote list and the home's queue.
#![allow(unsafe_code)] // nodes are raw pointers, as for the real users

use super::{BhAction, Flags, Urgency};
use crate::list::{Link, Linked, List, Pushed};
use crate::reactor::home_queue::{Chained, HomeQueue};
use crate::sync::AtomicPtr;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use std::ptr;

struct Node {
    link: Link<Node>,
    next: AtomicPtr<Node>,
    flags: Flags,
}

// SAFETY: the field never changes place.
unsafe impl Linked for Node {
    fn link(&self) -> &Link<Node> {
        &self.link
    }
}

// SAFETY: the field never changes place.
unsafe impl Chained for Node {
    fn next(&self) -> &AtomicPtr<Node> {
        &self.next
    }
}

struct World {
    remote: List<Node>,
    queue: HomeQueue<Node>,
    node: *mut Node,
    /// What a schedule announces.
    work: AtomicUsize,
    /// What the last call saw of it.
    seen: AtomicUsize,
    /// Not loom's, whose loads may be stale.
    freed: std::sync::atomic::AtomicUsize,
}

// SAFETY: the node is shared as the real one is; `queue` is used by the home only.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl World {
    fn new() -> Arc<World> {
        let node = Node {
            link: Link::new(),
            next: AtomicPtr::new(ptr::null_mut()),
            flags: Flags::new(),
        };
        Arc::new(World {
            remote: List::new(),
            queue: HomeQueue::new(),
            node: Box::into_raw(Box::new(node)),
            work: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
            freed: std::sync::atomic::AtomicUsize::new(0),
        })
    }

    fn flags(&self) -> &Flags {
        self.assert_allocated();
        // SAFETY: the worlds do not use a node after they freed it, which `free` checks.
        &unsafe { &*self.node }.flags
    }

    fn assert_allocated(&self) {
        assert_eq!(self.freed.load(Ordering::SeqCst), 0, "used after the end");
    }

    /// Only the home frees what its queue held, so the node outlives this.
    fn release(&self) -> bool {
        let is_done = self.flags().release();
        self.assert_allocated();
        is_done
    }

    fn free(&self) {
        assert_eq!(self.freed.fetch_add(1, Ordering::SeqCst), 0, "freed twice");
    }

    fn perform(&self, action: BhAction) {
        // SAFETY: the flags have told the caller to push the node.
        if action == BhAction::Push && unsafe { self.remote.push(self.node) } == Pushed::Closed {
            if self.flags().refuse() {
                self.free();
            }
        }
    }

    fn schedule_elsewhere(&self) {
        self.work.fetch_add(1, Ordering::Relaxed);
        self.perform(self.flags().request(Urgency::Now));
    }

    fn schedule_at_home(&self) {
        if self.flags().schedule(Urgency::Now) {
            self.queue();
        }
    }

    fn queue(&self) {
        // SAFETY: the flags allow it; the caller is the home.
        unsafe { self.queue.push(self.node) };
    }

    fn turn(&self) {
        let mut taken = self.remote.take();
        while !taken.pop().is_null() {
            if self.flags().take_over() {
                self.queue();
            }
        }
        // SAFETY: the caller is the home.
        while !unsafe { self.queue.pop() }.is_null() {
            if self.flags().begin().calls {
                self.seen
                    .store(self.work.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            if self.flags().is_done() {
                self.free();
                return;
            }
        }
    }

    /// As the end of a context does it.
    fn end(&self) {
        // SAFETY: the caller is the home.
        while !unsafe { self.queue.pop() }.is_null() {
            if self.release() {
                self.free();
            }
        }
        let mut taken = self.remote.close();
        while !taken.pop().is_null() {
            if self.flags().end() {
                self.free();
            }
        }
    }
}

#[test]
fn loom_each_schedule_is_followed_by_a_call_that_sees_its_work() {
    loom::model(|| {
        let world = World::new();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.schedule_elsewhere();
                world.schedule_elsewhere();
            })
        };
        world.schedule_at_home();
        world.turn();
        other.join().unwrap();
        world.turn();
        assert_eq!(world.seen.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn loom_a_cancel_elsewhere_against_a_schedule_at_home_leaves_no_trace() {
    loom::model(|| {
        let world = World::new();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.flags().cancel();
                world.schedule_elsewhere();
            })
        };
        world.schedule_at_home();
        world.turn();
        other.join().unwrap();
        world.turn();
        assert_eq!(
            world.seen.load(Ordering::Relaxed),
            1,
            "scheduled after the cancel"
        );
        world.schedule_at_home();
        world.work.store(7, Ordering::Relaxed);
        world.turn();
        assert_eq!(
            world.seen.load(Ordering::Relaxed),
            7,
            "an old cancel has voided it"
        );
    });
}

#[test]
fn loom_a_node_deleted_elsewhere_is_freed_once() {
    loom::model(|| {
        let world = World::new();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.schedule_elsewhere();
                let duty = world.flags().delete();
                world.perform(duty);
            })
        };
        world.turn();
        other.join().unwrap();
        world.turn();
        assert_eq!(world.freed.load(Ordering::SeqCst), 1);
    });
}

/// The handle goes while the context ends, after `schedule`.
fn end_against_delete(schedule: fn(&World)) {
    loom::model(move || {
        let world = World::new();
        schedule(&world);
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let duty = world.flags().delete();
                world.perform(duty);
            })
        };
        world.end();
        other.join().unwrap();
        assert_eq!(world.freed.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn loom_a_node_deleted_while_its_context_ends_is_freed_once() {
    end_against_delete(World::schedule_at_home);
}

#[test]
fn loom_a_node_that_others_scheduled_before_its_context_ends_is_freed_once() {
    end_against_delete(World::schedule_elsewhere);
}

#[test]
fn loom_nothing_is_lost_or_resurrected_by_a_move() {
    loom::model(|| {
        let world = World::new();
        world.schedule_at_home();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.flags().cancel();
                world.schedule_elsewhere();
            })
        };
        // SAFETY: this thread is the home.
        assert!(!unsafe { world.queue.pop() }.is_null());
        if world.flags().park() {
            world.perform(BhAction::Push);
        }
        other.join().unwrap();
        world.turn();
        assert_eq!(world.seen.load(Ordering::Relaxed), 1);
        assert!(!world.flags().is_scheduled());
    });
}
