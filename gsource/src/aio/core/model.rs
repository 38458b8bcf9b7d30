//! The end of a context against bottom halves that others schedule on it, and against the wake-ups that this takes.
//!
//! All that runs is the real code: the AioContext, its lists and flags, its attachment, the reactor, its locks and the
//! eventfd. loom sees every atomic and lock of it, and through [`Life`](crate::sync::Life) each use of what is freed by hand.
//! No thread spins: the one that ends the context joins the other. Each model says that
//! - what was scheduled runs or is let go, its user data dropped once, and is not run after that;
//! - a thread that waits for one or the other gets its notification;
//! - no thread uses a bottom half, an attachment or a wake-up fd that has gone.
//!
//! Not modelled: the order that `Arc` gives by itself. A bound on preemptions keeps the run short; there is none for
//! `SOAK_SECONDS`, which are for each model.
#![forbid(unsafe_code)]

use crate::reactor::tenant::Tenant;
use crate::{AioContext, Bh, Drivers, Poller, Reactor};
use loom::sync::Notify;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What the callbacks are held to. Not loom's atomics, whose loads may be stale.
#[derive(Default)]
struct Account {
    calls: AtomicUsize,
    drops: AtomicUsize,
}

/// A callback's user data. Its end notifies the waiting thread.
struct User(Arc<Account>, Option<Arc<Notify>>);

impl User {
    fn call(&self) {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.drops.fetch_add(1, Ordering::SeqCst);
        if let Some(notified) = &self.1 {
            notified.notify();
        }
    }
}

/// A context on a home of its own, and what another thread has of it.
struct World {
    reactor: Arc<Reactor>,
    aio: AioContext,
    account: Arc<Account>,
}

impl World {
    fn new() -> World {
        let reactor = Reactor::with_poller(Poller::Epoll, Drivers::Any).unwrap();
        let aio = AioContext::new().unwrap();
        aio.attach_to(&reactor).unwrap();
        World {
            reactor,
            aio,
            account: Arc::default(),
        }
    }

    fn bh(&self) -> Bh {
        let user = User(Arc::clone(&self.account), None);
        self.aio.bh("model", move || user.call())
    }

    fn tenant(&self) -> Arc<Tenant> {
        Arc::clone(self.aio.tenant())
    }

    /// The home has announced its sleep, so a thread that schedules must write.
    fn sleep(&self) {
        let waits = [(); 2].map(|()| self.reactor.prepare(|_| ()));
        assert_eq!(waits, [Some(0), Some(-1)], "it was kicked, then sleeps");
    }

    /// The last handle goes, and with it the home. How often something ran until then.
    fn end(self) -> Arc<Account> {
        drop(self.aio);
        drop(self.reactor);
        self.account
    }
}

/// `other` on its thread against `home` and the end on this one; then so many callbacks are gone.
fn check<T: Send + 'static>(
    users: usize,
    prepare: fn(&World) -> T,
    other: fn(T),
    home: fn(&World),
) {
    let mut builder = loom::model::Builder::new();
    let soak = std::env::var("SOAK_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    builder.max_duration = soak.map(Duration::from_secs);
    builder.preemption_bound = if soak.is_none() { Some(4) } else { None };
    builder.max_branches = 20_000;
    builder.check(move || {
        let world = World::new();
        world.sleep();
        let theirs = prepare(&world);
        let other = thread::spawn(move || other(theirs));
        home(&world);
        let account = world.end();
        let calls = account.calls.load(Ordering::SeqCst);
        other.join().unwrap();
        assert_eq!(account.drops.load(Ordering::SeqCst), users, "users dropped");
        let late = account.calls.load(Ordering::SeqCst) - calls;
        assert_eq!(late, 0, "called after the end");
    });
}

fn no_turn(_world: &World) {}

/// What is scheduled by then runs.
fn turn(world: &World) {
    world.aio.poll_bhs().unwrap();
}

fn schedule_and_delete(bh: Bh) {
    bh.schedule();
    drop(bh);
}

#[test]
fn loom_a_bottom_half_scheduled_and_deleted_while_its_context_ends_is_let_go_once() {
    check(1, World::bh, schedule_and_delete, no_turn);
}

#[test]
fn loom_a_bottom_half_scheduled_and_deleted_around_the_last_turn_is_let_go_once() {
    check(1, World::bh, schedule_and_delete, turn);
}

/// As `invoke_sync` does it.
fn invoke_and_wait((tenant, account): (Arc<Tenant>, Arc<Account>)) {
    let notified = Arc::new(Notify::new());
    let user = User(account, Some(Arc::clone(&notified)));
    tenant.schedule_oneshot("model", move || user.call());
    notified.wait();
}

#[test]
fn loom_a_thread_that_waits_for_a_callback_is_notified_when_the_context_ends() {
    let prepare = |world: &World| (world.tenant(), Arc::clone(&world.account));
    check(1, prepare, invoke_and_wait, no_turn);
}

#[test]
fn loom_a_thread_that_waits_for_a_callback_is_notified_around_the_last_turn() {
    let prepare = |world: &World| (world.tenant(), Arc::clone(&world.account));
    check(1, prepare, invoke_and_wait, turn);
}

#[test]
fn loom_a_notification_while_the_context_ends_uses_nothing_that_is_gone() {
    check(0, World::tenant, |tenant| tenant.notify(), no_turn);
}
