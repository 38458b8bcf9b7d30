//! Tasks that wake each other, themselves, and not at all.
#![forbid(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};

use super::*;
use crate::block::gate::ChannelOwner;
use crate::block::request::Op;
use gsource::{AioContext, Wait};
use std::future::poll_fn;
use std::sync::Weak;

/// Yields as often as the request's offset says; an `Op::Flush` waits until it is let go.
#[derive(Debug, Default)]
struct TestLayer {
    polls: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
    is_open: std::sync::atomic::AtomicBool,
}

impl Layer for TestLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move {
            let mut left = request.offset;
            poll_fn(|context| {
                self.polls.fetch_add(1, Ordering::Relaxed);
                if request.op == Op::Flush && !self.is_open.load(Ordering::Relaxed) {
                    self.waiting.lock().unwrap().push(context.waker().clone());
                    return Poll::Pending;
                }
                if left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            Finished { request, result: 0 }
        })
    }
}

struct NoOwner;

impl ChannelOwner for NoOwner {
    fn ready(&self) {}
}

struct Bench {
    layer: Arc<TestLayer>,
    way: Way,
    budget: Budget,
    aio: AioContext,
}

impl Bench {
    fn new() -> Bench {
        let aio = AioContext::new().unwrap();
        let no_owner: Weak<NoOwner> = Weak::new();
        let gate = Gate::new(&aio, no_owner);
        let layer = Arc::<TestLayer>::default();
        let way = TaskWay::open(&gate, |_| Arc::<TestLayer>::clone(&layer));
        Bench {
            layer,
            way,
            budget: Budget::BATCH,
            aio,
        }
    }

    fn submit(&mut self, op: Op, yields: u64) -> Submission {
        let mut request = Box::new(Request::new());
        request.reset(op, yields, 7);
        self.way.submit(request, &mut self.budget)
    }

    fn reap(&mut self) -> usize {
        let mut finished = Vec::new();
        self.way.reap(&mut self.budget, &mut finished);
        finished.len()
    }
}

#[test]
fn a_task_that_waits_for_nothing_is_done_at_once() {
    let mut bench = Bench::new();
    assert!(matches!(bench.submit(Op::Read, 0), Submission::Done(done) if done.request.tag() == 7));
    assert_eq!(bench.reap(), 0);
}

#[test]
fn only_tasks_that_were_woken_are_polled() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        assert!(matches!(bench.submit(Op::Flush, 0), Submission::Queued));
    }
    assert!(matches!(bench.submit(Op::Read, 3), Submission::Queued));
    bench.layer.polls.store(0, Ordering::Relaxed);
    assert_eq!(bench.reap(), 1);
    assert_eq!(bench.layer.polls.load(Ordering::Relaxed), 3);
    bench.layer.is_open.store(true, Ordering::Relaxed);
    let wakers = std::mem::take(&mut *bench.layer.waiting.lock().unwrap());
    std::thread::scope(|scope| {
        scope
            .spawn(|| wakers.into_iter().for_each(Waker::wake))
            .join()
    })
    .unwrap();
    assert_eq!(bench.reap(), 100);
}

#[test]
fn a_task_that_wakes_itself_for_ever_leaves_the_iteration() {
    let mut bench = Bench::new();
    assert!(matches!(
        bench.submit(Op::Read, 1 << 40),
        Submission::Queued
    ));
    for _ in 0..3 {
        bench.layer.polls.store(0, Ordering::Relaxed);
        assert_eq!(bench.reap(), 0);
        assert!(bench.layer.polls.load(Ordering::Relaxed) <= 256);
        // The rest is for an iteration that is due.
        assert!(bench.aio.poll(Wait::NoBlock).unwrap());
    }
}

#[test]
fn a_way_that_goes_with_tasks_in_flight_leaks_them() {
    let mut bench = Bench::new();
    assert!(matches!(bench.submit(Op::Flush, 0), Submission::Queued));
    let layer = Arc::clone(&bench.layer);
    drop(bench);
    // The bench's own reference is gone; the task keeps one.
    assert_eq!(Arc::strong_count(&layer), 2);
    layer
        .waiting
        .lock()
        .unwrap()
        .drain(..)
        .for_each(Waker::wake);
}
