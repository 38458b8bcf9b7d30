//! Tasks: when and where they run, how they are woken and end, what they can wait for, and what binds them to their thread.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

mod support;

use gsource::{
    AioContext, Clock, ErrorKind, EventNotifier, FdHandler, JoinHandle, PoolLimits, Reactor, Wait,
};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use support::{Count, Driven, Journal, Slot, deadline, mourned};

/// Iterates until the task is over; its outcome.
fn finish<T>(driven: &Driven, task: &JoinHandle<T>) -> gsource::Result<T> {
    driven.until(|| task.is_finished());
    task.try_take().unwrap()
}

/// Is pending once, and wakes its task at once.
#[derive(Default)]
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Is never ready; counts its polls and shows its waker.
struct Never(Count, Arc<Mutex<Option<Waker>>>);

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.hit();
        let earlier = self.1.lock().unwrap().replace(context.waker().clone());
        drop(earlier);
        Poll::Pending
    }
}

fn never() -> (Never, Count, Arc<Mutex<Option<Waker>>>) {
    let (polls, waker) = (Count::new(), Arc::default());
    (Never(polls.clone(), Arc::clone(&waker)), polls, waker)
}

/// A file without a name.
fn scratch() -> File {
    let path = format!(
        "{}/task-{:?}",
        env!("CARGO_TARGET_TMPDIR"),
        std::thread::current().id()
    );
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

both_loops! {
    fn a_task_begins_in_an_iteration_and_its_output_is_the_handles(driven) {
        let begun = Rc::new(Cell::new(false));
        let seen = Rc::clone(&begun);
        let task = driven.aio.spawn_local(async move {
            seen.set(true);
            Rc::new(7)
        }).unwrap();
        assert!(!begun.get() && !task.is_finished());
        assert_eq!(*finish(driven, &task).unwrap(), 7);
        assert!(task.is_finished() && task.try_take().is_none());
    }

    fn a_task_that_wakes_itself_is_polled_once_per_iteration(driven) {
        let polls = Count::new();
        let hit = polls.hitter();
        let task = driven.aio.spawn_local(async move {
            loop {
                hit();
                Yield::default().await;
            }
        }).unwrap();
        for round in 1..=20 {
            assert!(driven.iterate(Wait::NoBlock));
            assert_eq!(polls.get(), round);
        }
        drop(task);
        driven.settle();
        assert_eq!(polls.get(), 20);
    }

    fn tasks_take_turns(driven) {
        let journal = Journal::new();
        let tasks: Vec<_> = ["a", "b"].map(|name| {
            let note = journal.noter(name);
            driven.aio.spawn_local(async move {
                for _ in 0..3 {
                    note();
                    Yield::default().await;
                }
            }).unwrap()
        }).into();
        driven.until(|| tasks.iter().all(JoinHandle::is_finished));
        assert_eq!(journal.text(), "a b a b a b");
    }

    fn wakes_from_other_threads_coalesce(driven) {
        let (never, polls, waker) = never();
        let task = driven.aio.spawn_local(never).unwrap();
        driven.settle();
        assert_eq!(polls.get(), 1);
        let waker = waker.lock().unwrap().clone().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| waker.wake_by_ref()));
            }
        });
        driven.settle();
        assert_eq!(polls.get(), 2);
        drop(task);
        driven.settle();
        waker.wake();
        driven.settle();
        assert_eq!(polls.get(), 2, "a waker may outlive its task");
    }

    fn dropping_the_handle_ends_the_task_in_an_iteration(driven) {
        let (never, polls, _waker) = never();
        let (mourned, witness) = mourned();
        let task = driven.aio.spawn_local(async move {
            mourned.here();
            never.await;
        }).unwrap();
        driven.settle();
        drop(task);
        assert!(witness.drops().is_empty());
        driven.settle();
        assert_eq!(witness.drops(), [std::thread::current().id()]);
        assert_eq!(polls.get(), 1);
    }

    fn an_aborted_task_is_told_as_cancelled(driven) {
        let (never, polls, _waker) = never();
        let task = driven.aio.spawn_local(never).unwrap();
        driven.settle();
        task.abort();
        let error = finish(driven, &task).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Cancelled, libc::ECANCELED));
        assert_eq!(polls.get(), 1);
    }

    fn aborting_what_is_over_changes_nothing(driven) {
        let task = driven.aio.spawn_local(async { 3 }).unwrap();
        driven.until(|| task.is_finished());
        task.abort();
        driven.settle();
        assert_eq!(task.try_take().unwrap().unwrap(), 3);
    }

    fn a_task_aborted_before_its_first_poll_never_runs(driven) {
        let task = driven.aio.spawn_local(async { panic!("not polled") }).unwrap();
        task.abort();
        assert_eq!(finish(driven, &task).unwrap_err().kind(), ErrorKind::Cancelled);
    }

    fn a_detached_task_runs_on(driven) {
        let done = Count::new();
        let hit = done.hitter();
        driven.aio.spawn_local(async move {
            Yield::default().await;
            hit();
        }).unwrap().detach();
        driven.until(|| done.get() == 1);
    }

    fn a_panicking_task_takes_no_other_down(driven) {
        let bad = driven.aio.spawn_local(async {
            Yield::default().await;
            panic!("boom");
        }).unwrap();
        let good = driven.aio.spawn_local(async {
            Yield::default().await;
            Yield::default().await;
            1
        }).unwrap();
        assert_eq!(finish(driven, &good).unwrap(), 1);
        let error: gsource::Error = finish::<()>(driven, &bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert_eq!(error.to_string(), "the task panicked: boom");
    }

    fn a_task_awaits_another(driven) {
        let inner = driven.aio.spawn_local(async {
            Yield::default().await;
            Rc::new(20)
        }).unwrap();
        let outer = driven.aio.spawn_local(async move { *inner.await.unwrap() + 1 }).unwrap();
        assert_eq!(finish(driven, &outer).unwrap(), 21);
    }

    fn a_task_spawns_tasks(driven) {
        let aio = driven.aio.clone();
        let task = driven.aio.spawn_local(async move {
            let local = aio.spawn_local(async { 1 }).unwrap();
            let built = aio.spawn(|| async { 2 });
            local.await.unwrap() + built.await.unwrap()
        }).unwrap();
        assert_eq!(finish(driven, &task).unwrap(), 3);
    }

    fn a_task_that_iterates_is_not_polled_inside_its_own_poll(driven) {
        let (inside, nested) = (Rc::new(Cell::new(false)), driven.nested());
        let weak = Arc::downgrade(driven);
        let task = driven.aio.spawn_local(std::future::poll_fn(move |context| {
            assert!(!inside.replace(true), "polled inside its own poll");
            let other = weak.upgrade().unwrap().aio.spawn_local(async { 5 }).unwrap();
            context.waker().wake_by_ref();
            while !other.is_finished() {
                nested(Wait::Block);
            }
            inside.set(false);
            Poll::Ready(other.try_take().unwrap().unwrap())
        })).unwrap();
        assert_eq!(finish(driven, &task).unwrap(), 5);
    }

    fn a_wake_that_a_nested_iteration_has_swallowed_is_made_up_for(driven) {
        let nested = driven.nested();
        let mut polls = 0;
        let task = driven.aio.spawn_local(std::future::poll_fn(move |context| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            nested(Wait::NoBlock);
            Poll::Pending
        })).unwrap();
        finish(driven, &task).unwrap();
    }

    fn a_task_may_abort_itself_and_end_all(driven) {
        let (mourned, witness) = mourned();
        let aio = driven.aio.clone();
        let task = driven.aio.spawn_local(async move {
            mourned.here();
            aio.cancel_tasks().unwrap();
            Yield::default().await;
            panic!("polled after its end");
        }).unwrap();
        let error: gsource::Error = finish::<()>(driven, &task).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(witness.drops().len(), 1);
    }

    fn a_dropped_sleep_wakes_nobody(driven) {
        let aio = driven.aio.clone();
        let task = driven.aio.spawn_local(async move {
            let mut sleep = Box::pin(aio.sleep_ns(Clock::Realtime, 3_600_000_000_000));
            std::future::poll_fn(|context| {
                assert!(sleep.as_mut().poll(context).is_pending());
                Poll::Ready(())
            }).await;
            assert!(aio.timeout_ns().unwrap().is_some(), "it bounds the wait");
        }).unwrap();
        finish(driven, &task).unwrap();
        driven.settle();
        assert_eq!(driven.aio.timeout_ns().unwrap(), None);
    }

    fn readable_and_writable_wait_for_their_fds(driven) {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let aio = driven.aio.clone();
        let task = driven.aio.spawn_local(async move {
            aio.writable(here.as_raw_fd()).await.unwrap();
            here.write_all(b"ping").unwrap();
            aio.readable(here.as_raw_fd()).await.unwrap();
            let mut answer = [0; 4];
            here.read_exact(&mut answer).unwrap();
            answer
        }).unwrap();
        driven.settle();
        let mut asked = [0; 4];
        there.read_exact(&mut asked).unwrap();
        assert_eq!((&asked, task.is_finished()), (b"ping", false));
        there.write_all(b"pong").unwrap();
        assert_eq!(&finish(driven, &task).unwrap(), b"pong");
    }

    fn several_tasks_and_the_handler_of_an_fd_do_not_disturb_each_other(driven) {
        let (reader, mut writer) = pipe().unwrap();
        let fd = reader.as_raw_fd();
        let seen = Count::new();
        let handler = || FdHandler::new().on_read(seen.hitter());
        driven.aio.set_fd_handler(fd, handler()).unwrap();
        let tasks = [(); 3].map(|()| {
            let aio = driven.aio.clone();
            driven.aio.spawn_local(async move { aio.readable(fd).await }).unwrap()
        });
        driven.settle();
        driven.aio.set_fd_handler(fd, handler()).unwrap();
        assert!(driven.aio.remove_fd_handler(fd));
        assert!(!driven.aio.remove_fd_handler(fd));
        driven.settle();
        assert!(!tasks.iter().any(JoinHandle::is_finished));
        writer.write_all(b"x").unwrap();
        for task in &tasks {
            finish(driven, task).unwrap().unwrap();
        }
        driven.settle();
        assert_eq!(driven.wakeups_in(5), 0, "nobody watches any more");
        driven.aio.set_fd_handler(fd, handler()).unwrap();
        driven.iterate(Wait::Block);
        assert!(seen.get() > 0);
    }

    fn a_dropped_readiness_leaves_the_fd_alone(driven) {
        let (reader, mut writer) = pipe().unwrap();
        let (aio, fd) = (driven.aio.clone(), reader.as_raw_fd());
        let task = driven.aio.spawn_local(async move { aio.readable(fd).await }).unwrap();
        driven.settle();
        drop(task);
        driven.settle();
        writer.write_all(b"x").unwrap();
        assert_eq!(driven.wakeups_in(5), 0);
    }

    fn readiness_of_a_bad_fd_is_an_error(driven) {
        let aio = driven.aio.clone();
        let task = driven.aio.spawn_local(async move { aio.readable(1 << 20).await }).unwrap();
        let error = finish(driven, &task).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    fn a_regular_file_is_readable_at_once(driven) {
        let (aio, file) = (driven.aio.clone(), scratch());
        let task = driven.aio.spawn_local(async move { aio.readable(file.as_raw_fd()).await });
        finish(driven, &task.unwrap()).unwrap().unwrap();
    }

    fn waiting_for_a_notifier_takes_each_signal(driven) {
        let (notifier, taken) = (Arc::new(EventNotifier::new().unwrap()), Count::new());
        let (aio, waiter, hit) = (driven.aio.clone(), Arc::clone(&notifier), taken.hitter());
        let task = driven.aio.spawn_local(async move {
            loop {
                waiter.wait(&aio).await.unwrap();
                hit();
            }
        }).unwrap();
        for round in 1..=5 {
            driven.settle();
            assert_eq!(taken.get(), round - 1);
            notifier.signal();
            driven.until(|| taken.get() == round);
        }
        drop(task);
        driven.settle();
    }

    fn a_file_is_written_synced_and_read(driven) {
        let file = driven.aio.file(scratch());
        let task = driven.aio.spawn_local(async move {
            let (written, buffer) = file.write_at(vec![5; 4096], 4096).await;
            assert_eq!((written.unwrap(), buffer.len()), (4096, 4096));
            file.fsync().await.unwrap();
            let (read, buffer) = file.read_at(vec![1; 10_000], 0).await;
            (read.unwrap(), buffer)
        }).unwrap();
        let (count, buffer) = finish(driven, &task).unwrap();
        assert_eq!((count, buffer.len()), (8192, 10_000));
        assert!(buffer[..4096].iter().all(|&byte| byte == 0));
        assert!(buffer[4096..8192].iter().all(|&byte| byte == 5));
        assert!(buffer[8192..].iter().all(|&byte| byte == 1), "a short read");
    }

    fn a_failed_request_gives_the_buffer_back(driven) {
        let file = driven.aio.file(File::open("/dev/null").unwrap());
        let task = driven.aio.spawn_local(async move { file.write_at(vec![3; 5], 0).await });
        let (result, buffer) = finish(driven, &task.unwrap()).unwrap();
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(buffer, [3; 5]);
    }

    fn many_requests_are_in_flight_at_once(driven) {
        let file = driven.aio.file(scratch());
        let tasks: Vec<_> = (0..300u64).map(|index| {
            let file = file.clone();
            driven.aio.spawn_local(async move {
                let byte = u8::try_from(index % 251).unwrap();
                file.write_at(vec![byte; 512], index * 512).await.0.unwrap();
                let (count, buffer) = file.read_at(vec![0; 512], index * 512).await;
                assert_eq!(count.unwrap(), 512);
                assert_eq!(buffer, vec![byte; 512]);
            }).unwrap()
        }).collect();
        for task in &tasks {
            finish(driven, task).unwrap();
        }
    }

    fn a_request_whose_future_is_dropped_keeps_its_buffer_and_file(driven) {
        let (reader, mut writer) = pipe().unwrap();
        let fd = reader.as_raw_fd();
        let link = format!("/proc/self/fd/{fd}");
        let this = std::fs::read_link(&link).unwrap();
        let file = driven.aio.file(reader);
        let task = driven.aio.spawn_local(async move { file.read_at(vec![0; 64], u64::MAX).await });
        driven.settle();
        // The request is in flight: the pipe is empty.
        drop(task);
        driven.settle();
        // Another test may get the number, but not this pipe.
        let is_open = || std::fs::read_link(&link).is_ok_and(|now| now == this);
        assert!(is_open(), "the request holds the file");
        writer.write_all(b"late").unwrap();
        driven.until(|| !is_open());
    }

    fn a_job_of_the_pool_is_awaited(driven) {
        let aio = driven.aio.clone();
        let task = driven.aio.spawn_local(async move {
            let here = std::thread::current().id();
            let there = aio.run_in_pool(|| std::thread::current().id()).await.unwrap();
            assert_eq!(std::thread::current().id(), here);
            let failed = aio.run_in_pool(|| panic!("boom")).await;
            let error = gsource::Result::<()>::unwrap_err(failed);
            (here != there, error.kind())
        }).unwrap();
        assert_eq!(finish(driven, &task).unwrap(), (true, ErrorKind::Panicked));
    }

    fn dropping_the_future_of_a_job_takes_it_back(driven) {
        driven.aio.set_pool_limits(PoolLimits { min: 0, max: 1 }).unwrap();
        let (begin, begun) = channel();
        let (go, wait) = channel::<()>();
        let first = driven.aio.run_in_pool(move || {
            begin.send(()).unwrap();
            wait.recv().unwrap();
        });
        begun.recv().unwrap();
        let second = driven.aio.run_in_pool(|| panic!("taken back"));
        assert_eq!(driven.aio.pool().queued(), 1);
        drop(second);
        assert_eq!(driven.aio.pool().queued(), 0);
        go.send(()).unwrap();
        let task = driven.aio.spawn_local(first).unwrap();
        finish(driven, &task).unwrap().unwrap();
    }
}

