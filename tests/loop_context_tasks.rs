//! Futures on a context: GLib's executor and the tasks of AioContexts, on one thread.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use qcontext::{AioContext, Clock, ErrorKind, PoolLimits, QContext, Wait};
use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn receive<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(SOON).unwrap()
}

/// A future of GLib's executor that goes through everything: GLib's timers, ours, an fd, the pool and a task of `aio`.
async fn tour(aio: AioContext) -> (i32, std::thread::ThreadId) {
    let local = Rc::new(1);
    glib::timeout_future(Duration::from_millis(2)).await;
    aio.sleep_ns(Clock::Realtime, 1_000_000).await;
    let (mut reader, mut writer) = pipe().unwrap();
    let byte = aio.run_in_pool(move || writer.write(&[20]).unwrap());
    aio.readable(reader.as_raw_fd()).await.unwrap();
    assert_eq!(byte.await.unwrap(), 1);
    let mut read = [0];
    reader.read_exact(&mut read).unwrap();
    let shared = Rc::clone(&local);
    let task = aio.spawn_local(async move { shared }).unwrap();
    let sum = i32::from(read[0]) + *local + *task.await.unwrap();
    (sum, std::thread::current().id())
}

#[test]
fn glib_futures_run_on_a_threaded_context() {
    let context = QContext::new("glib-futures", true).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    let (send, answer) = channel();
    let home = context.invoke_sync({
        let (main, aio) = (context.main_context(), aio.clone());
        move || {
            main.spawn_local(async move { send.send(tour(aio).await).unwrap() });
            std::thread::current().id()
        }
    });
    assert_eq!(receive(&answer), (22, home.unwrap()));
    context.stop().unwrap();
}

#[test]
fn glib_futures_spawned_from_elsewhere_run_on_a_sleeping_context() {
    let context = QContext::new("glib-spawn", true).unwrap();
    let home = context.invoke_sync(|| std::thread::current().id()).unwrap();
    let (send, answer) = channel();
    for _ in 0..50 {
        let tell = send.clone();
        context.main_context().spawn(async move {
            glib::timeout_future(Duration::from_millis(1)).await;
            tell.send(std::thread::current().id()).unwrap();
        });
        assert_eq!(receive(&answer), home);
    }
    context.stop().unwrap();
}

#[test]
fn glib_futures_run_on_a_context_that_is_iterated() {
    let context = QContext::new("glib-iterated", false).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    let (send, answer) = channel();
    let main = context.main_context();
    let guard = main.acquire().unwrap();
    main.spawn_local(async move { send.send(tour(aio).await.0).unwrap() });
    drop(guard);
    let sum = loop {
        match answer.try_recv() {
            Ok(sum) => break sum,
            Err(_) => context.iterate(Wait::Block).unwrap(),
        };
    };
    assert_eq!(sum, 22);
}

#[test]
fn tasks_run_on_the_context_and_end_when_it_stops() {
    let context = QContext::new("tasks", true).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    let home = context.invoke_sync(|| std::thread::current().id()).unwrap();
    let (send, begun) = channel();
    let task = aio.spawn(move || {
        send.send(std::thread::current().id()).unwrap();
        std::future::pending::<()>()
    });
    assert_eq!(receive(&begun), home);
    let elsewhere = aio.spawn_local(async {}).unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::WrongThread);
    context.stop().unwrap();
    let outcome = task.try_take().unwrap();
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
    // It was given back, and goes on here.
    let here = aio.spawn_local(async { 1 }).unwrap();
    while !here.is_finished() {
        aio.poll(Wait::Block).unwrap();
    }
    assert_eq!(here.try_take().unwrap().unwrap(), 1);
}

#[test]
fn a_context_with_tasks_is_not_detached() {
    let context = QContext::new("tasks-stay", true).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    let (send, begun) = channel();
    let task = aio.spawn(move || async move { send.send(()).unwrap() });
    receive(&begun);
    let leaving = aio.clone();
    let kind = context.invoke_sync(move || {
        let stays = leaving.spawn_local(std::future::pending::<()>()).unwrap();
        let kind = leaving.detach().unwrap_err().kind();
        leaving.cancel_tasks().unwrap();
        drop(stays);
        leaving.detach().unwrap();
        kind
    });
    assert_eq!(kind.unwrap(), ErrorKind::Busy);
    task.try_take().unwrap().unwrap();
    context.stop().unwrap();
}

#[test]
fn jobs_of_a_stopped_context_are_delivered_where_their_aio_context_is_driven_next() {
    let context = QContext::new("pool-stop", true).unwrap();
    let limits = PoolLimits { min: 0, max: 1 };
    context.set_pool_limits(limits).unwrap();
    assert_eq!(context.pool_limits(), limits);
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    let (begin, begun) = channel();
    let (go, wait) = channel::<()>();
    let (send, answers) = channel();
    let tell = send.clone();
    aio.submit(
        move || {
            begin.send(()).unwrap();
            wait.recv().unwrap();
            1
        },
        move |result| tell.send(result.unwrap()).unwrap(),
    );
    receive(&begun);
    aio.submit(|| 2, move |result| send.send(result.unwrap()).unwrap());
    context.stop().unwrap();
    drop(context);
    go.send(()).unwrap();
    let mut sum = 0;
    while sum < 3 {
        aio.poll(Wait::Block).unwrap();
        sum += answers.try_iter().sum::<i32>();
    }
}
