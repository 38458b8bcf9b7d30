//! The handshake of sleep and notification: one word that decides which notifier writes the wake-up fd.
//!
//! A notifier publishes its work, then calls [`NotifyState::notify`]. The home calls [`NotifyState::sleep`], then looks a last
//! time and blocks. Both are read-modify-write operations on one word, so they have one order: either the home sees the
//! notification and does not block, or the notifier sees the sleeper and wakes it. Only the first notifier of a sleep sees the
//! sleeper, so a sleep costs at most one write.
#![forbid(unsafe_code)]

use crate::sync::{AtomicU32, Ordering};

const NOTIFIED: u32 = 1;
const SLEEPING: u32 = 2;

/// The word. Any thread notifies, only the home sleeps and accepts.
pub(crate) struct NotifyState(AtomicU32);

impl NotifyState {
    pub(crate) fn new() -> Self {
        NotifyState(AtomicU32::new(0))
    }

    /// Announces published work; true when the caller must write the wake-up fd.
    #[must_use]
    pub(crate) fn notify(&self) -> bool {
        self.0.fetch_or(NOTIFIED, Ordering::AcqRel) == SLEEPING
    }

    /// True while the home is about to block or blocks, and was not notified.
    #[inline]
    pub(crate) fn is_sleeping(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SLEEPING
    }

    /// True when there was a notification since the last accept.
    pub(crate) fn is_notified(&self) -> bool {
        self.0.load(Ordering::Acquire) & NOTIFIED != 0
    }

    /// Ends a sleep, but leaves no notification for a home that is awake. For changes that the home looks for after it has
    /// announced its sleep. True when the caller must write the wake-up fd.
    #[must_use]
    pub(crate) fn wake_if_sleeping(&self) -> bool {
        // A read-modify-write operation even if it changes nothing: it has a place in the order of the word, so a home that
        // sleeps later sees what was published before.
        self.0.fetch_or(0, Ordering::AcqRel) == SLEEPING
            && self
                .0
                .compare_exchange(
                    SLEEPING,
                    SLEEPING | NOTIFIED,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .is_ok()
    }

    /// Announces that the home is about to block. False when it must not, because there was a notification.
    #[must_use]
    pub(crate) fn sleep(&self) -> bool {
        match self
            .0
            .compare_exchange(0, SLEEPING, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => true,
            Err(seen) => seen == SLEEPING,
        }
    }

    /// Consumes notifications and ends the sleep; true when there was a notification.
    pub(crate) fn accept(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0 && self.0.swap(0, Ordering::AcqRel) & NOTIFIED != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::NotifyState;

    #[test]
    fn only_the_first_notifier_of_a_sleep_writes() {
        let state = NotifyState::new();
        assert!(state.sleep());
        assert!(state.notify());
        assert!(!state.notify());
        assert!(state.accept());
        assert!(!state.accept());
    }

    #[test]
    fn a_notification_while_awake_forbids_the_next_sleep_once() {
        let state = NotifyState::new();
        assert!(!state.notify());
        assert!(!state.sleep());
        assert!(state.accept());
        assert!(state.sleep());
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::NotifyState;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use loom::thread;

    struct World {
        state: NotifyState,
        work: [AtomicBool; 2],
        writes: AtomicUsize,
    }

    /// Two notifiers publish work, the home tries to sleep once: it may block only if a write
    /// follows for what it has not seen.
    #[test]
    fn loom_a_sleeper_never_misses_work() {
        loom::model(|| {
            let world = Arc::new(World {
                state: NotifyState::new(),
                work: [AtomicBool::new(false), AtomicBool::new(false)],
                writes: AtomicUsize::new(0),
            });
            let notifiers: Vec<_> = (0..2)
                .map(|index: usize| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || {
                        world.work[index].store(true, Ordering::Relaxed);
                        if world.state.notify() {
                            world.writes.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            let seen = |world: &World| {
                world
                    .work
                    .iter()
                    .filter(|w| w.load(Ordering::Relaxed))
                    .count()
            };
            let slept = world.state.sleep();
            let seen_before = seen(&world);
            for notifier in notifiers {
                notifier.join().unwrap();
            }
            let writes = world.writes.load(Ordering::SeqCst);
            assert!(writes <= 1, "one write per sleep");
            if slept && seen_before < 2 {
                assert_eq!(writes, 1, "blocked with unseen work and without a write");
            }
            assert!(world.state.accept());
            assert_eq!(
                seen(&world),
                2,
                "work published before a notification is seen after accept"
            );
        });
    }
}
