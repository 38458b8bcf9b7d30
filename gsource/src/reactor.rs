//! The reactor: everything one thread waits for at once, for any number of AioContexts.
//!
//! A home keeps one for life and drives it with [`Reactor::iterate`]; an AioContext that is attached nowhere has one to
//! itself. A turn is: ask paused readers, wait, run bottom halves, run ready handlers, run due timers, drop what was retired.
//!
//! # Threads
//! One thread at a time drives (see [`Driving`]); all others only register, arm, kick and retire.
//!
//! # Invariants
//! 1. No lock of this file is held while a callback or a destructor of a callback runs.
//! 2. `NotifyState::sleep` comes before the last look at queues, deadlines and retired things, so nothing published later
//!    goes unnoticed.
#![deny(unsafe_code)]

mod attachment;
pub(crate) mod bhs;
mod busy;
mod collect;
mod direct;
mod fd_table;
mod foreign;
mod io;
mod known;
mod retired;
mod timers;
mod turn;

use crate::aio::handler::FdRecord;
use crate::aio::notify::NotifyState;
use crate::aio::pool::OwnPool;
use crate::aio::task::Residents;
use crate::aio::{Core, lock};
use crate::eventfd::EventFd;
use crate::glib_poll::GlibPoll;
use crate::home_cell::HomeCell;
use crate::list::List;
use crate::poller::epoll::{Epoll, Event};
use crate::poller::list::PollList;
use crate::poller::ring::{Abilities, Ring};
use crate::poller::uring::IoCompletion;
use crate::poller::{Drivers, EVENTS, Poller};
use crate::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Life, Mutex};
use crate::{Error, ErrorKind, Result};
pub(crate) use attachment::{Attachment, Urgency};
use bhs::HomeBhs;
pub(crate) use bhs::{Claimed, at_home, on_home};
use busy::Busy;
pub use busy::PollParams;
pub(crate) use busy::ask_again;
use fd_table::{Batch, FdTable, Set};
use known::Known;
pub(crate) use retired::Retired;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock, Weak};
use timers::Timers;
pub use timers::{start_virtual_clock, stop_virtual_clock};

/// Whether an iteration may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Wait once, until something happens.
    Block,
    /// Only do what is ready.
    NoBlock,
}

/// Token of the wake-up fd; fds have generations above 0 and numbers below 2^31.
const WAKE: u64 = u64::MAX;
/// Token of the fd that wakes a foreign loop for a timer.
const TIMER: u64 = u64::MAX - 1;

/// Token of the io_uring.
const RING: u64 = u64::MAX - 2;

/// The fds of a reactor that somebody drives.
pub(crate) struct Io {
    means: Means,
    wake: EventFd,
    life: Life,
}

/// What a home waits with.
enum Means {
    Epoll(Arc<Epoll>),
    /// With the ring, until the home takes it.
    Ring(Arc<Epoll>, Mutex<Option<Box<Ring>>>),
    List,
}

impl Means {
    fn new(poller: Poller, drivers: Drivers, allowed: Abilities) -> Result<Means> {
        Ok(match poller {
            Poller::Epoll => Means::Epoll(Arc::new(Epoll::new()?)),
            Poller::IoUring => {
                let ring = Box::new(Ring::for_waiting(drivers, allowed)?);
                Means::Ring(Arc::new(Epoll::new()?), Mutex::new(Some(ring)))
            }
            Poller::Poll => Means::List,
        })
    }

    /// What the table of fds is to tell.
    fn set(&self) -> Set {
        match self {
            Means::Epoll(epoll) | Means::Ring(epoll, _) => Set::Epoll(Arc::clone(epoll)),
            Means::List => Set::List(0),
        }
    }
}

/// What only the driving thread touches.
struct Home {
    /// Ready handlers that have not run yet. Nested iterations share it.
    batch: Batch,
    /// Handlers whose `read_poll` said no.
    paused: Vec<Arc<FdRecord>>,
    /// Wakes a foreign loop in time, which knows only milliseconds.
    timer_fd: Option<OwnedFd>,
    timer_fd_deadline: i64,
    /// This iteration of a foreign loop has looked at the epoll set already.
    collected: bool,
    /// The owner serves the reactor directly: the GSource has nothing to say. See [`Reactor::ask_glib`].
    served: bool,
    put_off: turn::PutOff,
    busy: Busy,
    known: Known,
    /// Room for the completions of one sink.
    completions: Vec<IoCompletion>,
    ring: Option<Box<Ring>>,
    /// A foreign loop does the waiting: the ring must not.
    is_foreign: bool,
    list: PollList,
}

