//! The pool by itself: when threads start and end. Jobs are tested from outside, in `tests/loop_worker_pool.rs`.
#![forbid(unsafe_code)]

use super::{OwnPool, Pool, PoolLimits, Work};
use crate::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Work that sends a message when it begins, and ends when it gets one.
struct Held {
    begun: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
    void: AtomicBool,
}

struct Hold {
    work: Arc<dyn Work>,
    held: Arc<Held>,
    begun: Receiver<()>,
    go: Sender<()>,
}

fn hold() -> Hold {
    let (begin, begun) = channel();
    let (go, wait) = channel();
    let held = Arc::new(Held {
        begun: Mutex::new(begin),
        go: Mutex::new(wait),
        void: AtomicBool::new(false),
    });
    Hold {
        work: Arc::<Held>::clone(&held),
        held,
        begun,
        go,
    }
}

impl Work for Held {
    fn run(&self) {
        self.begun.lock().unwrap().send(()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
    }

    fn is_void(&self) -> bool {
        self.void.load(Ordering::SeqCst)
    }
}

fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

fn limits(min: i64, max: i64) -> PoolLimits {
    PoolLimits { min, max }
}

#[test]
fn an_idle_worker_above_the_minimum_goes_away() {
    let pool = Pool::with_idle(Duration::from_millis(5));
    let (first, second) = (hold(), hold());
    pool.set_limits(limits(1, 2)).unwrap();
    assert_eq!(pool.threads(), 0, "none before there is work");
    pool.enqueue(&first.work, 1);
    pool.enqueue(&second.work, 1);
    first.begun.recv().unwrap();
    second.begun.recv().unwrap();
    assert_eq!(pool.threads(), 2);
    first.go.send(()).unwrap();
    second.go.send(()).unwrap();
    until(|| pool.threads() == 1);
    pool.set_limits(limits(0, 2)).unwrap();
    until(|| pool.threads() == 0);
}

#[test]
fn the_minimum_is_started_with_the_first_work_and_when_it_is_raised() {
    let pool = Pool::with_idle(Duration::from_secs(3600));
    let first = hold();
    pool.set_limits(limits(3, 4)).unwrap();
    pool.enqueue(&first.work, 1);
    assert_eq!(pool.threads(), 3);
    pool.set_limits(limits(4, 4)).unwrap();
    assert_eq!(pool.threads(), 4);
    first.begun.recv().unwrap();
    first.go.send(()).unwrap();
    pool.set_limits(limits(0, 1)).unwrap();
    until(|| pool.threads() == 1);
}

#[test]
fn a_raised_maximum_starts_what_waits_and_a_lowered_one_ends_workers_after_their_work() {
    let pool = Pool::with_idle(Duration::from_secs(3600));
    let work: Vec<_> = (0..4).map(|_| hold()).collect();
    pool.set_limits(limits(0, 1)).unwrap();
    for held in &work {
        pool.enqueue(&held.work, 1);
    }
    work[0].begun.recv().unwrap();
    assert_eq!((pool.threads(), pool.queued()), (1, 3));
    pool.set_limits(limits(0, 3)).unwrap();
    work[1].begun.recv().unwrap();
    work[2].begun.recv().unwrap();
    assert_eq!((pool.threads(), pool.queued()), (3, 1));
    pool.set_limits(limits(0, 1)).unwrap();
    work[0].go.send(()).unwrap();
    work[1].go.send(()).unwrap();
    until(|| pool.threads() == 1);
    assert_eq!(pool.queued(), 1, "the last worker is busy");
    work[2].go.send(()).unwrap();
    work[3].begun.recv().unwrap();
    work[3].go.send(()).unwrap();
}

#[test]
fn a_free_worker_is_used_before_one_is_started() {
    let pool = Pool::with_idle(Duration::from_secs(3600));
    let work = hold();
    for _ in 0..50 {
        pool.enqueue(&work.work, 1);
        work.begun.recv().unwrap();
        work.go.send(()).unwrap();
        until(|| {
            let state = pool.0.state.lock().unwrap();
            state.free == state.threads
        });
    }
    assert_eq!(pool.threads(), 1);
}

#[test]
fn a_pool_that_is_let_go_finishes_what_is_queued_and_ends() {
    let own = OwnPool::new();
    let pool = own.0.clone();
    pool.set_limits(limits(1, 1)).unwrap();
    let work = hold();
    pool.enqueue(&work.work, 3);
    work.begun.recv().unwrap();
    drop(own);
    for _ in 0..3 {
        work.go.send(()).unwrap();
    }
    work.begun.recv().unwrap();
    work.begun.recv().unwrap();
    until(|| pool.threads() == 0);
}

#[test]
fn void_work_gives_its_place_up() {
    let pool = Pool::with_idle(Duration::from_secs(3600));
    pool.set_limits(limits(0, 1)).unwrap();
    let (first, void) = (hold(), hold());
    pool.enqueue(&first.work, 1);
    first.begun.recv().unwrap();
    for _ in 0..100 {
        pool.enqueue(&void.work, 1);
    }
    void.held.void.store(true, Ordering::SeqCst);
    for _ in 0..100 {
        pool.count_void();
    }
    assert_eq!(pool.queued(), 0);
    first.go.send(()).unwrap();
}

#[derive(Default)]
struct Refused(AtomicUsize);

impl Work for Refused {
    fn run(&self) {
        panic!("there is no worker to run it");
    }

    fn refused(&self, error: &Error) {
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn work_is_refused_when_no_worker_starts() {
    let pool = Pool::with_idle(Duration::from_secs(3600));
    let refused = Arc::new(Refused::default());
    let work: Arc<dyn Work> = Arc::<Refused>::clone(&refused);
    let mut state = pool.0.state.lock().unwrap();
    state.queue.extend([Arc::clone(&work), work]);
    assert_eq!(state.top_up(), 2);
    drop(state);
    let error = std::io::Error::from_raw_os_error(libc::EAGAIN);
    pool.start_failed(2, &Error::os("cannot start a pool worker", error));
    assert_eq!(refused.0.load(Ordering::SeqCst), 2);
    assert_eq!((pool.threads(), pool.queued()), (0, 0));
}
