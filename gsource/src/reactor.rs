//! The reactor: everything that one thread waits for at once, for any number of tenants.
//!
//! A tenant is what the reactor keeps for one AioContext; the reactor knows nothing else of it. A home thread keeps one reactor
//! for life and drives it with [`Reactor::iterate`]; an AioContext that is attached nowhere has one to itself. One turn asks
//! paused readers, waits, runs bottom halves, ready handlers and due timers, and drops what was released ([`turn`]).
//!
//! | part | holds |
//! |---|---|
//! | [`tenant`], `attachment`, `migration` | a tenant, its place on a reactor, its move to another one |
//! | [`bh`], `bh_queue`, `bh_schedule` | bottom halves |
//! | [`fd_handler`], [`fd_record`], [`handlers`] | fd handlers of a tenant |
//! | `registration`, `fd_table`, `fd_cache` | fd handlers of the reactor, and what is registered with the kernel |
//! | [`timer`], `timer_queue`, `timer_fd`, `virtual_clock` | timers; the clock that can be stopped and set |
//! | `wait_method`, `wait`, `io`, `adaptive_poll` | the wait: its fds, its events, the io_uring, busy-polling before it |
//! | `aside` | a turn that leaves some handlers aside |
//! | `glib_wait` | the wait by GLib, through the reactor's GSource |
//! | `driving`, `notify`, [`thread_pin`] | who drives, who wakes whom, and tasks that bind a reactor to their thread |
//! | `pending_release` | what belongs to the home to drop |
//! | `all_reactors` | the reactors of the process, and what a fork does to them |
//!
//! # Threads
//! One thread at a time drives (see [`Driving`]). All others only register, arm, schedule and release.
//!
//! # Invariants
//! 1. No lock of the reactor is held while a callback or a destructor of a callback runs.
//! 2. `NotifyState::sleep` comes before the last look at queues, deadlines and releases. So the home sees what was published
//!    before the sleep, and what is published later wakes it.
#![deny(unsafe_code)]

mod adaptive_poll;
mod all_reactors;
mod aside;
mod attachment;
pub(crate) mod bh;
pub(crate) mod bh_queue;
mod bh_schedule;
mod driving;
mod fd_cache;
pub(crate) mod fd_handler;
pub(crate) mod fd_record;
mod fd_table;
mod glib_wait;
pub(crate) mod handlers;
mod home_queue;
mod io;
mod migration;
mod notify;
mod pending_release;
mod queued;
mod registration;
pub(crate) mod tenant;
pub(crate) mod thread_pin;
pub(crate) mod timer;
mod timer_fd;
mod timer_queue;
mod turn;
mod virtual_clock;
mod wait;
mod wait_method;

use crate::poller::epoll::Event;
use crate::poller::io_sink::IoCompletion;
use crate::poller::poll::PollList;
use crate::poller::ring::{Abilities, HomeRing};
use crate::poller::{Drivers, EVENTS, Poller};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, lock};
use crate::worker_pool::OwnPool;
use crate::{Error, Pool, PoolLimits, Result};
use adaptive_poll::AdaptivePoll;
pub use adaptive_poll::PollParams;
use attachment::Attachment;
pub(crate) use bh::flags::Urgency;
use bh_queue::BhQueue;
pub use driving::Driving;
use driving::HomeCell;
use fd_cache::FdCache;
use fd_record::FdRecord;
use fd_table::{Batch, FdTable};
use glib_wait::{GlibThread, Waiter};
use notify::NotifyState;
pub(crate) use pending_release::PendingRelease;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use thread_pin::ThreadPin;
use timer_fd::TimerFd;
use timer_queue::TimerQueues;
pub use virtual_clock::{
    deadline_ns, set_virtual_clock, start_virtual_clock, step_virtual_clock, stop_virtual_clock,
};
use wait_method::ReactorFds;

/// Whether an iteration may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Wait once, until something happens.
    Block,
    /// Only do what is ready.
    NoBlock,
}

/// What only the driving thread touches. See [`Driving::home`].
#[derive(Default)]
struct HomeState {
    /// Ready handlers that have not run yet. Nested iterations share it.
    batch: Batch,
    /// Handlers whose `read_poll` said no, and handlers that are put aside.
    paused: Vec<Arc<FdRecord>>,
    waiter: Waiter,
    timer_fd: TimerFd,
    put_off: turn::PutOff,
    adaptive_poll: AdaptivePoll,
    fd_cache: FdCache,
    /// Room for the completions of one sink.
    completions: Vec<IoCompletion>,
    ring: Option<Box<HomeRing>>,
    list: PollList,
}

