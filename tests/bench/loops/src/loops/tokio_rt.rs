//! tokio's current-thread runtime. It has no public iteration; `yield_now` of the only task is the nearest thing.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, EnterGuard, Runtime};
use tokio::sync::{Notify, mpsc};
use tokio::task::{LocalSet, yield_now};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::event_loop::{
    Action, Deferred, Fds, Kind, Loop, Posts, Timers, Wait, Wakes, hit, hits, receive,
};
use crate::eventfd::EventFd;
use crate::{Result, clock};

/// Timers that are to be due are armed this far ahead: one that is due already is not queued at all.
const AHEAD_NS: i64 = 100_000_000;

type Post = Box<dyn FnOnce() + Send>;

pub(crate) struct Tokio {
    runtime: &'static Runtime,
    local: LocalSet,
    fds: HashMap<RawFd, AsyncFd<RawFd>>,
    notify: Option<Arc<Notify>>,
    posts: Option<mpsc::UnboundedReceiver<Post>>,
    waker: Waker,
    /// The instant of a time of the clock.
    epoch: (i64, Instant),
    _entered: EnterGuard<'static>,
}

/// A waker that counts.
struct Hit;

impl Wake for Hit {
    fn wake(self: Arc<Self>) {
        hit();
    }
}

impl Loop for Tokio {
    const NAME: &'static str = "tokio";
    const KIND: Kind = Kind::Peer;

    fn new() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let runtime: &'static Runtime = Box::leak(Box::new(runtime));
        Ok(Tokio {
            runtime,
            local: LocalSet::new(),
            fds: HashMap::new(),
            notify: None,
            posts: None,
            waker: Arc::new(Hit).into(),
            epoch: (clock::now_ns(), Instant::now()),
            _entered: runtime.enter(),
        })
    }

    fn iterate(&mut self, _wait: Wait) {
        self.runtime.block_on(self.local.run_until(yield_now()));
    }

    fn iterate_idly(&mut self, count: u64) {
        self.runtime.block_on(async {
            for _ in 0..count {
                yield_now().await;
            }
        });
    }

    fn iterate_until(&mut self, count: u64) {
        if let Some(notify) = &self.notify {
            while hits() < count {
                self.runtime.block_on(notify.notified());
                hit();
            }
        }
        if let Some(posts) = &mut self.posts {
            self.runtime.block_on(async {
                while hits() < count {
                    if let Some(post) = posts.recv().await {
                        post();
                    }
                }
            });
        }
    }
}

impl Fds for Tokio {
    fn watch(&mut self, fd: RawFd, _action: Action) -> Result<()> {
        #[expect(deprecated)] // what comes instead is unsafe; these fds stay open
        let watched = AsyncFd::with_interest(fd, Interest::READABLE)?;
        self.fds.insert(fd, watched);
        Ok(())
    }

    fn unwatch(&mut self, fd: RawFd) {
        self.fds.remove(&fd);
    }

    fn dispatch(&mut self, active: &EventFd, ops: u64) {
        let fd = active.as_raw_fd();
        let watched = &self.fds[&fd];
        self.runtime.block_on(async {
            for _ in 0..ops {
                active.signal();
                if let Ok(mut ready) = watched.readable().await {
                    Action::Read.perform(fd);
                    ready.clear_ready();
                }
            }
        });
    }
}

impl Deferred for Tokio {
    type Bh = ();

    fn bh(&mut self) {}

    fn schedule(&mut self, (): &()) {
        self.local.spawn_local(async { hit() });
    }
}

impl Timers for Tokio {
    type Timer = Pin<Box<Sleep>>;

    fn timer(&mut self) -> Pin<Box<Sleep>> {
        Box::pin(sleep_until(self.epoch.1))
    }

    fn arm(&mut self, timer: &mut Pin<Box<Sleep>>, deadline_ns: i64) {
        let ahead = deadline_ns - self.epoch.0;
        let ahead = Duration::from_nanos(u64::try_from(ahead).unwrap_or(0));
        timer.as_mut().reset(self.epoch.1 + ahead);
        let _ = timer.as_mut().poll(&mut Context::from_waker(&self.waker));
    }

    fn arm_due(&mut self, timer: &mut Self::Timer, now_ns: i64, early_ns: i64) {
        self.arm(timer, now_ns + AHEAD_NS - early_ns);
    }

    fn pass_deadlines(&mut self) {
        std::thread::sleep(Duration::from_nanos(AHEAD_NS.unsigned_abs() + 2_000_000));
    }
}

impl Wakes for Tokio {
    type Waker = Arc<Notify>;

    fn waker(&mut self) -> Result<Arc<Notify>> {
        let notify = Arc::new(Notify::new());
        self.notify = Some(Arc::clone(&notify));
        Ok(notify)
    }

    fn wake(waker: &Arc<Notify>) {
        waker.notify_one();
    }
}

impl Posts for Tokio {
    type Poster = mpsc::UnboundedSender<Post>;

    fn poster(&mut self) -> Result<mpsc::UnboundedSender<Post>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.posts = Some(receiver);
        Ok(sender)
    }

    fn post(poster: &mpsc::UnboundedSender<Post>, number: u64) {
        let _ = poster.send(Box::new(move || receive(number)));
    }
}
