//! A reactor whose home thread iterates it through GLib: while GLib waits or calls other sources, no thread drives the
//! reactor, but it has a home.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use gsource::{AioContext, Clock, Reactor, Wait};
use std::sync::Arc;
use std::sync::mpsc::channel;
use support::deadline::deadline;
use support::loops::{Count, drop_probe};
use support::thread::{gettid, wait_asleep};

/// A reactor with one AioContext, and the GMainContext that its source is attached to.
fn served_by_glib() -> (Arc<Reactor>, AioContext, glib::MainContext, glib::Source) {
    let (reactor, aio) = (Reactor::new().unwrap(), AioContext::new().unwrap());
    aio.attach_to(&reactor).unwrap();
    let (gmain, source) = (glib::MainContext::new(), reactor.g_source().unwrap());
    source.attach(Some(&gmain));
    (reactor, aio, gmain, source)
}

#[test]
fn thread_that_only_takes_a_context_away_destroys_nothing_of_the_home() {
    let _deadline = deadline("thread_that_only_takes_a_context_away_destroys_nothing_of_the_home");
    let (reactor, aio, gmain, source) = served_by_glib();
    let leaving = AioContext::new().unwrap();
    leaving.attach_to(&reactor).unwrap();
    let ((inside, is_inside), (go, go_on)) = (channel(), channel::<()>());
    let over = Count::new();
    std::thread::scope(|scope| {
        let home = scope.spawn(|| {
            while over.get() == 0 {
                gmain.iteration(true);
            }
        });
        let (started, has_started) = channel();
        aio.schedule_oneshot("start", move || started.send(()).unwrap());
        has_started.recv().unwrap();
        // A callback of GLib's: the reactor is not driven meanwhile.
        gmain.invoke(move || {
            inside.send(()).unwrap();
            go_on.recv().unwrap();
        });
        is_inside.recv().unwrap();
        let (remains, drops) = drop_probe();
        drop(aio.timer(Clock::Realtime, move || remains.touch()));
        leaving.detach().unwrap();
        let early = drops.threads();
        go.send(()).unwrap();
        let destroyed_on = early.first().copied().unwrap_or_else(|| drops.wait());
        assert_eq!(destroyed_on, home.thread().id());
        over.hit();
        reactor.notify();
    });
    source.destroy();
}

#[test]
fn work_that_glib_could_not_look_at_wakes_it_afterwards() {
    let _deadline = deadline("work_that_glib_could_not_look_at_wakes_it_afterwards");
    let (reactor, aio, gmain, source) = served_by_glib();
    let ran = Count::new();
    let tid = gettid();
    std::thread::scope(|scope| {
        let (claimed, is_claimed) = channel();
        let (reactor, aio, ran) = (&reactor, &aio, &ran);
        scope.spawn(move || {
            let driving = reactor.drive().unwrap();
            aio.schedule_oneshot("unseen", ran.hitter());
            claimed.send(()).unwrap();
            wait_asleep(tid);
            drop(driving);
        });
        is_claimed.recv().unwrap();
        while ran.get() == 0 {
            gmain.iteration(true);
        }
    });
    assert!(!reactor.iterate(Wait::NoBlock).unwrap());
    source.destroy();
}