/// Sizes of what is behind a lock. Written under the lock; a reader that missed a change is told of it by a notification.
#[derive(Default)]
struct Counts {
    timers: AtomicUsize,
    always_ready: AtomicUsize,
    /// Handlers without `io_poll`.
    unpollable: AtomicUsize,
    /// Busy-polling is on.
    polls: AtomicBool,
    /// The home has an io_uring.
    ring: AtomicBool,
}

/// Everything one thread waits for. See the module.
pub struct Reactor {
    /// Where it is. See [`Reactor::drop`].
    place: Weak<Reactor>,
    poller: Poller,
    drivers: Drivers,
    /// What its ring may use.
    allowed: Abilities,
    state: NotifyState,
    /// Contexts with scheduled bottom halves.
    ready: List<Attachment>,
    bhs: HomeBhs,
    io: OnceLock<Io>,
    fds: Mutex<FdTable>,
    timers: Mutex<Timers>,
    poll_params: Mutex<PollParams>,
    retired: Mutex<Vec<Retired>>,
    /// What the locked parts hold, so that a turn with nothing to do there takes no lock.
    counts: Counts,
    /// Set after something was put into `retired`.
    has_retired: AtomicBool,
    /// The thread that drives, by [`thread_token`]; 0 when nobody does.
    driver: AtomicUsize,
    /// How many tokens that thread has; written by it only.
    tokens: AtomicUsize,
    /// GLib wanted to look while another thread drove, and sleeps without having announced it.
    missed: AtomicBool,
    home: HomeCell<Home>,
    /// How GLib waits, if by this reactor.
    glib_poll: OnceLock<Arc<dyn GlibPoll>>,
    /// Room for what a wait reports.
    events: HomeCell<Box<[Event; EVENTS]>>,
    pub(crate) pool: OwnPool,
    /// Tasks, which only their thread may drive.
    pub(crate) residents: Residents,
}

/// The right to drive a reactor, held by at most one thread, until the last of its tokens is dropped.
pub struct Driving<'a> {
    reactor: &'a Reactor,
    /// The token belongs to its thread.
    thread: PhantomData<*mut ()>,
}

impl<'a> Driving<'a> {
    /// What is driven.
    pub fn reactor(&self) -> &'a Reactor {
        self.reactor
    }
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        let left = self.reactor.tokens.load(Ordering::Relaxed) - 1;
        self.reactor.tokens.store(left, Ordering::Relaxed);
        if left == 0 {
            bhs::leave(self.reactor);
            self.reactor.driver.store(0, Ordering::SeqCst);
            // Another thread may have retired something after the last look here, and found us driving.
            if self.reactor.has_retired() {
                self.reactor.leave_to_home();
            }
            let missed = &self.reactor.missed;
            if missed.load(Ordering::SeqCst) && missed.swap(false, Ordering::SeqCst) {
                self.reactor.wake();
            }
        }
    }
}

impl Driving<'_> {
    /// # Panics
    /// The token is another reactor's, so the caller has no right to this one.
    #[inline]
    fn check(&self, reactor: &Reactor) {
        assert!(
            std::ptr::eq(self.reactor, reactor),
            "the token of another reactor"
        );
    }
}

impl fmt::Debug for Driving<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driving").finish_non_exhaustive()
    }
}

impl Reactor {
    /// A reactor with its fds, which waits with epoll.
    ///
    /// # Errors
    /// The kernel's, when no fds are to be had.
    pub fn new() -> Result<Arc<Reactor>> {
        Reactor::with_poller(Poller::Epoll, Drivers::Any)
    }

    /// A reactor that waits with `poller`.
    ///
    /// # Errors
    /// The kernel's, when no fds are to be had or `poller` is not.
    pub fn with_poller(poller: Poller, drivers: Drivers) -> Result<Arc<Reactor>> {
        let reactor = Reactor::dormant(poller, drivers, Abilities::ALL);
        reactor.open()?;
        Ok(reactor)
    }

