//! Tickets: who waits for whom, and who is woken.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;
use crate::block::test_waker::{WakeCount, is_ready};

#[test]
fn only_ranges_that_overlap_wait_and_they_are_woken_once() {
    let lock = Arc::<RangeLock>::default();
    let wakes = Arc::<WakeCount>::default();
    let mut first = lock.ticket(0..10);
    let mut apart = lock.ticket(10..20);
    let mut across = lock.ticket(5..15);
    let granted = |ticket: &mut RangeTicket| is_ready(ticket, &wakes);
    assert!(granted(&mut first) && granted(&mut apart) && !granted(&mut across));
    drop(first);
    assert!(!granted(&mut across));
    assert_eq!(wakes.get(), 0);
    drop(apart);
    assert_eq!(wakes.get(), 1);
    assert!(is_ready(&mut across, &wakes));
}

#[test]
fn a_range_waits_for_an_earlier_one_that_waits_itself() {
    let lock = Arc::<RangeLock>::default();
    let wakes = Arc::<WakeCount>::default();
    let first = lock.ticket(0..10);
    let mut second = lock.ticket(5..15);
    let mut third = lock.ticket(12..20);
    assert!(!is_ready(&mut third, &wakes));
    drop(first);
    assert!(is_ready(&mut second, &wakes) && !is_ready(&mut third, &wakes));
    drop(second);
    assert!(is_ready(&mut third, &wakes));
}

#[test]
fn a_ticket_that_goes_before_it_is_granted_blocks_no_more() {
    let lock = Arc::<RangeLock>::default();
    let wakes = Arc::<WakeCount>::default();
    let _first = lock.ticket(0..10);
    let given_up = lock.ticket(0..100);
    let mut last = lock.ticket(50..60);
    assert!(!is_ready(&mut last, &wakes));
    drop(given_up);
    assert_eq!(wakes.get(), 1);
    assert!(is_ready(&mut last, &wakes));
}

#[test]
fn shared_tickets_go_together_but_not_past_one_that_waits_to_be_alone() {
    let lock = Arc::<RangeLock>::default();
    let wakes = Arc::<WakeCount>::default();
    let (mut first, mut second) = (lock.shared_ticket(0..10), lock.shared_ticket(5..15));
    assert!(is_ready(&mut first, &wakes) && is_ready(&mut second, &wakes));
    let mut alone = lock.ticket(8..9);
    let mut late = lock.shared_ticket(0..10);
    drop(first);
    assert!(!is_ready(&mut alone, &wakes) && !is_ready(&mut late, &wakes));
    drop(second);
    assert!(is_ready(&mut alone, &wakes) && !is_ready(&mut late, &wakes));
    drop(alone);
    assert!(is_ready(&mut late, &wakes));
    assert_eq!(wakes.get(), 2);
}

#[test]
fn no_two_threads_are_in_one_range() {
    const ROUNDS: usize = 2000;
    let lock = Arc::<RangeLock>::default();
    let inside: [AtomicUsize; 4] = Default::default();
    std::thread::scope(|scope| {
        for number in 0..4_usize {
            let (lock, inside) = (&lock, &inside);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let start = (number + round) % 4;
                    let end = (start + 1 + round % 3).min(4);
                    let ticket = lock.ticket(start as u64..end as u64);
                    wait(ticket, || {
                        for place in &inside[start..end] {
                            assert_eq!(place.fetch_add(1, Ordering::Relaxed), 0);
                        }
                        for place in &inside[start..end] {
                            place.fetch_sub(1, Ordering::Relaxed);
                        }
                    });
                }
            });
        }
    });
    assert!(lock.tickets().list.is_empty());
}

/// Runs `inside` with the range locked; the thread sleeps until it is.
fn wait(mut ticket: RangeTicket, inside: impl FnOnce()) {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    while Pin::new(&mut ticket).poll(&mut context).is_pending() {
        std::thread::park();
    }
    inside();
}
