//! Scenarios under shuttle: AioContexts attach, move and end on homes with threads of their own while bottom halves, fds and
//! timers fire. At each lock, atomic and wait, shuttle chooses the thread that runs next, at random or by PCT.
//!
//! # What is real
//! All of this crate that runs: reactors, AioContexts, their lists, flags, tables and timers; and the kernel's eventfds and
//! epoll sets. Each scenario runs with epoll and with poll.
//!
//! # What is not
//! - shuttle's threads, locks and atomics stand in for std's. It runs one thread at a time and every atomic as if it were
//!   sequentially consistent; what weaker orders permit is for the loom models.
//! - A wait sleeps in shuttle, and time passes only by waiting: see `kernel_model`.
//! - The homes are the loop below, not a `QContext`, and GLib's steps are called by hand: its locks are not shuttle's. No io_uring waits.
//!
//! A thread that waits for ever shows as shuttle's "deadlock". A run that fails prints its schedule, for `shuttle::replay`.
#![deny(unsafe_code)]

mod bottom_halves;
mod fds;
mod glib;
mod stop;
mod timers;

use crate::sync::lock;
use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, PoisonError, thread};
use crate::{AioContext, Poller, Reactor, Wait};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::mpsc;
use std::sync::Arc;
use std::time::Duration;

/// How many runs each scheduler makes of a scenario with each poller.
const RUNS: usize = 1_500;
/// How often PCT lets another thread go first.
const PCT_DEPTH: usize = 3;

/// Runs `scenario` under many schedules: `RUNS` that are the same each time, or for `SOAK_SECONDS` in all.
fn check(scenario: fn(Poller)) {
    let soak: Option<u32> = std::env::var("SOAK_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    for poller in [Poller::Epoll, Poller::Poll] {
        match soak {
            None => {
                run(
                    RandomScheduler::new_from_seed(1, RUNS),
                    None,
                    (scenario, poller),
                );
                run(
                    PctScheduler::new_from_seed(1, PCT_DEPTH, RUNS),
                    None,
                    (scenario, poller),
                );
            }
            Some(seconds) => {
                let share = Some(Duration::from_secs(1) * seconds / 4);
                run(RandomScheduler::new(usize::MAX), share, (scenario, poller));
                run(
                    PctScheduler::new(PCT_DEPTH, usize::MAX),
                    share,
                    (scenario, poller),
                );
            }
        }
    }
}

fn run(
    scheduler: impl Scheduler + 'static,
    limit: Option<Duration>,
    (scenario, poller): (fn(Poller), Poller),
) {
    let mut config = shuttle::Config::new();
    config.max_time = limit;
    shuttle::Runner::new(scheduler, config).run(move || scenario(poller));
}

/// A home as a context has it: its thread drives for life, iterates until it shall stop, and then lets go of what was
/// attached.
struct Home {
    reactor: Arc<Reactor>,
    shared: Arc<HomeShared>,
    thread: thread::JoinHandle<()>,
}

struct HomeShared {
    stopping: AtomicBool,
    /// The home's own context; gone once it has stopped.
    own: Mutex<Option<AioContext>>,
    attached: Mutex<Vec<AioContext>>,
}

impl HomeShared {
    fn own(&self) -> Option<AioContext> {
        lock(&self.own).clone()
    }
}

impl Home {
    fn start(poller: Poller) -> Home {
        let reactor = Reactor::with_poller(poller, crate::Drivers::One).unwrap();
        let own = AioContext::new().unwrap();
        own.attach_to(&reactor).unwrap();
        let shared = Arc::new(HomeShared {
            stopping: AtomicBool::new(false),
            own: Mutex::new(Some(own)),
            attached: Mutex::default(),
        });
        let thread = {
            let (reactor, shared) = (Arc::clone(&reactor), Arc::clone(&shared));
            thread::spawn(move || serve(&reactor, &shared))
        };
        Home {
            reactor,
            shared,
            thread,
        }
    }