/// Sizes of what is behind a lock, so that a turn with nothing to do there takes no lock. Written under the lock; a notification
/// follows a change that a home may have missed.
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

/// Everything that one thread waits for. See the module.
pub struct Reactor {
    /// Keeps the address taken. See [`Reactor::drop`].
    own_address: Weak<Reactor>,
    poller: Poller,
    drivers: Drivers,
    /// What the ring may use.
    allowed: Abilities,
    state: NotifyState,
    /// Tenants with bottom halves that other threads have scheduled.
    kicked: crate::list::List<Attachment>,
    bhs: BhQueue,
    fds: OnceLock<ReactorFds>,
    table: Mutex<FdTable>,
    timers: Mutex<TimerQueues>,
    poll_params: Mutex<PollParams>,
    released: Mutex<Vec<PendingRelease>>,
    /// Set after something was put into `released`.
    has_released: AtomicBool,
    counts: Counts,
    /// The thread that drives, by its token; `vacant` while none does.
    driver: AtomicUsize,
    /// 0, or [`driving::PARENT`] in a child process.
    vacant: AtomicUsize,
    /// How many [`Driving`] tokens that thread has. Only it writes this.
    tokens: AtomicUsize,
    glib: GlibThread,
    home: HomeCell<HomeState>,
    /// Room for what a wait reports.
    events: HomeCell<Box<[Event; EVENTS]>>,
    pool: OwnPool,
    /// Binds the reactor to the thread of its tasks.
    thread_pin: ThreadPin,
}

impl Reactor {
    /// A reactor with its fds, which waits with epoll.
    ///
    /// # Errors
    /// The kernel's, when it gives no fds.
    pub fn new() -> Result<Arc<Reactor>> {
        Reactor::with_poller(Poller::Epoll, Drivers::Any)
    }

    /// A reactor that waits with `poller`.
    ///
    /// # Errors
    /// The kernel's, when it gives no fds or does not have `poller`.
    pub fn with_poller(poller: Poller, drivers: Drivers) -> Result<Arc<Reactor>> {
        let reactor = Reactor::dormant(poller, drivers, Abilities::ALL);
        reactor.open()?;
        Ok(reactor)
    }

    /// A reactor that takes its fds when it is first driven.
    pub(crate) fn dormant(poller: Poller, drivers: Drivers, allowed: Abilities) -> Arc<Reactor> {
        let reactor = Arc::new_cyclic(|own_address| Reactor {
            own_address: Weak::clone(own_address),
            poller,
            drivers,
            allowed,
            state: NotifyState::new(),
            kicked: crate::list::List::new(),
            bhs: BhQueue::new(),
            fds: OnceLock::new(),
            table: Mutex::default(),
            timers: Mutex::new(TimerQueues::new()),
            poll_params: Mutex::default(),
            released: Mutex::default(),
            has_released: AtomicBool::new(false),
            counts: Counts::default(),
            driver: AtomicUsize::new(0),
            vacant: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            glib: GlibThread::default(),
            home: HomeCell::new(HomeState::default()),
            events: HomeCell::new(Box::new([Event { events: 0, u64: 0 }; EVENTS])),
            pool: OwnPool::new(),
            thread_pin: ThreadPin::default(),
        });
        all_reactors::announce(&reactor);
        reactor
    }

    /// How this reactor waits.
    pub fn poller(&self) -> Poller {
        self.poller
    }

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

    /// The polling parameters.
    pub fn poll_params(&self) -> PollParams {
        *lock(&self.poll_params)
    }

    /// Changes the polling parameters, from the next turn on.
    ///
    /// # Errors
    /// `InvalidArgument` when one is negative.
    pub fn set_poll_params(&self, params: PollParams) -> Result<()> {
        params.check()?;
        *lock(&self.poll_params) = params;
        self.counts
            .polls
            .store(params.max_ns > 0, Ordering::Release);
        self.notify();
        Ok(())
    }
}

impl Drop for Reactor {
    /// A thread that forgot a token takes a reactor at this address for the one that it drives. So no other reactor may get the
    /// address.
    fn drop(&mut self) {
        if self.tokens.load(Ordering::Relaxed) > 0 {
            std::mem::forget(Weak::clone(&self.own_address));
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

/// Logs errors that have no caller. With no lock held: the log handler is foreign code.
fn report(errors: impl IntoIterator<Item = Error>) {
    for error in errors {
        glib::g_warning!("qcontext", "{error}");
    }
}