    /// A reactor that takes its fds when it is first driven.
    pub(crate) fn dormant(poller: Poller, drivers: Drivers, allowed: Abilities) -> Arc<Reactor> {
        let reactor = Arc::new_cyclic(|place| Reactor {
            place: Weak::clone(place),
            poller,
            drivers,
            allowed,
            state: NotifyState::new(),
            ready: List::new(),
            bhs: HomeBhs::new(),
            io: OnceLock::new(),
            fds: Mutex::default(),
            timers: Mutex::new(Timers::new()),
            poll_params: Mutex::default(),
            retired: Mutex::default(),
            counts: Counts::default(),
            has_retired: AtomicBool::new(false),
            driver: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            missed: AtomicBool::new(false),
            home: HomeCell::new(Home {
                batch: Batch::new(),
                paused: Vec::new(),
                timer_fd: None,
                timer_fd_deadline: i64::MAX,
                collected: false,
                served: false,
                put_off: turn::PutOff::default(),
                busy: Busy::default(),
                known: Known::default(),
                completions: Vec::new(),
                ring: None,
                is_foreign: false,
                list: PollList::default(),
            }),
            glib_poll: OnceLock::new(),
            events: HomeCell::new(Box::new([Event { events: 0, u64: 0 }; EVENTS])),
            pool: OwnPool::new(),
            residents: Residents::default(),
        });
        timers::announce(&reactor);
        reactor
    }

