//! What the loop's tests share: every way to drive an AioContext, a deadline for every test, and witnesses that tell how
//! often, where and when something was dropped.
#![allow(clippy::unwrap_used)] // a failed call is a failed test
#![allow(dead_code, unreachable_pub)] // each test file uses a part of it
#![allow(unsafe_code)] // dup3(2) and gettid(2)

use gsource::{AioContext, Drivers, EventNotifier, FdHandler, Poller, Reactor, Wait};
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

/// Ends the process with a message when a test hangs; generous, because the suite also runs under valgrind.
pub struct Deadline(#[allow(dead_code)] Sender<()>);

pub fn deadline(test: &str) -> Deadline {
    let (alive, gone) = channel();
    let test = test.to_owned();
    std::thread::spawn(move || {
        if gone.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{test} hangs");
            std::process::abort();
        }
    });
    Deadline(alive)
}

/// Who drives the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// `AioContext::poll`.
    Own,
    /// A GMainContext that the context's source is attached to.
    Glib,
}

/// A context that waits with `poller`, or why the test cannot run here.
pub fn context(poller: Poller, name: &str) -> Option<AioContext> {
    AioContext::with_poller(poller)
        .inspect_err(|error| skip(name, error))
        .ok()
}

/// Reports a test as skipped, past the capture of the test harness.
pub fn skip(test: &str, reason: impl std::fmt::Display) {
    let line = format!("\nSKIP: {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// An AioContext and the loop that drives it, for a test that iterates by itself.
pub struct Driven {
    pub aio: AioContext,
    pub poller: Poller,
    glib: Option<(glib::MainContext, glib::Source)>,
}

impl Driven {
    pub fn new(kind: Loop) -> Arc<Driven> {
        Driven::on(kind, Poller::Epoll, AioContext::new().unwrap())
    }

    fn on(kind: Loop, poller: Poller, aio: AioContext) -> Arc<Driven> {
        let glib = (kind == Loop::Glib).then(|| {
            let (context, source) = (glib::MainContext::new(), aio.g_source().unwrap());
            source.attach(Some(&context));
            (context, source)
        });
        Arc::new(Driven { aio, poller, glib })
    }

    pub fn is_glib(&self) -> bool {
        self.glib.is_some()
    }

    /// One iteration: `aio_poll`, or `g_main_context_iteration`.
    pub fn iterate(&self, wait: Wait) -> bool {
        match &self.glib {
            None => self.aio.poll(wait).unwrap(),
            Some((context, _)) => context.iteration(wait == Wait::Block),
        }
    }

    /// Iterates without blocking until nothing is left to do.
    pub fn settle(&self) {
        while self.iterate(Wait::NoBlock) {}
    }

    /// Iterates, blocking, until `done`; the number of iterations that took.
    pub fn until(&self, mut done: impl FnMut() -> bool) -> usize {
        let mut iterations = 0;
        while !done() {
            self.iterate(Wait::Block);
            iterations += 1;
        }
        iterations
    }

    /// Iterates, blocking, for `milliseconds`; how many iterations that took beyond the one that ends it. Counts wake-ups:
    /// a loop with nothing to do answers 0, a spinning one thousands.
    pub fn wakeups_in(&self, milliseconds: i64) -> usize {
        let over = Count::new();
        let timer = self.aio.timer(gsource::Clock::Realtime, over.hitter());
        timer.arm_in_ns(milliseconds * 1_000_000);
        self.introduce();
        // On a busy machine the time may have been over before.
        self.until(|| over.get() > 0).saturating_sub(1)
    }

    /// Lets GLib have the wake-up that it gives itself when it is shown another fd, the timer's among them.
    pub fn introduce(&self) {
        if self.poller == Poller::Poll && self.is_glib() {
            self.iterate(Wait::NoBlock);
        }
    }

    /// What a callback captures to iterate again: it must not keep the context alive.
    pub fn nested(self: &Arc<Self>) -> impl Fn(Wait) -> bool + Send + Sync + 'static {
        let driven: Weak<Driven> = Arc::downgrade(self);
        move |wait| driven.upgrade().unwrap().iterate(wait)
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if let Some((_, source)) = &self.glib {
            source.destroy();
        }
    }
}

/// Runs one test body under one loop with one poller, with a deadline.
pub fn run(kind: Loop, poller: Poller, name: &str, case: impl FnOnce(&Arc<Driven>)) {
    let name = format!("{name} ({kind:?}, {poller})");
    let _deadline = deadline(&name);
    if let Some(aio) = context(poller, &name) {
        case(&Driven::on(kind, poller, aio));
    }
}

/// Declares tests that run under both loops with every poller.
#[macro_export]
macro_rules! both_loops {
    ($($(#[$meta:meta])* fn $name:ident($driven:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn case($driven: &std::sync::Arc<support::Driven>) $body

            #[test]
            fn own_loop() {
                support::run(support::Loop::Own, gsource::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_io_uring() {
                support::run(support::Loop::Own, gsource::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_poll() {
                support::run(support::Loop::Own, gsource::Poller::Poll, stringify!($name), case);
            }

            #[test]
            fn glib_loop() {
                support::run(support::Loop::Glib, gsource::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_io_uring() {
                support::run(support::Loop::Glib, gsource::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_poll() {
                support::run(support::Loop::Glib, gsource::Poller::Poll, stringify!($name), case);
            }
        }
    )*};
}

/// As [`both_loops`], but only with the pollers that watch files, not numbers.
#[macro_export]
macro_rules! both_loops_by_file {
    ($($(#[$meta:meta])* fn $name:ident($driven:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn case($driven: &std::sync::Arc<support::Driven>) $body

            #[test]
            fn own_loop() {
                support::run(support::Loop::Own, gsource::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_io_uring() {
                support::run(support::Loop::Own, gsource::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn glib_loop() {
                support::run(support::Loop::Glib, gsource::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_io_uring() {
                support::run(support::Loop::Glib, gsource::Poller::IoUring, stringify!($name), case);
            }
        }
    )*};
}

/// Declares tests that get a loop which runs in a thread of its own, once of each kind with every poller.
#[macro_export]
macro_rules! both_threads {
    ($($(#[$meta:meta])* fn $name:ident($running:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn case($running: &support::Running) $body

            #[test]
            fn own_loop() {
                support::run_threaded(support::Loop::Own, gsource::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_io_uring() {
                support::run_threaded(support::Loop::Own, gsource::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_poll() {
                support::run_threaded(support::Loop::Own, gsource::Poller::Poll, stringify!($name), case);
            }

            #[test]
            fn glib_loop() {
                support::run_threaded(support::Loop::Glib, gsource::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_io_uring() {
                support::run_threaded(support::Loop::Glib, gsource::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_poll() {
                support::run_threaded(support::Loop::Glib, gsource::Poller::Poll, stringify!($name), case);
            }
        }
    )*};
}

pub fn run_threaded(kind: Loop, poller: Poller, name: &str, case: impl FnOnce(&Running)) {
    let name = format!("{name} (threaded {kind:?}, {poller})");
    let _deadline = deadline(&name);
    if let Some(aio) = context(poller, &name) {
        let running = Running::start(kind, poller, aio);
        case(&running);
        running.stop();
    }
}

enum Stop {
    Flag(Arc<AtomicBool>),
    Quit(glib::MainLoop),
}

/// A loop that runs in a thread of its own.
pub struct Running {
    pub aio: AioContext,
    pub home: ThreadId,
    tid: libc::pid_t,
    thread: JoinHandle<()>,
    stop: Stop,
}

impl Running {
    fn start(kind: Loop, poller: Poller, aio: AioContext) -> Running {
        let (thread, stop) = match kind {
            Loop::Own => run_own(&aio, poller),
            Loop::Glib => run_glib(&aio),
        };
        let (send, receive) = channel();
        aio.schedule_oneshot("started", move || send.send(gettid()).unwrap());
        let tid = receive.recv().unwrap();
        Running {
            aio,
            home: thread.thread().id(),
            tid,
            thread,
            stop,
        }
    }

    /// Runs `work` on the home thread and waits for its answer.
    pub fn on_home<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = channel();
        self.aio.schedule_oneshot("on home", move || {
            send.send(work()).unwrap();
        });
        receive.recv().unwrap()
    }

    /// Returns when the home thread blocks in the kernel.
    pub fn wait_asleep(&self) {
        wait_asleep(self.tid);
    }

    fn stop(self) {
        match &self.stop {
            Stop::Flag(flag) => {
                flag.store(true, Ordering::SeqCst);
                self.aio.notify();
            }
            Stop::Quit(main_loop) => main_loop.quit(),
        }
        self.thread.join().unwrap();
    }
}

/// A home: a reactor that this thread alone drives.
fn run_own(aio: &AioContext, poller: Poller) -> (JoinHandle<()>, Stop) {
    let reactor = Reactor::with_poller(poller, Drivers::One).unwrap();
    aio.attach_to(&reactor).unwrap();
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let thread = std::thread::spawn(move || {
        while !seen.load(Ordering::SeqCst) {
            reactor.iterate(Wait::Block).unwrap();
        }
    });
    (thread, Stop::Flag(flag))
}

fn run_glib(aio: &AioContext) -> (JoinHandle<()>, Stop) {
    let (context, source) = (glib::MainContext::new(), aio.g_source().unwrap());
    let main_loop = glib::MainLoop::new(Some(&context), false);
    source.attach(Some(&context));
    let running = main_loop.clone();
    let thread = std::thread::spawn(move || {
        running.run();
        source.destroy();
    });
    (thread, Stop::Quit(main_loop))
}

pub fn gettid() -> libc::pid_t {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::gettid() }
}

/// Returns when the kernel says that the thread sleeps.
pub fn wait_asleep(tid: libc::pid_t) {
    let path = format!("/proc/self/task/{tid}/stat");
    let asleep = || {
        let stat = std::fs::read_to_string(&path).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('S')
    };
    while !asleep() {
        std::thread::yield_now();
    }
}

/// Counts calls.
#[derive(Clone, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    pub fn new() -> Count {
        Count::default()
    }

    pub fn hit(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// A callback that counts.
    pub fn hitter(&self) -> impl Fn() + Send + Sync + 'static {
        let count = self.clone();
        move || {
            count.hit();
        }
    }
}

/// A journal of what happened in which order.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub fn new() -> Journal {
        Journal::default()
    }

    pub fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    /// A callback that notes `what`.
    pub fn noter(&self, what: &'static str) -> impl Fn() + Send + Sync + 'static {
        let journal = self.clone();
        move || journal.note(what)
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap().join(" ")
    }
}

/// Tells when and on which thread its [`Mourned`] half was dropped.
pub struct Witness(Receiver<ThreadId>);

/// To be moved into a callback: its drop is the callback's destroy notify.
pub struct Mourned(Sender<ThreadId>);

impl Drop for Mourned {
    fn drop(&mut self) {
        let _ = self.0.send(std::thread::current().id());
    }
}

impl Mourned {
    /// Uses the value, so that a closure captures it.
    pub fn here(&self) {}
}

pub fn mourned() -> (Mourned, Witness) {
    let (send, receive) = channel();
    (Mourned(send), Witness(receive))
}

impl Witness {
    /// The threads of the drops so far.
    pub fn drops(&self) -> Vec<ThreadId> {
        self.0.try_iter().collect()
    }

    /// Waits for the drop and tells its thread.
    pub fn wait(&self) -> ThreadId {
        self.0.recv().unwrap()
    }
}

/// A notifier and the handler that takes its signal and counts.
pub fn counting_notifier() -> (Arc<EventNotifier>, Count, FdHandler) {
    let (notifier, count) = (Arc::new(EventNotifier::new().unwrap()), Count::new());
    let (taken, hit) = (Arc::clone(&notifier), count.clone());
    let handler = FdHandler::new().on_read(move || {
        if taken.take() {
            hit.hit();
        }
    });
    (notifier, count, handler)
}

/// A counting notifier that `aio` watches.
pub fn watched_notifier(aio: &AioContext) -> (Arc<EventNotifier>, Count) {
    let (notifier, count, handler) = counting_notifier();
    aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    (notifier, count)
}

/// Something a callback can be made to drop, or to put there, later.
pub struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Slot(Arc::clone(&self.0))
    }
}

impl<T> Slot<T> {
    pub fn new() -> Slot<T> {
        Slot(Arc::new(Mutex::new(None)))
    }

    pub fn put(&self, value: T) {
        let earlier = self.0.lock().unwrap().replace(value);
        drop(earlier);
    }

    /// Takes the value out; dropping it is the caller's.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap().take()
    }

    pub fn with<R>(&self, use_it: impl FnOnce(&T) -> R) -> R {
        use_it(self.0.lock().unwrap().as_ref().unwrap())
    }
}

/// Closes `number` and opens `file` under it, in one step so that no other test can get the number.
pub fn reuse_number(number: RawFd, file: &impl AsRawFd) {
    // SAFETY: the caller owns the number; dup3 takes no pointers.
    let answer = unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) };
    assert_eq!(answer, number);
}
