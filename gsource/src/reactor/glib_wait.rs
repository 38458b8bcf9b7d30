//! A reactor that GLib iterates: who waits, and the three steps of its GSource.
//!
//! GLib polls the epoll set, or with the poll poller the fds themselves. The source's steps hold the right to drive, each for
//! itself. Between prepare and check GLib sleeps without it, so another thread may drive meanwhile: it may then end the sleep
//! that prepare has announced, and take a wake-up, a timer's event or a notification. Therefore it wakes GLib when it leaves,
//! and GLib prepares anew.
//!
//! # io_uring
//! A ring that waits for the set would take events that GLib is to see, so that request is withdrawn while GLib waits. The
//! ring's own fd tells GLib of completions. It joins the set only then: were it in the set that the ring waits for, each
//! completion would cause the next. The fd of a ring with DEFER_TASKRUN is silent until its thread enters the ring. While
//! requests are in flight there, GLib looks each millisecond.
#![forbid(unsafe_code)]

use super::driving::thread_token;
use super::fd_table::RING;
use super::wait_method::WaitMethod;
use super::{Driving, Reactor, report};
use crate::Error;
use crate::sync::{AtomicUsize, Ordering, lock};
use std::os::fd::RawFd;

/// Poll interval for completions that cannot wake GLib.
const SILENT_IO_MS: i32 = 1;
/// An idle bottom half waits no longer.
const IDLE_BH_MS: i32 = 10;

/// Who waits for the events of a reactor. `Glib` may stay when the home waits again, if it does not wait in a ring: nothing
/// depends on it then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Waiter {
    /// The driving thread, by the reactor's own wait.
    #[default]
    Home,
    /// The driving thread as well. It asks GLib just now what GLib's other sources want, and the reactor's source is silent.
    HomeAskingGlib,
    /// GLib.
    Glib {
        /// The epoll set was looked at since the last prepare.
        has_looked: bool,
    },
}

/// What other threads must know of the thread that iterates the reactor's source.
#[derive(Default)]
pub(super) struct GlibThread {
    /// Its token; 0 without a source. [`ASLEEP`] is added from a prepare that found nothing ready to the next check.
    word: AtomicUsize,
    /// Counts the prepares that were not part of [`Driving::ask_glib`].
    turns: AtomicUsize,
    /// Counts the notifications that the source's steps have taken.
    notifications: AtomicUsize,
}

const ASLEEP: usize = 1;

impl GlibThread {
    /// The calling thread iterates the source, and is awake.
    fn is_here(&self) {
        self.word.store(thread_token(), Ordering::Relaxed);
    }

    /// The calling thread's GLib may sleep from now on. True when another thread's does so already.
    pub(super) fn fall_asleep(&self) -> bool {
        let me = thread_token() | ASLEEP;
        let before = self.word.swap(me, Ordering::SeqCst);
        before & ASLEEP != 0 && before != me
    }

    /// True when GLib may be asleep, without the right to drive.
    #[inline]
    pub(super) fn is_asleep(&self) -> bool {
        self.word.load(Ordering::SeqCst) & ASLEEP != 0
    }

    /// True when another thread iterates the source. While GLib sleeps there, no thread drives.
    pub(super) fn is_elsewhere(&self) -> bool {
        let there = self.word.load(Ordering::Relaxed) & !ASLEEP;
        there != 0 && there != thread_token()
    }

    fn forget(&self) {
        self.word.store(0, Ordering::SeqCst);
    }

    fn count_turn(&self) {
        increment(&self.turns);
    }
}

/// Adds one, on the thread that drives.
fn increment(count: &AtomicUsize) {
    let before = count.load(Ordering::Relaxed);
    count.store(before.wrapping_add(1), Ordering::Relaxed);
}

/// What the source's prepare found.
enum Prepared {
    /// The home waits by itself.
    Silent,
    Ready,
    /// The milliseconds that GLib may sleep; -1 is for ever.
    Sleep(i32),
}

