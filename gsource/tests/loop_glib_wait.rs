//! GLib waits on one thread, between prepare and check, while another one drives the context: no wake-up may be lost by that.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unsafe_code)] // drives GLib's prepare, query, check and dispatch by hand

use glib::translate::ToGlibPtr;
use gsource::{
    AioContext, Clock, Drivers, ErrorKind, IoBatch, IoCompletion, IoSink, Poller, Reactor, Wait,
};
use io_uring::{opcode, squeue, types};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use support::deadline::deadline;
use support::loops::{Count, context, watched_notifier};
use support::skip::skip;
use support::thread::{gettid, wait_asleep};

/// A GMainContext with the source of an AioContext, iterated in steps.
struct Steps {
    aio: AioContext,
    gmain: glib::MainContext,
    source: glib::Source,
    priority: i32,
    timeout: i32,
    fds: Vec<glib_sys::GPollFD>,
}

impl Steps {
    fn new(aio: AioContext) -> Steps {
        let (gmain, source) = (glib::MainContext::new(), aio.g_source().unwrap());
        source.attach(Some(&gmain));
        let (priority, timeout, fds) = (0, 0, Vec::new());
        let mut steps = Steps {
            aio,
            gmain,
            source,
            priority,
            timeout,
            fds,
        };
        // Takes the wake-ups that GLib gives itself because the source is new.
        while steps.gmain.iteration(false) {}
        steps.prepare();
        steps.poll(0);
        assert!(!steps.check(), "nothing is left to do");
        steps
    }

    fn with(poller: Poller, name: &str) -> Option<Steps> {
        context(poller, name).map(Steps::new)
    }

    /// Prepare and query: from here on GLib would sleep.
    fn prepare(&mut self) {
        let raw = self.gmain.to_glib_none().0;
        let empty = glib_sys::GPollFD {
            fd: -1,
            events: 0,
            revents: 0,
        };
        self.fds = vec![empty; 16];
        // SAFETY: the test's thread alone iterates the context.
        unsafe { glib_sys::g_main_context_prepare(raw, &raw mut self.priority) };
        let (fds, timeout) = (self.fds.as_mut_ptr(), &raw mut self.timeout);
        // SAFETY: as above; the array has room for 16.
        let count = unsafe { glib_sys::g_main_context_query(raw, self.priority, timeout, fds, 16) };
        self.fds.truncate(usize::try_from(count).unwrap());
    }

    /// GLib's wait; true when it ended before its time.
    fn poll(&mut self, timeout_ms: i32) -> bool {
        let count = u32::try_from(self.fds.len()).unwrap();
        // SAFETY: the array is as query has filled it.
        unsafe { glib_sys::g_poll(self.fds.as_mut_ptr(), count, timeout_ms) > 0 }
    }

    /// Check, and dispatch when that says so.
    fn check(&mut self) -> bool {
        let (raw, count) = (self.gmain.to_glib_none().0, self.fds.len());
        let (fds, count) = (self.fds.as_mut_ptr(), i32::try_from(count).unwrap());
        // SAFETY: the array is as query and poll have filled it.
        let ready = unsafe { glib_sys::g_main_context_check(raw, self.priority, fds, count) } != 0;
        if ready {
            // SAFETY: the context was checked by this thread.
            unsafe { glib_sys::g_main_context_dispatch(raw) };
        }
        ready
    }