    /// Runs `work` on the home and waits for what it says; `None` when it was dropped uncalled.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        run_on(self.shared.own()?, work)
    }

    fn attach(&self, aio: &AioContext) {
        aio.attach_to(&self.reactor).unwrap();
        lock(&self.shared.attached).push(aio.clone());
    }

    /// As a context detaches from another thread.
    fn detach(&self, aio: &AioContext) {
        let leaving = aio.clone();
        let detached = self.run(move || leaving.detach().is_ok());
        assert_eq!(detached, Some(true));
        lock(&self.shared.attached).retain(|attached| !attached.is_same(aio));
    }

    fn stop(self) -> Arc<Reactor> {
        self.shared.stopping.store(true, Ordering::Release);
        self.reactor.notify();
        self.thread.join().unwrap();
        self.reactor
    }
}

/// Nothing that was on a home that has stopped holds it.
fn assert_released(reactor: &Arc<Reactor>) {
    assert_eq!(Arc::strong_count(reactor), 1, "a stopped home is held");
}

fn serve(reactor: &Arc<Reactor>, shared: &HomeShared) {
    let driving = reactor.drive().unwrap();
    while !shared.stopping.load(Ordering::Acquire) {
        reactor.iterate(Wait::Block).unwrap();
    }
    let attached = std::mem::take(&mut *lock(&shared.attached));
    for aio in attached {
        aio.detach().unwrap();
    }
    let own = lock(&shared.own).take();
    drop(own);
    reactor.reap_if_idle();
    driving.release_thread();
}

/// Runs `work` where `aio` is at home and waits for what it says; `None` when it was dropped uncalled. Waits without a handle,
/// which would keep the context from ending.
fn run_on<T: Send + 'static>(
    aio: AioContext,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    aio.schedule_oneshot("work", move || {
        let _ = sender.send(work());
    });
    drop(aio);
    receiver.recv().ok()
}

/// What a callback is held to: a [`User`] of it is the callback's user data.
#[derive(Default)]
struct Account {
    /// What was announced before each schedule.
    work: AtomicUsize,
    /// What the last call saw of that.
    seen: AtomicUsize,
    calls: AtomicUsize,
    drops: AtomicUsize,
    inside: AtomicBool,
    /// What no callback may do, and none did.
    wrong: Mutex<Option<&'static str>>,
    /// What `wait_until` looks at may have changed.
    changed: Condvar,
}

/// A callback's user data.
struct User(Arc<Account>);

impl Account {
    fn new() -> Arc<Account> {
        Arc::default()
    }

    fn user(self: &Arc<Account>) -> User {
        User(Arc::clone(self))
    }

    fn announce(&self) {
        self.work.fetch_add(1, Ordering::SeqCst);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Callbacks survive panics, so they leave their complaints here.
    fn complain(&self, about: &'static str) {
        lock(&self.wrong).get_or_insert(about);
    }

    /// Waits until a call has made `done` true.
    fn wait_until(&self, done: impl Fn(&Account) -> bool) {
        let mut wrong = lock(&self.wrong);
        while !done(self) {
            wrong = self
                .changed
                .wait(wrong)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(wrong);
    }

    /// Nothing was wrong, and so many users are gone, which were all.
    fn assert_over(&self, users: usize) {
        assert_eq!(*lock(&self.wrong), None);
        assert_eq!(self.drops.load(Ordering::SeqCst), users, "users dropped");
    }

    /// What was announced was also seen.
    fn assert_all_seen(&self) {
        let announced = self.work.load(Ordering::SeqCst);
        assert_eq!(self.seen.load(Ordering::SeqCst), announced, "work was lost");
    }
}

impl User {
    /// The callback is called, and does `work`.
    fn call(&self, work: impl FnOnce()) {
        let account = &self.0;
        if account.inside.swap(true, Ordering::SeqCst) {
            account.complain("called by two at once");
        }
        account
            .seen
            .store(account.work.load(Ordering::SeqCst), Ordering::SeqCst);
        work();
        account.calls.fetch_add(1, Ordering::SeqCst);
        if !account.inside.swap(false, Ordering::SeqCst) {
            account.complain("called by two at once");
        }
        let wrong = lock(&account.wrong);
        account.changed.notify_all();
        drop(wrong);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.0.inside.load(Ordering::SeqCst) {
            self.0.complain("dropped while it is called");
        }
        self.0.drops.fetch_add(1, Ordering::SeqCst);
    }
}