both_threads! {
    fn a_task_spawned_from_elsewhere_is_built_and_run_on_the_home(running) {
        let (send, outcome) = channel();
        let home = running.home;
        let aio = running.aio.clone();
        running.aio.spawn(move || {
            let local = Rc::new(std::thread::current().id());
            async move {
                aio.sleep_ns(Clock::Realtime, 1_000).await;
                send.send((*local, std::thread::current().id())).unwrap();
            }
        }).detach();
        assert_eq!(outcome.recv().unwrap(), (home, home));
    }

    fn a_handle_is_awaited_and_aborted_on_other_threads(running) {
        let good = running.aio.spawn(|| async { 6 * 7 });
        let (never, polls, _waker) = never();
        let bad = running.aio.spawn(|| never);
        let elsewhere = AioContext::new().unwrap();
        let both = elsewhere.spawn_local(async move {
            let answer = good.await.unwrap();
            bad.abort();
            (answer, bad.await.unwrap_err().kind())
        }).unwrap();
        while !both.is_finished() {
            elsewhere.poll(Wait::Block).unwrap();
        }
        assert_eq!(both.try_take().unwrap().unwrap(), (42, ErrorKind::Cancelled));
        assert!(polls.get() <= 1);
    }

    fn a_recipe_that_panics_is_told(running) {
        let aio = running.aio.clone();
        let told = running.aio.spawn(move || {
            let failed = aio.spawn(|| -> std::future::Ready<()> { panic!("no future") });
            async move { failed.await.unwrap_err().kind() }
        });
        let (send, outcome) = channel();
        running.aio.spawn(move || async move { send.send(told.await).unwrap() }).detach();
        assert_eq!(outcome.recv().unwrap().unwrap(), ErrorKind::Panicked);
    }

    fn spawn_local_away_from_the_home_is_refused(running) {
        // Also while GLib waits, which does not hold the context then.
        running.wait_asleep();
        let refused = running.aio.spawn_local(async { panic!("not spawned") });
        let error: gsource::Error = refused.map(JoinHandle::<()>::detach).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongThread);
    }

    fn wakes_against_a_home_that_falls_asleep_are_never_lost(running) {
        let ask = Arc::new(EventNotifier::new().unwrap());
        let (send, answers) = channel();
        let (aio, waiter) = (running.aio.clone(), Arc::clone(&ask));
        running.aio.spawn(move || async move {
            for _ in 0..2000 {
                waiter.wait(&aio).await.unwrap();
                send.send(()).unwrap();
            }
        }).detach();
        for _ in 0..2000 {
            ask.signal();
            answers.recv().unwrap();
        }
    }
}

