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

mod adaptive_poll;
mod attachment;
pub(crate) mod bh;
pub(crate) mod bh_queue;
mod bh_schedule;
mod direct;
mod driving;
mod fd_cache;
pub(crate) mod fd_handler;
pub(crate) mod fd_record;
mod fd_table;
mod glib_wait;
pub(crate) mod handlers;
pub(crate) mod home_cell;
pub(crate) mod home_queue;
mod io;
mod migration;
pub(crate) mod notify;
mod pending_release;
mod queued;
mod registration;
pub(crate) mod tenant;
pub(crate) mod thread_pin;
pub(crate) mod timer;
mod timer_queue;
mod turn;
mod wait;

use crate::eventfd::EventFd;
use crate::list::List;
use crate::poller::epoll::{Epoll, Event};
use crate::poller::io_sink::IoCompletion;
use crate::poller::poll::PollList;
use crate::poller::ring::{Abilities, Ring};
use crate::poller::{Drivers, EVENTS, Poller};
use crate::sync::lock;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Life, Mutex};
use crate::worker_pool::OwnPool;
use crate::{Error, Pool, PoolLimits, Result};
use adaptive_poll::AdaptivePoll;
pub use adaptive_poll::PollParams;
use attachment::Attachment;
pub(crate) use bh::flags::Urgency;
use bh_queue::BhQueue;
pub use driving::Driving;
pub(crate) use driving::thread_token;
use fd_cache::FdCache;
use fd_record::FdRecord;
use fd_table::{Batch, FdTable, Set};
use home_cell::HomeCell;
use notify::NotifyState;
pub(crate) use pending_release::PendingRelease;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock, Weak};
use thread_pin::ThreadPin;
use timer_queue::TimerQueues;
pub use timer_queue::{start_virtual_clock, stop_virtual_clock};

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
    adaptive_poll: AdaptivePoll,
    fd_cache: FdCache,
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
    /// How often GLib has asked by itself; written by who drives.
    glib_turns: AtomicUsize,
}

impl Counts {
    fn note_glib_turn(&self) {
        let turns = self.glib_turns.load(Ordering::Relaxed);
        self.glib_turns
            .store(turns.wrapping_add(1), Ordering::Relaxed);
    }
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
    bhs: BhQueue,
    io: OnceLock<Io>,
    fds: Mutex<FdTable>,
    timers: Mutex<TimerQueues>,
    poll_params: Mutex<PollParams>,
    retired: Mutex<Vec<PendingRelease>>,
    /// What the locked parts hold, so that a turn with nothing to do there takes no lock.
    counts: Counts,
    /// Set after something was put into `retired`.
    has_retired: AtomicBool,
    /// The thread that drives, by [`thread_token`]; 0 when nobody does.
    driver: AtomicUsize,
    /// How many tokens that thread has; written by it only.
    tokens: AtomicUsize,
    /// The thread whose GLib waits, from the source's prepare to its check; 0 when none does.
    glib_waiter: AtomicUsize,
    home: HomeCell<Home>,
    /// Room for what a wait reports.
    events: HomeCell<Box<[Event; EVENTS]>>,
    pool: OwnPool,
    /// Tasks, which only their thread may drive.
    pub(crate) thread_pin: ThreadPin,
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
            bhs: BhQueue::new(),
            io: OnceLock::new(),
            fds: Mutex::default(),
            timers: Mutex::new(TimerQueues::new()),
            poll_params: Mutex::default(),
            retired: Mutex::default(),
            counts: Counts::default(),
            has_retired: AtomicBool::new(false),
            driver: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            glib_waiter: AtomicUsize::new(0),
            home: HomeCell::new(Home {
                batch: Batch::new(),
                paused: Vec::new(),
                timer_fd: None,
                timer_fd_deadline: i64::MAX,
                collected: false,
                served: false,
                put_off: turn::PutOff::default(),
                adaptive_poll: AdaptivePoll::default(),
                fd_cache: FdCache::default(),
                completions: Vec::new(),
                ring: None,
                is_foreign: false,
                list: PollList::default(),
            }),
            events: HomeCell::new(Box::new([Event { events: 0, u64: 0 }; EVENTS])),
            pool: OwnPool::new(),
            thread_pin: ThreadPin::default(),
        });
        timer_queue::announce(&reactor);
        reactor
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
}

impl Reactor {
    /// The pool for work of the AioContexts that are here.
    pub fn pool(&self) -> &Pool {
        self.pool.pool()
    }

    /// How many workers the pool has.
    pub fn pool_limits(&self) -> PoolLimits {
        self.pool().limits()
    }

    /// Changes how many workers the pool has. Idle workers above the maximum end at once, busy ones after their work.
    ///
    /// # Errors
    /// `InvalidArgument` when a limit is negative, the maximum 0, or the minimum above it; nothing has changed then.
    pub fn set_pool_limits(&self, limits: PoolLimits) -> Result<()> {
        self.pool().set_limits(limits)
    }
}

impl Drop for Reactor {
    /// A thread that forgot a token takes whatever is at this address for what it drives: nothing may be there again.
    fn drop(&mut self) {
        if self.tokens.load(Ordering::Relaxed) > 0 {
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