    /// Sleeps as GLib would, for as long as it takes, then iterates until `done`.
    fn sleep_until(&mut self, done: impl Fn() -> bool) {
        assert!(self.timeout != 0, "GLib would not sleep");
        self.poll(self.timeout);
        self.check();
        while !done() {
            self.gmain.iteration(true);
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.source.destroy();
    }
}

/// Does `work` on another thread, which has ended when this returns.
fn elsewhere(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
}

/// GLib is about to sleep, with each poller; another thread does `intrude`; then GLib sleeps until `done`.
fn intruded(name: &str, intrude: impl Fn(&AioContext) + Sync, done: impl Fn() -> bool) {
    for poller in Poller::ALL {
        let name = format!("{name} ({poller})");
        let _deadline = deadline(&name);
        let Some(mut steps) = Steps::with(poller, &name) else {
            continue;
        };
        steps.prepare();
        let aio = steps.aio.clone();
        elsewhere(|| intrude(&aio));
        steps.sleep_until(&done);
    }
}

#[test]
fn a_poll_elsewhere_does_not_hide_what_is_scheduled_after_it() {
    let (count, expected) = (Count::new(), Count::new());
    intruded(
        "a_poll_elsewhere_does_not_hide_what_is_scheduled_after_it",
        |aio| {
            expected.hit();
            assert!(!aio.poll(Wait::NoBlock).unwrap());
            aio.schedule_oneshot("test", count.hitter());
        },
        || count.get() == expected.get(),
    );
}

/// A call that waits, as `qcontext_job_cancel_sync` does.
#[test]
fn a_blocking_poll_elsewhere_does_not_hide_what_is_scheduled_after_it() {
    let (count, expected) = (Count::new(), Count::new());
    intruded(
        "a_blocking_poll_elsewhere_does_not_hide_what_is_scheduled_after_it",
        |aio| {
            expected.hit();
            let done = Count::new();
            let hit = done.hitter();
            aio.submit(|| (), move |_| hit());
            while done.get() == 0 {
                aio.poll(Wait::Block).unwrap();
            }
            aio.schedule_oneshot("test", count.hitter());
        },
        || count.get() == expected.get(),
    );
}

/// A notification ends the wait of the thread that waits, even if another one has polled meanwhile.
#[test]
fn a_poll_elsewhere_takes_no_notification_away() {
    for poller in Poller::ALL {
        let _deadline = deadline("a_poll_elsewhere_takes_no_notification_away");
        let Some(mut steps) = Steps::with(poller, "a notification") else {
            continue;
        };
        steps.prepare();
        let aio = steps.aio.clone();
        elsewhere(|| {
            aio.notify();
            aio.poll(Wait::NoBlock).unwrap();
            aio.poll(Wait::NoBlock).unwrap();
        });
        assert!(steps.poll(-1), "the wait ends");
    }
}

/// The fd that wakes GLib for the first timer is silent once the other thread has seen it.
#[test]
fn a_timer_fired_elsewhere_does_not_hide_the_next_one() {
    let (first, second) = (Count::new(), Count::new());
    for poller in Poller::ALL {
        let name = "a_timer_fired_elsewhere_does_not_hide_the_next_one";
        let _deadline = deadline(name);
        let Some(mut steps) = Steps::with(poller, name) else {
            continue;
        };
        let (fired, turns) = (first.get() + 1, second.get() + 1);
        let timers =
            [&first, &second].map(|count| steps.aio.timer(Clock::Realtime, count.hitter()));
        timers[0].arm_in_ns(1_000_000);
        timers[1].arm_in_ns(100_000_000);
        steps.prepare();
        let aio = steps.aio.clone();
        elsewhere(|| {
            while first.get() < fired {
                aio.poll(Wait::Block).unwrap();
            }
        });
        steps.sleep_until(|| second.get() == turns);
    }
}

struct Ends(Count);

impl IoSink for Ends {
    fn complete(&self, completions: &[IoCompletion]) {
        for _ in completions {
            self.0.hit();
        }
    }
}

#[test]
fn a_request_pushed_elsewhere_is_submitted() {
    let ends = Count::new();
    for poller in Poller::ALL {
        let name = "a_request_pushed_elsewhere_is_submitted";
        let _deadline = deadline(name);
        let Some(mut steps) = Steps::with(poller, name) else {
            continue;
        };
        let sink: Arc<dyn IoSink> = Arc::new(Ends(ends.clone()));
        let Ok(queue) = steps.aio.register_io(Arc::clone(&sink)) else {
            skip("this kernel allows no io_uring");
            return;
        };
        let expected = ends.get() + 1;
        steps.prepare();
        elsewhere(|| {
            // SAFETY: a no-op names no memory.
            let push =
                |batch: &mut IoBatch<'_>| unsafe { batch.push(1, opcode::Nop::new().build()) };
            queue.batch(push).unwrap().unwrap();
        });
        steps.sleep_until(|| ends.get() == expected);
    }
}

/// Another thread takes the event for which GLib woke up; the fd is still ready.
#[test]
fn an_fd_handled_elsewhere_is_handled_again_by_glib() {
    for poller in Poller::ALL {
        let name = "an_fd_handled_elsewhere_is_handled_again_by_glib";
        let _deadline = deadline(name);
        let Some(mut steps) = Steps::with(poller, name) else {
            continue;
        };
        let (notifier, count) = watched_notifier(&steps.aio);
        while steps.gmain.iteration(false) {}
        steps.prepare();
        let aio = steps.aio.clone();
        elsewhere(|| {
            notifier.signal();
            assert!(aio.poll(Wait::NoBlock).unwrap());
            assert_eq!(count.get(), 1);
            notifier.signal();
        });
        steps.sleep_until(|| count.get() == 2);
    }
}

/// A prepare that no check follows must not keep other threads from sleeping.
#[test]
fn a_thread_that_polls_after_glib_has_gone_sleeps() {
    for poller in Poller::ALL {
        let name = "a_thread_that_polls_after_glib_has_gone_sleeps";
        let _deadline = deadline(name);
        let Some(mut steps) = Steps::with(poller, name) else {
            continue;
        };
        steps.prepare();
        let aio = steps.aio.clone();
        elsewhere(|| {
            let over = Count::new();
            let timer = aio.timer(Clock::Realtime, over.hitter());
            timer.arm_in_ns(50_000_000);
            let mut turns = 0;
            while over.get() == 0 {
                aio.poll(Wait::Block).unwrap();
                turns += 1;
            }
            assert!(turns < 5, "{turns} turns in 50 ms");
        });
    }
}

#[test]
fn a_poll_that_is_refused_takes_nothing_from_glib() {
    let _deadline = deadline("a_poll_that_is_refused_takes_nothing_from_glib");
    let aio = AioContext::new().unwrap();
    let mut steps = Steps::new(aio.clone());
    let count = Count::new();
    let (polled, hit) = (aio.clone(), count.hitter());
    aio.schedule_oneshot("test", move || {
        let elsewhere = polled.clone();
        let refused = std::thread::spawn(move || elsewhere.poll(Wait::NoBlock)).join();
        assert_eq!(refused.unwrap().unwrap_err().kind(), ErrorKind::WrongThread);
        polled.schedule_oneshot("test", hit);
    });
    steps.prepare();
    steps.poll(0);
    assert!(steps.check());
    steps.prepare();
    steps.poll(steps.timeout);
    steps.check();
    assert_eq!(count.get(), 1);
}

/// With a request in flight, and each poller: after `iterate`, the end of the request wakes GLib.
fn wakes_after(name: &str, iterate: impl Fn(&mut Steps)) {
    let ends = Count::new();
    for poller in Poller::ALL {
        let _deadline = deadline(name);
        let Some(mut steps) = Steps::with(poller, name) else {
            continue;
        };
        let sink: Arc<dyn IoSink> = Arc::new(Ends(ends.clone()));
        let Ok(queue) = steps.aio.register_io(Arc::clone(&sink)) else {
            skip("this kernel allows no io_uring");
            return;
        };
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut byte = 0;
        let memory = &raw mut byte;
        let read = opcode::Read::new(types::Fd(reader.as_raw_fd()), memory, 1).build();
        // SAFETY: the byte and the pipe stay until the request has ended.
        let push = |batch: &mut IoBatch<'_>| unsafe { batch.push(1, read) };
        queue.batch(push).unwrap().unwrap();
        let expected = ends.get() + 1;
        iterate(&mut steps);
        steps.prepare();
        writer.write_all(b"x").unwrap();
        steps.sleep_until(|| ends.get() == expected);
        assert_eq!(byte, b'x');
    }
}

/// Prepare has found work, so dispatch follows without a check. In between, another thread waits in the ring. It need not wake
/// GLib, which does not sleep. From dispatch on the ring's fd is GLib's again.
#[test]
fn a_poll_elsewhere_before_dispatch_leaves_glib_the_wait() {
    let name = "a_poll_elsewhere_before_dispatch_leaves_glib_the_wait";
    wakes_after(name, |steps| {
        steps.aio.schedule_oneshot("work", || ());
        steps.prepare();
        steps.poll(0);
        let aio = steps.aio.clone();
        elsewhere(|| assert!(aio.poll(Wait::NoBlock).unwrap()));
        assert!(steps.check());
    });
}

/// A second GMainContext ends the sleep that the first one has announced. Then its thread waits in the ring.
#[test]
fn a_poll_elsewhere_before_check_leaves_glib_the_wait() {
    let name = "a_poll_elsewhere_before_check_leaves_glib_the_wait";
    wakes_after(name, |steps| {
        steps.prepare();
        let aio = steps.aio.clone();
        elsewhere(|| {
            let _other = Steps::new(aio.clone());
            assert!(!aio.poll(Wait::NoBlock).unwrap());
        });
        steps.poll(0);
        steps.check();
    });
}

/// Two GMainContexts have a source of one AioContext. One sleeps. The other one ends that sleep by its own steps, then goes.
#[test]
fn a_source_that_goes_wakes_the_other_one() {
    for poller in Poller::ALL {
        let name = "a_source_that_goes_wakes_the_other_one";
        let _deadline = deadline(name);
        let Some(mut steps) = Steps::with(poller, name) else {
            continue;
        };
        steps.prepare();
        let (aio, count) = (steps.aio.clone(), Count::new());
        elsewhere(|| drop(Steps::new(aio.clone())));
        let hit = count.hitter();
        elsewhere(|| aio.schedule_oneshot("test", hit));
        steps.sleep_until(|| count.get() == 1);
    }
}

/// A callback of a home has iterated GLib. Then the home asks GLib what its sources want, and waits by itself again.
#[test]
fn a_home_that_waits_again_after_glib_sees_requests_end() {
    let ends = Count::new();
    for poller in Poller::ALL {
        let name = "a_home_that_waits_again_after_glib_sees_requests_end";
        let _deadline = deadline(name);
        let Ok(reactor) = Reactor::with_poller(poller, Drivers::Any) else {
            skip("this kernel does not have the poller");
            continue;
        };
        let aio = AioContext::new().unwrap();
        aio.attach_to(&reactor).unwrap();
        let (gmain, source) = (glib::MainContext::new(), reactor.g_source().unwrap());
        source.attach(Some(&gmain));
        let sink: Arc<dyn IoSink> = Arc::new(Ends(ends.clone()));
        let Ok(queue) = aio.register_io(Arc::clone(&sink)) else {
            skip("this kernel allows no io_uring");
            return;
        };
        let driving = reactor.drive().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut byte = 0;
        let memory = &raw mut byte;
        let read = opcode::Read::new(types::Fd(reader.as_raw_fd()), memory, 1).build();
        // A worker of the kernel reads, so the end of the read interrupts no thread.
        let read = read.flags(squeue::Flags::ASYNC);
        // SAFETY: the byte and the pipe stay until the request has ended.
        let push = |batch: &mut IoBatch<'_>| unsafe { batch.push(1, read) };
        queue.batch(push).unwrap().unwrap();
        let expected = ends.get() + 1;
        while gmain.iteration(false) {}
        driving.ask_glib(|| ());
        while reactor.iterate(Wait::NoBlock).unwrap() {}
        let tid = gettid();
        let writer = std::thread::spawn(move || {
            wait_asleep(tid);
            writer.write_all(b"x").unwrap();
        });
        while ends.get() < expected {
            reactor.iterate(Wait::Block).unwrap();
        }
        writer.join().unwrap();
        assert_eq!(byte, b'x');
        source.destroy();
    }
}

/// Whichever thread comes first serves an event. None is lost between them.
#[test]
fn two_glib_loops_share_an_aio_context() {
    for poller in Poller::ALL {
        let name = format!("two_glib_loops_share_an_aio_context ({poller})");
        let _deadline = deadline(&name);
        let Some(aio) = context(poller, &name) else {
            continue;
        };
        let loops = [(); 2].map(|()| {
            let (gmain, source) = (glib::MainContext::new(), aio.g_source().unwrap());
            source.attach(Some(&gmain));
            let main_loop = glib::MainLoop::new(Some(&gmain), false);
            let running = main_loop.clone();
            (main_loop, std::thread::spawn(move || running.run()), source)
        });
        let (notifier, reads) = watched_notifier(&aio);
        for round in 1..=500 {
            let (ran, has_run) = std::sync::mpsc::channel();
            let fired = ran.clone();
            let timer = aio.timer(Clock::Realtime, move || fired.send(()).unwrap());
            timer.arm_in_ns(1000);
            aio.schedule_oneshot("test", move || ran.send(()).unwrap());
            notifier.signal();
            has_run.recv().unwrap();
            has_run.recv().unwrap();
            while reads.get() < round {
                std::thread::yield_now();
            }
        }
        for (main_loop, thread, source) in loops {
            main_loop.quit();
            thread.join().unwrap();
            source.destroy();
        }
    }
}
