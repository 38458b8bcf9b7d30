//! Contexts that come and go leave nothing behind: alone in its process, because it counts fds, threads and memory.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use qcontext::{AioContext, Clock, EventNotifier, FdHandler, QContext, Wait};
use std::os::fd::AsRawFd;

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// Resident memory in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A context with something of everything, ended in one of three ways.
fn come_and_go(round: usize) {
    let context = QContext::new("guest", !round.is_multiple_of(3)).unwrap();
    let (aio, notifier) = (AioContext::new().unwrap(), EventNotifier::new().unwrap());
    context.attach(&aio, Some("disk")).unwrap();
    context
        .set_fd_handler(notifier.as_raw_fd(), FdHandler::new().on_read(|| ()))
        .unwrap();
    let (bh, timer) = (aio.bh("test", || ()), aio.timer(Clock::Realtime, || ()));
    bh.schedule();
    timer.arm_in_ns(1_000_000_000);
    context.invoke(|| ()).unwrap();
    if context.is_threaded() {
        context.invoke_sync(|| ()).unwrap();
    } else {
        context.iterate(Wait::NoBlock).unwrap();
    }
    if round.is_multiple_of(2) {
        context.stop().unwrap();
    }
    context.remove_fd_handler(notifier.as_raw_fd());
}

/// A context that was only dropped ends by itself, soon.
fn settle(fds: usize, threads: usize, round: usize) {
    let begin = std::time::Instant::now();
    while count("/proc/self/task") > threads || count("/proc/self/fd") > fds {
        assert!(
            begin.elapsed().as_secs() < 20,
            "round {round} leaves {} threads of {threads}, {} fds of {fds}",
            count("/proc/self/task"),
            count("/proc/self/fd")
        );
        std::thread::yield_now();
    }
}

#[test]
fn ten_thousand_contexts_leave_no_fd_no_thread_and_no_memory() {
    // One of each first: some fds and threads of the process are made once and stay.
    (0..12).for_each(come_and_go);
    let (fds, threads) = (count("/proc/self/fd"), count("/proc/self/task"));
    let mut before = 0;
    for round in 0..10_000 {
        come_and_go(round);
        settle(fds, threads, round);
        if round == 1_000 {
            before = resident();
        }
    }
    // AddressSanitizer keeps what was freed for a while, and finds leaks itself.
    if std::env::var_os("ASAN_OPTIONS").is_some() {
        return;
    }
    let grown = resident().saturating_sub(before);
    // A leak of 100 bytes per context would be 900 KiB.
    assert!(grown < 800, "grew by {grown} KiB");
}
