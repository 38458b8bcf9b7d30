//! The flag of a node that says whether it is on a list, and so which thread pushes it.
//!
//! A producer publishes its work, then calls [`Queued::win`], and pushes the node if it won. The consumer takes the node, calls
//! [`Queued::release`], then looks for the work. Both are read-modify-write operations on one word, so they have one order:
//! either the producer comes first and the consumer sees its work, or the producer wins and pushes the node again.
#![deny(unsafe_code)]

use crate::sync::{AtomicBool, Ordering};

/// See the module.
pub(crate) struct Queued(AtomicBool);

impl Queued {
    pub(crate) fn new() -> Self {
        Queued(AtomicBool::new(false))
    }

    /// True when the caller has to push the node.
    #[must_use]
    pub(crate) fn win(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The node was taken; what was published before a lost `win` is visible from here on.
    pub(crate) fn release(&self) {
        // A plain store could still be on its way while the look that follows finds nothing.
        self.0.swap(false, Ordering::AcqRel);
    }
}

#[cfg(all(test, loom))]
#[allow(unsafe_code)] // pushes raw nodes
mod model {
    use super::Queued;
    use crate::list::{Link, Linked, List, Pushed, Taken};
    use crate::reactor::notify::NotifyState;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    struct Node(Link<Node>);

    // SAFETY: the field never changes place.
    unsafe impl Linked for Node {
        fn link(&self) -> &Link<Node> {
            &self.0
        }
    }

    /// What a bottom half goes through: its context's list, the context's flag and place on the reactor's list, the
    /// handshake with the sleeper.
    struct World {
        bhs: List<Node>,
        queued: Queued,
        ready: List<Node>,
        context: Node,
        state: NotifyState,
        writes: AtomicUsize,
    }

    impl World {
        fn new() -> Arc<World> {
            Arc::new(World {
                bhs: List::new(),
                queued: Queued::new(),
                ready: List::new(),
                context: Node(Link::new()),
                state: NotifyState::new(),
                writes: AtomicUsize::new(0),
            })
        }

        fn schedule(&self, urgent: bool) {
            let node = Box::into_raw(Box::new(Node(Link::new())));
            // SAFETY: a fresh node is queued nowhere.
            if unsafe { self.bhs.push(node) } != Pushed::First {
                return;
            }
            self.kick(urgent);
        }

        /// Puts the context on the reactor's list and wakes the home: after the first of a batch of bottom halves, or because
        /// one that is queued already has changed.
        fn kick(&self, urgent: bool) {
            if self.queued.win() {
                let context = std::ptr::from_ref(&self.context).cast_mut();
                // SAFETY: this call has won the flag, and the world outlives the list.
                unsafe { self.ready.push(context) };
            }
            let write = if urgent {
                self.state.notify()
            } else {
                self.state.wake_if_sleeping()
            };
            if write {
                self.writes.fetch_add(1, Ordering::SeqCst);
            }
        }

        /// Takes what is scheduled; how many there were.
        fn take(&self) -> usize {
            let mut contexts = self.ready.take();
            let mut taken = 0;
            while !contexts.pop().is_null() {
                self.queued.release();
                taken += count(self.bhs.take());
            }
            taken
        }
    }

    fn count(mut nodes: Taken<Node>) -> usize {
        let mut count = 0;
        loop {
            let node = nodes.pop();
            if node.is_null() {
                return count;
            }
            // SAFETY: a taken node is ours.
            drop(unsafe { Box::from_raw(node) });
            count += 1;
        }
    }

    /// Two others act; the home makes a turn and goes to sleep. Whatever it has not run by then comes with a write of the
    /// wake-up fd, and the turn after that wake-up runs it.
    fn check(total: usize, others: [fn(&World); 2]) {
        loom::model(move || {
            let world = World::new();
            let others: Vec<_> = others
                .map(|act| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || act(&world))
                })
                .into();
            world.state.accept();
            let mut ran = world.take();
            let slept = world.state.sleep();
            ran += world.take();
            for other in others {
                other.join().unwrap();
            }
            if slept && ran < total {
                assert_eq!(
                    world.writes.load(Ordering::SeqCst),
                    1,
                    "asleep with work and no wake-up"
                );
            }
            world.state.accept();
            ran += world.take();
            assert_eq!(ran, total, "a bottom half was lost");
        });
    }

    #[test]
    fn loom_scheduled_bottom_halves_are_always_run() {
        check(
            2,
            [|world| world.schedule(true), |world| world.schedule(false)],
        );
    }

    #[test]
    fn loom_a_kick_without_work_hides_none() {
        check(1, [|world| world.schedule(true), |world| world.kick(true)]);
    }
}