#[test]
fn the_tasks_of_a_context_that_is_torn_down_are_dropped_at_home() {
    let _deadline = deadline("the_tasks_of_a_context_that_is_torn_down");
    let (aio, home) = (AioContext::new().unwrap(), Reactor::new().unwrap());
    aio.attach_to(&home).unwrap();
    let (mourned, witness) = mourned();
    let (never, polls, _waker) = never();
    let task = aio.spawn_local(async move {
        mourned.here();
        never.await;
    });
    let task = task.unwrap();
    home.iterate(Wait::NoBlock).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(aio));
    });
    assert!(witness.drops().is_empty());
    home.iterate(Wait::NoBlock).unwrap();
    assert_eq!(witness.drops(), [std::thread::current().id()]);
    let error = task.try_take().unwrap().unwrap_err();
    assert_eq!((polls.get(), error.kind()), (1, ErrorKind::Cancelled));
}

#[test]
fn a_context_with_tasks_does_not_move() {
    let _deadline = deadline("a_context_with_tasks_does_not_move");
    let (home, aio) = (Reactor::new().unwrap(), AioContext::new().unwrap());
    let (never, _polls, _waker) = never();
    let task = aio.spawn_local(never).unwrap();
    assert_eq!(aio.attach_to(&home).unwrap_err().kind(), ErrorKind::Busy);
    drop(task);
    aio.poll(Wait::NoBlock).unwrap();
    aio.attach_to(&home).unwrap();
    let task = aio.spawn_local(async { 1 }).unwrap();
    assert_eq!(aio.detach().unwrap_err().kind(), ErrorKind::Busy);
    while !task.is_finished() {
        home.iterate(Wait::Block).unwrap();
    }
    aio.detach().unwrap();
    assert_eq!(task.try_take().unwrap().unwrap(), 1);
}

