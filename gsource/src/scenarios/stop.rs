//! A home stops while others schedule on it: on its own context, which ends, and on one that was attached, which lives on. A home
//! without a thread is ended by another thread than the one that iterates it.
#![forbid(unsafe_code)]

use super::{Account, Home, assert_released, check, run_on};
use crate::sync::{Ordering, thread};
use crate::{AioContext, Clock, Drivers, Poller, Reactor, Wait};
use std::sync::Arc;

/// Schedules on `own`, which may end any time; how many users that took, and how many of them gave an answer.
fn schedule(own: AioContext, account: &Arc<Account>) -> (usize, usize) {
    let tenant = Arc::clone(own.tenant());
    let user = account.user();
    let bh = own.bh("on the home's own", move || user.call(|| ()));
    bh.schedule();
    let user = account.user();
    // It answers, or says that it will not.
    let answer = run_on(own, move || user.call(|| ()));
    bh.schedule();
    let user = account.user();
    // As others do who hold no handle of the context.
    tenant.schedule_oneshot("late", move || user.call(|| ()));
    (3, usize::from(answer.is_some()))
}

fn scheduled_while_it_stops(poller: Poller) {
    let home = Home::start(poller);
    let aio = AioContext::new().unwrap();
    home.attach(&aio);
    let [on_own, on_aio, timed] = [(); 3].map(|()| Account::new());
    let on_ending = {
        let (shared, account) = (Arc::clone(&home.shared), Arc::clone(&on_own));
        thread::spawn(move || shared.own().map_or((0, 0), |own| schedule(own, &account)))
    };
    let on_attached = {
        let (aio, account, timed) = (aio.clone(), Arc::clone(&on_aio), Arc::clone(&timed));
        thread::spawn(move || {
            let user = timed.user();
            let timer = aio.timer(Clock::Realtime, move || user.call(|| ()));
            timer.arm_in_ns(0);
            for _ in 0..2 {
                let user = account.user();
                account.announce();
                aio.schedule_oneshot("once", move || user.call(|| ()));
            }
            timer
        })
    };
    let reactor = home.stop();
    let (users, answers) = on_ending.join().unwrap();
    assert!(on_own.calls() >= answers);
    let timer = on_attached.join().unwrap();
    // It has a reactor to itself now, and has kept what was asked of it.
    aio.poll(Wait::NoBlock).unwrap();
    on_aio.assert_all_seen();
    assert_eq!(on_aio.calls.load(Ordering::SeqCst), 2);
    assert_eq!(timed.calls(), 1);
    drop((timer, aio));
    assert_released(&reactor);
    on_own.assert_over(users);
    on_aio.assert_over(2);
    timed.assert_over(1);
}

#[test]
fn shuttle_what_is_scheduled_on_a_home_that_stops_runs_or_is_let_go() {
    check(scheduled_while_it_stops);
}

/// One thread iterates, and does not come back. Another one asks for the end meanwhile.
fn ended_between_turns(poller: Poller) {
    let reactor = Reactor::with_poller(poller, Drivers::Any).unwrap();
    let aio = AioContext::new().unwrap();
    aio.attach_to(&reactor).unwrap();
    let [turns, end] = [(); 2].map(|()| Account::new());
    let iterating = {
        let (reactor, aio, turns) = (Arc::clone(&reactor), aio.clone(), Arc::clone(&turns));
        thread::spawn(move || {
            for _ in 0..2 {
                let user = turns.user();
                aio.schedule_oneshot("turn", move || user.call(|| ()));
                // Refused while the other thread does what is asked.
                let _ = reactor.iterate(Wait::NoBlock);
            }
        })
    };
    let (user, leaving, running) = (end.user(), aio.clone(), Arc::clone(&turns));
    reactor.run_between_turns(move || {
        user.call(|| {
            if running.inside.load(Ordering::SeqCst) {
                running.complain("ended inside a callback");
            }
            if leaving.detach().is_err() {
                running.complain("not given back");
            }
        });
    });
    iterating.join().unwrap();
    assert_eq!(end.calls(), 1, "neither thread has done it");
    while aio.poll(Wait::NoBlock).unwrap() {}
    assert_eq!(turns.calls(), 2);
    drop(aio);
    assert_released(&reactor);
    turns.assert_over(2);
    end.assert_over(1);
}

#[test]
fn shuttle_the_end_of_a_home_that_another_thread_iterates_comes_between_its_turns() {
    check(ended_between_turns);
}