    /// Claims the reactor for the calling thread until the token is dropped.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives it, or has tasks on it.
    pub fn drive(&self) -> Result<Driving<'_>> {
        let me = thread_token();
        if self.driver.load(Ordering::Relaxed) != me && !self.claim(me) {
            let message = "another thread drives this context, only that one may iterate it";
            return Err(Error::new(ErrorKind::WrongThread, message));
        }
        bhs::enter(self);
        let tokens = self.tokens.load(Ordering::Relaxed);
        self.tokens.store(tokens + 1, Ordering::Relaxed);
        Ok(Driving {
            reactor: self,
            thread: PhantomData,
        })
    }

    /// Makes `me` the driver, if nobody else is and no task belongs to another thread.
    fn claim(&self, me: usize) -> bool {
        if self.residents.are_elsewhere(me)
            || self
                .driver
                .compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst)
                .is_err()
        {
            return false;
        }
        // The last driver may have spawned a task after the first look.
        let is_mine = !self.residents.are_elsewhere(me);
        if !is_mine {
            self.driver.store(0, Ordering::SeqCst);
        }
        is_mine
    }

    /// As [`Reactor::drive`], for a GLib loop that will sleep if it cannot: who drives now wakes it afterwards.
    pub(crate) fn drive_or_be_woken(&self) -> Result<Driving<'_>> {
        self.drive().or_else(|_| {
            self.missed.store(true, Ordering::SeqCst);
            // Who drove may have ended before that.
            self.drive()
        })
    }

    /// True on the thread that drives this reactor.
    pub fn is_driven_here(&self) -> bool {
        self.driver.load(Ordering::Acquire) == thread_token()
    }

    /// Makes the current or next blocking wait return. Async-signal-safe.
    pub fn notify(&self) {
        if self.state.notify() {
            self.wake();
        }
    }

    /// Makes the home look again, if it blocks. Async-signal-safe.
    pub(super) fn rouse(&self) {
        if self.state.rouse() {
            self.wake();
        }
    }

    /// How this reactor waits.
    pub fn poller(&self) -> Poller {
        self.poller
    }

    /// The fd that becomes readable when the reactor has something to do; with [`Poller::Poll`] only when another thread has
    /// asked for it.
    ///
    /// # Errors
    /// The kernel's, when no fds are to be had.
    pub fn poll_fd(&self) -> Result<RawFd> {
        self.open().map(|io| match &io.means {
            Means::Epoll(epoll) | Means::Ring(epoll, _) => epoll.as_raw_fd(),
            Means::List => io.wake.as_raw_fd(),
        })
    }

    /// As the hurry demands.
    pub(super) fn call(&self, urgency: Urgency) {
        match urgency {
            Urgency::Now => self.notify(),
            Urgency::Idle => self.rouse(),
        }
    }

    fn wake(&self) {
        if let Some(io) = self.io.get() {
            io.life.used();
            io.wake.write();
        }
    }

    pub(crate) fn open(&self) -> Result<&Io> {
        if let Some(io) = self.io.get() {
            return Ok(io);
        }
        let means = Means::new(self.poller, self.drivers, self.allowed)?;
        let wake = EventFd::new()?;
        let mut fds = lock(&self.fds);
        let mut fresh = false;
        let io = self.io.get_or_init(|| {
            fresh = true;
            let life = Life::new();
            Io { means, wake, life }
        });
        let mut trouble = Vec::new();
        if fresh {
            trouble = fds.open(io.means.set(), (io.wake.as_raw_fd(), WAKE))?;
            self.count_fds(&fds);
        }
        drop(fds);
        report(trouble);
        Ok(io)
    }

    /// Adds `record`, in place of `earlier` on the same fd; both or nothing.
    pub(crate) fn add_record(
        &self,
        record: &Arc<FdRecord>,
        earlier: Option<&FdRecord>,
    ) -> Result<()> {
        self.change_fds(|fds| {
            fds.add(record)?;
            if let Some(earlier) = earlier {
                fds.remove(earlier);
            }
            Ok(())
        })?;
        self.look_at_always_ready();
        Ok(())
    }

    /// No event announces an fd that is always ready.
    fn look_at_always_ready(&self) {
        if self.has_always_ready() && !self.is_driven_here() {
            self.notify();
        }
    }

    /// Takes over all of `records` or none; what it answers is to be told of.
    pub(crate) fn adopt_records(&self, records: &[Arc<FdRecord>]) -> Result<Vec<Error>> {
        let closed = self.change_fds(|fds| {
            let mut closed = Vec::new();
            for (index, record) in records.iter().enumerate() {
                if let Err(error) = fds.adopt(record, &mut closed) {
                    for added in &records[..index] {
                        fds.remove(added);
                    }
                    return Err(error);
                }
            }
            Ok(closed)
        })?;
        self.look_at_always_ready();
        Ok(closed)
    }

    /// Takes back what another reactor did not want, as far as the kernel lets it; what it answers is to be told of.
    pub(crate) fn readopt_records(&self, records: &[Arc<FdRecord>]) -> Vec<Error> {
        let trouble = self.change_fds(|fds| {
            let mut trouble = Vec::new();
            for record in records {
                let outcome = fds.adopt(record, &mut trouble);
                trouble.extend(outcome.err());
            }
            trouble
        });
        self.look_at_always_ready();
        trouble
    }

    pub(crate) fn remove_record(&self, record: &FdRecord) {
        self.change_fds(|fds| fds.remove(record));
    }

    /// Changes the fd table and counts again what a turn must know of it.
    fn change_fds<T>(&self, change: impl FnOnce(&mut FdTable) -> T) -> T {
        let mut fds = lock(&self.fds);
        let before = fds.version();
        let changed = change(&mut fds);
        self.count_fds(&fds);
        let is_news = fds.version() != before;
        drop(fds);
        // A home that waits for a list has it copied.
        if is_news && !self.is_driven_here() {
            self.rouse();
        }
        changed
    }

    fn count_fds(&self, fds: &FdTable) {
        self.counts
            .always_ready
            .store(fds.always_ready(), Ordering::Release);
        self.counts
            .unpollable
            .store(fds.unpollable(), Ordering::Release);
    }

    /// Lets go of `core`, which is moving elsewhere with `records`. The answer is what was seen of its handlers, some of which
    /// may have been removed: to be dropped without a lock.
    #[must_use]
    pub(crate) fn forget(
        &self,
        core: &Arc<Core>,
        records: &[Arc<FdRecord>],
        driving: &Driving<'_>,
    ) -> Vec<Arc<FdRecord>> {
        let mut home = self.home.get(driving);
        let (ready, staying): (Batch, Batch) = std::mem::take(&mut home.batch)
            .into_iter()
            .partition(|(record, _)| record.is_of(core));
        home.batch = staying;
        let paused = home.paused.extract_if(.., |record| record.is_of(core));
        let leaving = paused
            .chain(ready.into_iter().map(|(record, _)| record))
            .collect();
        for record in records {
            home.known.forget(record);
        }
        leaving
    }
}

impl Drop for Reactor {
    /// A thread that forgot a token takes whatever is at this address for what it drives: nothing may be there again.
    fn drop(&mut self) {
        if *self.tokens.get_mut() > 0 {
            std::mem::forget(Weak::clone(&self.place));
        }
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

/// Tells of errors that have nobody to return to. With no lock held: the log handler is foreign code.
pub(crate) fn report(errors: impl IntoIterator<Item = Error>) {
    for error in errors {
        glib::g_warning!("qcontext", "{error}");
    }
}

/// A number that names the calling thread while it lives.
pub(crate) fn thread_token() -> usize {
    crate::sync::thread_local!(static TOKEN: u8 = const { 0 });
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}
