//! What a task can wait for: time, fds, notifiers, files and jobs.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use gsource::{
    AioContext, Clock, ErrorKind, EventNotifier, FdHandler, JoinHandle, PoolLimits, Wait,
};
use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::Poll;
use support::both_loops;
use support::deadline::deadline;
use support::directory::scratch_file;
use support::loops::{Count, finish};

both_loops! {
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
        let (aio, file) = (driven.aio.clone(), scratch_file());
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
        let file = driven.aio.file(scratch_file());
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
        let file = driven.aio.file(scratch_file());
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
