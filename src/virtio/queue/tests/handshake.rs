//! Kicks and calls between two threads that go to sleep all the time: none is lost.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;

/// A flag that one thread raises and another one sleeps on, as eventfds are; spinning, to hit narrow races.
#[derive(Default)]
struct Bell(AtomicBool);

impl Bell {
    fn ring(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn wait(&self, what: &str) {
        let start = Instant::now();
        while !self.0.swap(false, Ordering::Acquire) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "a {what} was lost"
            );
            std::hint::spin_loop();
            if start.elapsed() > Duration::from_millis(1) {
                std::thread::yield_now();
            }
        }
    }
}

const ROUNDS: u32 = 40_000;

/// Serves `ROUNDS` chains, sleeping whenever there are none.
fn device(mut queue: Virtqueue, kick: &Bell, call: &Bell) {
    let memory = queue.memory().clone();
    let mut chain = Chain::new(&memory, ChainRoom::default());
    let mut served = 0;
    while served < ROUNDS {
        queue.disable_notifications();
        while queue.pop(&mut chain) == Ok(Popped::Chain) {
            queue.push_used(chain.head(), 1);
            served += 1;
        }
        if queue.publish() {
            call.ring();
        }
        if served < ROUNDS && !queue.enable_notifications() {
            kick.wait("kick");
        }
    }
}

#[test]
fn no_wakeup_is_lost_in_forty_thousand_handshakes() {
    for event_idx in [false, true] {
        let Pair {
            ram,
            mut driver,
            queue,
            ..
        } = Pair::new(8, event_idx, false);
        let (kick, call) = (Bell::default(), Bell::default());
        std::thread::scope(|scope| {
            scope.spawn(|| device(queue, &kick, &call));
            for round in 0..ROUNDS {
                driver.add(&ram, &[buffer(1, true)]).unwrap();
                if driver.publish(&ram) {
                    kick.ring();
                }
                // Sometimes late, so that both sides decide at the same moment.
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                driver.set_used_event(&ram, driver.used_seen);
                while driver.take_used(&ram).is_none() {
                    call.wait("call");
                }
            }
        });
    }
}