#[test]
fn a_context_that_cancels_its_tasks_may_move() {
    let _deadline = deadline("a_context_that_cancels_its_tasks_may_move");
    let (home, aio) = (Reactor::new().unwrap(), AioContext::new().unwrap());
    let (mourned, witness) = mourned();
    let task = aio.spawn_local(async move {
        mourned.here();
        std::future::pending::<()>().await;
    });
    aio.poll(Wait::NoBlock).unwrap();
    aio.cancel_tasks().unwrap();
    assert_eq!(witness.drops(), [std::thread::current().id()]);
    aio.attach_to(&home).unwrap();
    drop(task);
}

#[test]
fn a_reactor_with_tasks_is_driven_by_their_thread_only() {
    let _deadline = deadline("a_reactor_with_tasks_is_driven_by_their_thread_only");
    let aio = AioContext::new().unwrap();
    let local = Rc::new(Cell::new(0));
    let (seen, count) = (Rc::clone(&local), Count::new());
    let task = aio.spawn_local(async move {
        loop {
            seen.set(seen.get() + 1);
            Yield::default().await;
        }
    });
    let refused = |error: gsource::Error| assert_eq!(error.kind(), ErrorKind::WrongThread);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            refused(aio.poll(Wait::NoBlock).unwrap_err());
            refused(aio.cancel_tasks().unwrap_err());
            let context = glib::MainContext::new();
            let source = aio.g_source().unwrap();
            source.attach(Some(&context));
            aio.schedule_oneshot("test", count.hitter());
            assert!(
                !context.iteration(false),
                "GLib's source is silent elsewhere"
            );
            source.destroy();
        });
    });
    assert_eq!((local.get(), count.get()), (0, 0));
    aio.poll(Wait::NoBlock).unwrap();
    assert_eq!((local.get(), count.get()), (1, 1));
    drop(task);
    aio.poll(Wait::NoBlock).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| aio.poll(Wait::NoBlock).unwrap());
    });
}