impl Reactor {
    /// The source's prepare: the milliseconds that GLib may sleep, or `None` when there is something to dispatch. `show` may
    /// change the fds that GLib polls.
    pub(crate) fn prepare(&self, show: impl FnOnce(&Driving<'_>)) -> Option<i32> {
        let driving = self.drive().or_else(|_| {
            // Another thread drives. It wakes GLib when it leaves, unless it has left before it could see this.
            self.glib.fall_asleep();
            self.drive()
        });
        let Ok(driving) = driving else {
            return Some(-1);
        };
        self.glib.is_here();
        let prepared = driving.prepare();
        show(&driving);
        match prepared {
            Prepared::Silent => Some(-1),
            Prepared::Ready => None,
            Prepared::Sleep(milliseconds) => {
                driving.leave_to_glib();
                Some(milliseconds)
            }
        }
    }

    /// The source's check: true when there is something to dispatch. `readable` says that GLib found an fd ready.
    pub(crate) fn check(&self, readable: bool) -> bool {
        self.drive().is_ok_and(|driving| {
            self.glib.is_here();
            driving.check(readable)
        })
    }

    /// The source's dispatch.
    pub(crate) fn dispatch(&self) {
        if let Ok(driving) = self.drive() {
            driving.dispatch();
        }
    }

    /// A source is gone. If a second GMainContext has another source of this reactor, its GLib may sleep, although steps of the
    /// gone source have ended the sleep that it had announced. The write makes it prepare anew.
    pub(crate) fn forget_glib(&self) {
        self.glib.forget();
        self.write_wake_fd();
    }

    /// Changes when GLib prepares the reactor's source outside of [`Driving::ask_glib`]. Then other code has iterated the
    /// GMainContext, and has taken the signal of GLib's own wake-up fd.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn glib_turns(&self) -> usize {
        self.glib.turns.load(Ordering::Relaxed)
    }

    /// Changes when a notification has ended an iteration of GLib.
    #[doc(hidden)] // for the C ABI
    pub fn glib_notifications(&self) -> usize {
        self.glib.notifications.load(Ordering::Relaxed)
    }

    /// Wakes GLib, which sleeps, after another thread has driven. `ring_is_out` says that the ring takes no events meanwhile.
    #[cold]
    pub(super) fn wake_glib(&self, ring_is_out: bool) {
        if ring_is_out {
            self.write_wake_fd();
        } else {
            // GLib fell asleep just now. If another thread drives by now, that thread wakes GLib.
            drop(self.drive());
        }
    }
}

