//! The sleep/notify handshake: one word that decides who must write the wake-up fd.
//!
//! A notifier publishes its work first, then calls [`NotifyState::notify`]; the home calls [`NotifyState::sleep`] before it
//! looks a last time and blocks. Both are read-modify-write operations on one word, so they have one order: either the home
//! sees the notification and does not block, or the notifier sees the sleeper and wakes it. Only the first notifier of a
//! sleep sees it, so a sleep costs at most one write.
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

    /// True while the home is about to block or blocks, and nobody has notified.
    #[inline]
    pub(crate) fn is_sleeping(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SLEEPING
    }

    /// True when somebody has notified since the last accept.
    pub(crate) fn is_notified(&self) -> bool {
        self.0.load(Ordering::Acquire) & NOTIFIED != 0
    }

    /// Ends a sleep without leaving a notification behind for one that is awake: for a change that the home looks for after
    /// it has announced its sleep. True when the caller must write the wake-up fd.
    #[must_use]
    pub(crate) fn rouse(&self) -> bool {
        // A read-modify-write also where it changes nothing: that gives it a place in the order of the word, so a home that
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

    /// Announces that the home is about to block; false when it must not, because somebody has notified.
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

    /// Two notifiers publish work, the home tries to sleep once: it may only block when a write is coming for whatever it
    /// has not seen.
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
                assert_eq!(writes, 1, "blocked with unseen work and nobody writes");
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
