//! An AioContext moves between two homes while another thread arms, cancels and deletes its timers.
#![forbid(unsafe_code)]

use super::{Account, Home, assert_released, check};
use crate::sync::thread;
use crate::{AioContext, Clock, Poller, Timer};
use std::sync::Arc;

const MS: i64 = 1_000_000;

/// A timer that complains when it fires before `earliest`.
fn timer(aio: &AioContext, account: &Arc<Account>, earliest: i64) -> Timer {
    let user = account.user();
    aio.timer(Clock::Realtime, move || {
        user.call(|| {
            if Clock::Realtime.now_ns() < earliest {
                user.0.complain("fired early");
            }
        });
    })
}

fn armed_while_it_moves(poller: Poller) {
    let homes = [Home::start(poller), Home::start(poller)];
    let aio = AioContext::new().unwrap();
    let accounts: [Arc<Account>; 4] = [(); 4].map(|()| Account::new());
    let begin = Clock::Realtime.now_ns();
    let [once, again, cancelled, deleted] = &accounts;
    let timers = [
        timer(&aio, once, begin + 2 * MS),
        timer(&aio, again, begin + MS),
        timer(&aio, cancelled, begin + MS),
    ];
    let brief = timer(&aio, deleted, begin + MS);
    let arming = thread::spawn(move || {
        let [once, again, cancelled] = &timers;
        once.arm_at_ns(begin + 2 * MS);
        again.arm_at_ns(begin + 9 * MS);
        cancelled.arm_at_ns(begin + MS);
        again.arm_at_ns(begin + MS);
        brief.arm_at_ns(begin + 3 * MS);
        cancelled.cancel();
        drop(brief);
        again.arm_at_ns(begin + 4 * MS);
        timers
    });
    homes[0].attach(&aio);
    homes[0].detach(&aio);
    homes[1].attach(&aio);
    homes[1].detach(&aio);
    homes[0].attach(&aio);
    let timers = arming.join().unwrap();
    once.wait_until(|account| account.calls() == 1);
    again.wait_until(|_| !timers[1].is_armed());
    // One armed alone, for a home that may sleep for ever.
    timers[0].arm_at_ns(begin + 20 * MS);
    once.wait_until(|account| account.calls() == 2);
    // After a call that has begun.
    homes[0].run(|| ()).unwrap();
    assert!(timers.iter().all(|timer| !timer.is_armed()));
    assert!(Clock::Realtime.now_ns() >= begin + 20 * MS);
    assert_eq!(once.calls(), 2);
    assert!((1..=3).contains(&again.calls()), "{} calls", again.calls());
    assert!(cancelled.calls() <= 1 && deleted.calls() <= 1);
    drop(timers);
    homes[0].detach(&aio);
    drop(aio);
    for home in homes {
        assert_released(&home.stop());
    }
    for account in &accounts {
        account.assert_over(1);
    }
}

#[test]
fn shuttle_timers_of_a_context_that_moves_fire() {
    check(armed_while_it_moves);
}