#[test]
fn the_end_of_a_thread_ends_its_tasks_there_and_frees_the_context() {
    let _deadline = deadline("the_end_of_a_thread_ends_its_tasks");
    let aio = AioContext::new().unwrap();
    let (mourned, witness) = mourned();
    let (hold, held) = (Slot::new(), aio.clone());
    let thread = std::thread::spawn({
        let hold = hold.clone();
        move || {
            let task = held.spawn_local(async move {
                mourned.here();
                std::future::pending::<()>().await;
            });
            hold.put(task.unwrap());
            held.poll(Wait::NoBlock).unwrap();
        }
    });
    let id = thread.thread().id();
    thread.join().unwrap();
    assert_eq!(witness.wait(), id);
    let task = hold.take().unwrap();
    assert_eq!(
        task.try_take().unwrap().unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    aio.poll(Wait::NoBlock).unwrap();
}

/// The last handle goes on another thread than that of the tasks, which keeps the context until it ends.
#[test]
fn a_context_dropped_away_from_its_tasks_ends_with_their_thread() {
    let _deadline = deadline("a_context_dropped_away_from_its_tasks");
    let aio = AioContext::new().unwrap();
    let (task_mourned, task_dropped) = mourned();
    let (bh_mourned, bh_dropped) = mourned();
    let bh = aio.bh("test", move || bh_mourned.here());
    let (go, wait) = channel::<()>();
    let (begun, has_begun) = channel();
    let weak = aio.clone();
    let thread = std::thread::spawn(move || {
        let task = weak.spawn_local(async move {
            task_mourned.here();
            std::future::pending::<()>().await;
        });
        task.unwrap().detach();
        weak.poll(Wait::NoBlock).unwrap();
        drop(weak);
        begun.send(()).unwrap();
        wait.recv().unwrap();
    });
    has_begun.recv().unwrap();
    drop(aio);
    drop(bh);
    assert!(task_dropped.drops().is_empty() && bh_dropped.drops().is_empty());
    go.send(()).unwrap();
    let id = thread.thread().id();
    thread.join().unwrap();
    assert_eq!((task_dropped.wait(), bh_dropped.wait()), (id, id));
}

#[test]
fn a_readiness_ends_with_its_context() {
    let _deadline = deadline("a_readiness_ends_with_its_context");
    let (aio, home) = (AioContext::new().unwrap(), AioContext::new().unwrap());
    let (reader, _writer) = pipe().unwrap();
    let readiness = aio.readable(reader.as_raw_fd());
    let task = home.spawn_local(readiness).unwrap();
    home.poll(Wait::NoBlock).unwrap();
    drop(aio);
    while !task.is_finished() {
        home.poll(Wait::Block).unwrap();
    }
    let error = task.try_take().unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}
