//! Which writes wait for which.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicBool;
use std::task::Wake;
use std::thread::{self, Thread};

use super::*;
use crate::block::test_waker::{WakeCount, is_ready};

#[test]
fn aligned_writes_take_no_lock_while_there_is_no_cycle() {
    let order = Arc::<WriteOrder>::default();
    let wakes = Arc::<WakeCount>::default();
    let mut turns = [(); 3].map(|()| order.aligned(0..4096));
    for turn in &mut turns {
        assert!(matches!(turn, WriteTurn::Straight(_)) && is_ready(turn, &wakes));
    }
}

#[test]
fn a_cycle_waits_for_all_straight_writes_and_is_woken_by_the_last() {
    let order = Arc::<WriteOrder>::default();
    let wakes = Arc::<WakeCount>::default();
    let near = order.aligned(0..4096);
    let far = order.aligned(40960..45056);
    let mut cycle = order.cycle(0..4096);
    assert!(!is_ready(&mut cycle, &wakes));
    drop(near);
    assert_eq!(wakes.get(), 0);
    drop(far);
    assert_eq!(wakes.get(), 1);
    assert!(is_ready(&mut cycle, &wakes));
}

#[test]
fn an_aligned_write_waits_for_a_cycle_only_where_both_meet() {
    let order = Arc::<WriteOrder>::default();
    let wakes = Arc::<WakeCount>::default();
    let mut cycle = order.cycle(4096..8192);
    assert!(is_ready(&mut cycle, &wakes));
    let mut beside = order.aligned(8192..12288);
    let mut over = order.aligned(0..8192);
    assert!(is_ready(&mut beside, &wakes) && !is_ready(&mut over, &wakes));
    drop(cycle);
    assert_eq!(wakes.get(), 1);
    assert!(is_ready(&mut over, &wakes));
    // The next cycle waits for it in turn.
    let mut next = order.cycle(0..4096);
    assert!(!is_ready(&mut next, &wakes));
    drop(over);
    assert!(is_ready(&mut next, &wakes));
}

#[test]
fn an_aligned_write_is_straight_again_after_the_last_cycle() {
    let order = Arc::<WriteOrder>::default();
    let cycles = [(); 2].map(|()| order.cycle(0..4096));
    assert!(matches!(order.aligned(8192..12288), WriteTurn::Locked(_)));
    drop(cycles);
    assert!(matches!(order.aligned(0..4096), WriteTurn::Straight(_)));
}

/// Waits, asleep, until the write may begin.
fn begin(turn: &mut WriteTurn) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    while Pin::new(&mut *turn).poll(&mut context).is_pending() {
        thread::park();
    }
}

#[test]
fn no_write_of_another_thread_comes_between_the_halves_of_a_cycle() {
    const ROUNDS: u64 = 3000;
    let order = Arc::<WriteOrder>::default();
    // One block with a word for each of two threads, and one that is written straight, with the whole block.
    let block: [AtomicUsize; 2] = Default::default();
    let is_cycle = AtomicBool::new(false);
    thread::scope(|scope| {
        for own in 0..2 {
            let (order, block, is_cycle) = (&order, &block, &is_cycle);
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let mut turn = order.cycle(0..4096);
                    begin(&mut turn);
                    assert!(!is_cycle.swap(true, Ordering::SeqCst));
                    let mut words = block.each_ref().map(|word| word.load(Ordering::Relaxed));
                    words[own] += 1;
                    thread::yield_now();
                    for (word, value) in block.iter().zip(words) {
                        word.store(value, Ordering::Relaxed);
                    }
                    is_cycle.store(false, Ordering::SeqCst);
                    drop(turn);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let mut turn = order.aligned(0..4096);
                    begin(&mut turn);
                    assert!(!is_cycle.load(Ordering::SeqCst));
                    thread::yield_now();
                    assert!(!is_cycle.load(Ordering::SeqCst));
                    drop(turn);
                }
            });
        }
    });
    let rounds = usize::try_from(ROUNDS).unwrap();
    assert_eq!(block.map(AtomicUsize::into_inner), [rounds; 2]);
    assert!(order.is_free_of_straight() && order.cycles.load(Ordering::SeqCst) == 0);
}
