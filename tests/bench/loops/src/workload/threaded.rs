//! The workloads on contexts with threads of their own, which only their own threads iterate: the events follow each other there,
//! and the home thread keeps the time.
#![forbid(unsafe_code)]

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use qcontext::{AioContext, Bh, FdHandler, PollParams, QContext};

use super::remote::{POSTS, Start};
use crate::cell::{Cell, Runner, Sample};
use crate::event_loop::{Kind, receive};
use crate::eventfd::{self, EventFd};
use crate::{Result, clock, machine};

/// A cell of these.
pub(crate) fn cell(make: fn(usize) -> Result<Runner>) -> Cell {
    named("qcontext thread", make)
}

/// A cell of these with a GSource that is not ours on the context.
pub(crate) fn cell_with_foreign(make: fn(usize) -> Result<Runner>) -> Cell {
    named("qcontext thread+foreign", make)
}

fn named(name: &'static str, make: fn(usize) -> Result<Runner>) -> Cell {
    Cell {
        name,
        kind: Kind::Ours,
        make,
    }
}

fn context() -> Result<(QContext, AioContext)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let id = format!("thread{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let context = QContext::new(&id, true)?;
    // The workloads are those of loops that sleep.
    context.set_poll_params(PollParams::default())?;
    let aio = AioContext::new()?;
    context.attach(&aio, None)?;
    Ok((context, aio))
}

/// A slice under way. Written by the home thread, except while nothing runs.
struct Run {
    left: AtomicU64,
    begin: AtomicI64,
    /// The time of the last event.
    ended: Mutex<mpsc::Receiver<i64>>,
    end: mpsc::SyncSender<i64>,
}

impl Run {
    /// Callbacks of posts must be as small as those of the other loops, so nothing is counted for them.
    fn leaked() -> &'static Run {
        let (end, ended) = mpsc::sync_channel(1);
        Box::leak(Box::new(Run {
            left: AtomicU64::new(0),
            begin: AtomicI64::new(0),
            ended: Mutex::new(ended),
            end,
        }))
    }

    /// The first event starts the clock, so there is one more.
    fn arm(&self, ops: u64) {
        self.left.store(ops + 1, Ordering::Release);
        self.begin.store(0, Ordering::Release);
    }

    /// An event has come; true when another one must follow.
    fn event(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed).wrapping_sub(1);
        self.left.store(left, Ordering::Relaxed);
        if self.begin.load(Ordering::Relaxed) == 0 {
            self.begin.store(clock::now_ns(), Ordering::Relaxed);
        }
        if left == 0 {
            let _ = self.end.try_send(clock::now_ns());
        }
        left > 0
    }

    /// Waits for the last event; its time.
    fn end(&self) -> Result<i64> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let end = ended.recv_timeout(Duration::from_secs(20))?;
        if self.left.load(Ordering::Acquire) != 0 {
            return Err("more events came than were due".into());
        }
        Ok(end)
    }

    fn sample(&self, ops: u64) -> Result<Sample> {
        let end = self.end()?;
        let ns = (end - self.begin.load(Ordering::Acquire)) as f64;
        Ok(Sample { ns, ops })
    }
}

/// See [`super::fd::dispatch`].
pub(crate) fn dispatch(idle: usize) -> Result<Runner> {
    let (context, aio) = context()?;
    dispatch_on(context, aio, idle)
}

/// The same where GLib must be asked too.
pub(crate) fn dispatch_with_foreign(idle: usize) -> Result<Runner> {
    let (context, aio) = context()?;
    let hour = Duration::from_secs(3600);
    let source = glib::timeout_source_new(hour, None, glib::Priority::DEFAULT, || {
        glib::ControlFlow::Continue
    });
    context.attach_source(&source, None)?;
    dispatch_on(context, aio, idle)
}

fn dispatch_on(context: QContext, aio: AioContext, idle: usize) -> Result<Runner> {
    for fd in eventfd::idle(idle)?.iter().map(|idle| idle.as_raw_fd()) {
        aio.set_fd_handler(fd, FdHandler::new().on_read(move || eventfd::read(fd)))?;
    }
    let run = Run::leaked();
    let active = Arc::new(EventFd::new()?);
    let again = Arc::clone(&active);
    let handler = FdHandler::new().on_read(move || {
        eventfd::read(again.as_raw_fd());
        if run.event() {
            again.signal();
        }
    });
    aio.set_fd_handler(active.as_raw_fd(), handler)?;
    Ok(Box::new(move |ops| {
        let _running = (&context, &aio);
        run.arm(ops);
        active.signal();
        run.sample(ops)
    }))
}

/// See [`super::bh::local`].
pub(crate) fn bh(count: usize) -> Result<Runner> {
    let (context, aio) = context()?;
    let run = Run::leaked();
    let bhs: Arc<OnceLock<Vec<Bh>>> = Arc::default();
    let all = Arc::downgrade(&bhs);
    let first = aio.bh("bench", move || {
        if run.event()
            && let Some(again) = all.upgrade()
        {
            again.wait().iter().for_each(Bh::schedule);
        }
    });
    let others = (1..count).map(|_| aio.bh("bench", crate::event_loop::hit));
    let _ = bhs.set([first].into_iter().chain(others).collect());
    Ok(Box::new(move |ops| {
        let _running = (&context, &aio);
        let rounds = ops.div_ceil(count as u64);
        run.arm(rounds);
        bhs.wait()[0].schedule();
        let sample = run.sample(rounds)?;
        Ok(Sample {
            ops: rounds * count as u64,
            ..sample
        })
    }))
}

/// See [`super::remote::ping_pong`].
pub(crate) fn ping_pong(cpus: usize) -> Result<Runner> {
    machine::require_cpus(cpus)?;
    let (ping, ping_aio) = context()?;
    let (pong, pong_aio) = context()?;
    ping.invoke_sync(|| machine::pin(0))?;
    pong.invoke_sync(move || machine::pin(cpus - 1))?;
    let run = Run::leaked();
    let back: Arc<OnceLock<Bh>> = Arc::default();
    let return_trip = Arc::clone(&back);
    let there = pong_aio.bh("pong", move || return_trip.wait().schedule());
    let there = Arc::new(there);
    let next = Arc::downgrade(&there);
    let home = ping_aio.bh("ping", move || {
        if run.event()
            && let Some(trip) = next.upgrade()
        {
            trip.schedule();
        }
    });
    let _ = back.set(home);
    Ok(Box::new(move |ops| {
        let _running = (&ping, &pong, &ping_aio, &pong_aio, &there);
        run.arm(ops);
        back.wait().schedule();
        run.sample(ops)
    }))
}

/// See [`super::remote::post`].
pub(crate) fn post(producers: usize) -> Result<Runner> {
    machine::require_cpus(2)?;
    let (context, aio) = context()?;
    let run = Run::leaked();
    Ok(Box::new(move |_| {
        let _running = &aio;
        let share = POSTS / producers as u64;
        let all = share * producers as u64;
        run.arm(all - 1);
        let start = Start::new(producers);
        thread::scope(|scope| {
            for _ in 0..producers {
                scope.spawn(|| {
                    start.begin();
                    (0..share).for_each(|number| post_one(&context, run, number));
                });
            }
            start.release();
        });
        let ns = start.until(run.end()?);
        Ok(Sample { ns, ops: all })
    }))
}

fn post_one(context: &QContext, run: &'static Run, number: u64) {
    let _ = context.invoke(move || {
        receive(number);
        run.event();
    });
}