impl Driving<'_> {
    fn prepare(&self) -> Prepared {
        let state = &self.reactor.state;
        if self.home().waiter == Waiter::HomeAskingGlib {
            return Prepared::Silent;
        }
        self.reactor.glib.count_turn();
        self.stop_polling();
        self.ask_paused();
        self.drop_released();
        self.hand_wait_to_glib();
        self.home().waiter = Waiter::Glib { has_looked: false };
        self.submit_io();
        let is_notified = self.accept_for_glib() || !state.sleep();
        self.collect_ready();
        // What the destructors of deleted bottom halves schedule is to be called, too.
        let is_freed = |in_call| in_call || self.has_calls();
        if self.has_calls() || self.free_deleted_bhs().is_some_and(is_freed) {
            return Prepared::Ready;
        }
        let remaining = self.reactor.remaining_ns();
        if remaining == Some(0) || self.reactor.has_always_ready() {
            return Prepared::Ready;
        }
        // notify() ends a blocking iteration, but is nothing to dispatch. Neither is what destructors have released just now.
        if is_notified || self.reactor.has_releases() {
            return Prepared::Sleep(0);
        }
        self.arm_timer_fd(remaining);
        if self.has_silent_io() {
            return Prepared::Sleep(SILENT_IO_MS);
        }
        Prepared::Sleep(if self.has_scheduled_bh() {
            IDLE_BH_MS
        } else {
            -1
        })
    }

    fn check(&self, readable: bool) -> bool {
        if self.home().waiter == Waiter::HomeAskingGlib {
            return false;
        }
        // The steps of a second GMainContext may have ended the announced sleep, so that a thread kept the wait.
        self.hand_wait_to_glib();
        if readable && self.home().batch.is_empty() {
            self.look();
        }
        self.fetch_io();
        self.home().waiter = Waiter::Glib { has_looked: true };
        self.accept_for_glib();
        self.collect_ready();
        // What was deleted or removed meanwhile is dropped by the next prepare.
        self.has_calls() || self.has_scheduled_bh() || self.reactor.remaining_ns() == Some(0)
    }

    fn accept_for_glib(&self) -> bool {
        let is_notified = self.reactor.state.accept();
        if is_notified {
            increment(&self.reactor.glib.notifications);
        }
        is_notified
    }

    /// True when there is something to call, apart from timers.
    fn has_calls(&self) -> bool {
        self.has_due_bh() || !self.home().batch.is_empty() || self.has_ready_io()
    }

    fn dispatch(&self) {
        // GLib did not sleep since check, or since a prepare that found work. A thread that drove meanwhile has kept the wait.
        self.hand_wait_to_glib();
        let looked = Waiter::Glib { has_looked: true };
        let before = std::mem::replace(&mut self.home().waiter, looked);
        if before != looked && self.home().batch.is_empty() {
            self.look();
        }
        self.run_ready();
    }

    /// Runs `ask`, which asks the GMainContext that this reactor's source is attached to. The source is silent meanwhile, because
    /// the caller waits for the reactor itself.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn ask_glib<T>(&self, ask: impl FnOnce() -> T) -> T {
        self.take_wait_back();
        // A nested GLib loop may have ended after a prepare without a check.
        if self.reactor.glib.is_asleep() {
            self.reactor.glib.is_here();
        }
        self.home().waiter = Waiter::HomeAskingGlib;
        let answer = ask();
        self.home().waiter = Waiter::Home;
        answer
    }

    /// True when GLib waits, or did so last.
    pub(super) fn is_glib_waiter(&self) -> bool {
        matches!(self.home().waiter, Waiter::Glib { .. })
    }

    /// GLib is about to wait: the ring lets go of the set.
    pub(super) fn hand_wait_to_glib(&self) {
        let mut home = self.home();
        if matches!(home.waiter, Waiter::Glib { .. }) {
            return;
        }
        home.waiter = Waiter::Glib { has_looked: false };
        let method = self.reactor.fds.get().map(|fds| &fds.method);
        let Some(WaitMethod::Ring(epoll, _)) = method else {
            return;
        };
        let Some(mut ring) = self.take_ring(&mut home) else {
            return;
        };
        let mut errors = Vec::new();
        match ring.withdraw(epoll) {
            Ok(count) => errors.extend(self.sort_events(&mut home, ring.events(count)).err()),
            Err(error) => errors.push(Error::os("the io_uring refuses its thread", error)),
        }
        if ring.wakes_by_fd() {
            let joined = lock(&self.reactor.table).watch_internal(ring.fd(), RING);
            errors.extend(joined.err());
        }
        home.ring = Some(ring);
        drop(home);
        report(errors);
    }

    /// Gives up what only this thread can, because it will not drive again.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn release_thread(&self) {
        self.hand_wait_to_glib();
    }

    /// The driving thread waits by itself again.
    #[inline]
    pub(super) fn take_wait_back(&self) {
        let mut home = self.home();
        if !matches!(home.waiter, Waiter::Glib { .. }) {
            return;
        }
        home.waiter = Waiter::Home;
        // Under another poller the fd stays in the set, because the ring only has requests.
        let method = self.reactor.fds.get().map(|fds| &fds.method);
        let ring = match method {
            Some(WaitMethod::Ring(..)) => home.ring.as_ref(),
            _ => None,
        };
        let fd = ring.map(|ring| ring.fd());
        drop(home);
        if let Some(fd) = fd {
            lock(&self.reactor.table).ignore_internal(fd);
        }
    }

    /// Collects what is ready after GLib has waited.
    fn look(&self) {
        let Some(fds) = self.reactor.fds.get() else {
            return;
        };
        match &fds.method {
            WaitMethod::Epoll(epoll) | WaitMethod::Ring(epoll, _) => {
                self.collect_from_set(epoll, 0);
            }
            WaitMethod::Poll => self.collect_from_list(0),
        }
    }

    /// The fds that GLib is to poll besides [`Reactor::poll_fd`], if they are others than at `version`.
    pub(crate) fn listed_since(&self, version: &mut Option<u64>) -> Option<Vec<(RawFd, u32)>> {
        if !matches!(self.reactor.fds.get()?.method, WaitMethod::Poll) {
            return None;
        }
        let mut home = self.home();
        // A home that waits by itself shows none.
        let is_shown = home.waiter != Waiter::HomeAskingGlib;
        let wanted = is_shown.then(|| {
            let table = lock(&self.reactor.table);
            table.refresh(&mut home.list);
            table.version().unwrap_or(0)
        });
        if *version == wanted {
            return None;
        }
        *version = wanted;
        let shown = wanted.map_or(&[][..], |_| home.list.listed());
        Some(shown.iter().map(|one| (one.fd, one.events)).collect())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::Reactor;

    /// A home without this would look twice and wake itself in each turn that asks GLib.
    #[test]
    fn glib_sleeps_between_its_own_steps_only() {
        let reactor = Reactor::new().unwrap();
        let (gmain, source) = (glib::MainContext::new(), reactor.g_source().unwrap());
        source.attach(Some(&gmain));
        while gmain.iteration(false) {}
        assert!(!reactor.glib.is_asleep(), "it has checked");
        let driving = reactor.drive().unwrap();
        assert!(reactor.prepare(|_| ()).is_some());
        assert!(reactor.glib.is_asleep(), "it has prepared");
        driving.ask_glib(|| reactor.prepare(|_| ()));
        assert!(!reactor.glib.is_asleep(), "the home waits by itself");
        source.destroy();
    }
}
