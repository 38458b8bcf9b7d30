//! An AioContext moves between two homes while others schedule, cancel and delete its bottom halves.
#![forbid(unsafe_code)]

use super::{Account, Home, assert_released, check};
use crate::sync::{Ordering, thread};
use crate::{AioContext, Poller, Wait};
use std::sync::Arc;

/// Schedules one bottom half for good, one that goes with its handle, and one that runs once.
fn schedule(aio: &AioContext, [kept, dropped, once]: &[Arc<Account>; 3]) -> crate::Bh {
    let user = kept.user();
    let bh = aio.bh("kept", move || user.call(|| ()));
    kept.announce();
    bh.schedule();
    let user = dropped.user();
    let brief = aio.bh("dropped", move || user.call(|| ()));
    brief.schedule();
    drop(brief);
    let user = once.user();
    once.announce();
    aio.schedule_oneshot("once", move || user.call(|| ()));
    bh.cancel();
    kept.announce();
    bh.schedule_idle();
    bh.schedule();
    bh
}

fn scheduled_while_it_moves(poller: Poller) {
    let homes = [Home::start(poller), Home::start(poller)];
    let aio = AioContext::new().unwrap();
    let accounts: [[Arc<Account>; 3]; 2] = [(); 2].map(|()| [(); 3].map(|()| Account::new()));
    let schedulers = accounts.clone().map(|accounts| {
        let aio = aio.clone();
        thread::spawn(move || schedule(&aio, &accounts))
    });
    homes[0].attach(&aio);
    homes[0].detach(&aio);
    aio.poll(Wait::NoBlock).unwrap();
    homes[1].attach(&aio);
    homes[1].detach(&aio);
    homes[0].attach(&aio);
    let bhs = schedulers.map(|scheduler| scheduler.join().unwrap());
    // What was scheduled before runs before.
    homes[0].run(|| ()).unwrap();
    for [kept, _, once] in &accounts {
        kept.assert_all_seen();
        assert_eq!(once.calls.load(Ordering::SeqCst), 1);
    }
    drop(bhs);
    homes[0].detach(&aio);
    drop(aio);
    for home in homes {
        assert_released(&home.stop());
    }
    for account in accounts.iter().flatten() {
        account.assert_over(1);
    }
}

#[test]
fn shuttle_bottom_halves_of_a_context_that_moves_run_once() {
    check(scheduled_while_it_moves);
}
