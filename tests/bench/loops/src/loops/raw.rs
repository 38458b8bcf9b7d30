//! The limit: the bare calls and structures a loop is made of, with nothing around them.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::raw_heap::Heap;
use super::raw_stack::Stack;
use crate::epoll::Epoll;
use crate::event_loop::{Action, Deferred, Fds, Kind, Loop, Posts, Timers, Wait, Wakes, hit};
use crate::eventfd::EventFd;
use crate::{Result, clock};

/// The token of what is not an fd with an action.
const WAKE: u64 = u64::MAX;

/// epoll, a heap of timers, a vector of deferred callbacks.
pub(crate) struct Raw {
    epoll: Epoll,
    heap: Heap,
    deferred: Vec<fn()>,
    running: Vec<fn()>,
    signal: Option<Arc<EventFd>>,
}

impl Raw {
    /// Waits for fds and acts.
    #[inline]
    fn poll(&mut self, wait: Wait) {
        let count = match (wait, self.heap.first()) {
            (Wait::NoBlock, _) => self.epoll.wait(0),
            (Wait::Block, None) => self.epoll.wait(-1),
            (Wait::Block, Some(deadline)) => {
                let left = (deadline - clock::now_ns()).max(0);
                self.epoll.wait_ns(left)
            }
        };
        for event in &self.epoll.events[..count] {
            act(event.u64);
        }
    }

    fn run_deferred(&mut self) {
        std::mem::swap(&mut self.deferred, &mut self.running);
        for callback in self.running.drain(..) {
            callback();
        }
    }

    fn run_timers(&mut self) {
        if self.heap.first().is_none() {
            return;
        }
        let now = clock::now_ns();
        while self.heap.pop(now).is_some() {
            hit();
        }
    }
}

fn token(fd: RawFd, action: Action) -> u64 {
    let bit = u64::from(action == Action::Read) << 32;
    u64::from(fd.cast_unsigned()) | bit
}

#[inline]
fn act(token: u64) {
    if token == WAKE {
        hit();
    } else if token >> 32 == 1 {
        let fd = i32::try_from(token & 0xffff_ffff).unwrap_or(-1);
        Action::Read.perform(fd);
    } else {
        hit();
    }
}

impl Loop for Raw {
    const NAME: &'static str = "raw";
    const KIND: Kind = Kind::Limit;

    fn new() -> Result<Self> {
        Ok(Raw {
            epoll: Epoll::new()?,
            heap: Heap::default(),
            deferred: Vec::new(),
            running: Vec::new(),
            signal: None,
        })
    }

    #[inline]
    fn iterate(&mut self, wait: Wait) {
        if self.deferred.is_empty() {
            self.poll(wait);
        } else {
            self.run_deferred();
        }
        self.run_timers();
    }
}

impl Fds for Raw {
    fn watch(&mut self, fd: RawFd, action: Action) -> Result<()> {
        self.epoll.add(fd, libc::EPOLLIN, token(fd, action))
    }

    fn unwatch(&mut self, fd: RawFd) {
        self.epoll.delete(fd);
    }
}

impl Deferred for Raw {
    type Bh = fn();

    fn bh(&mut self) -> fn() {
        hit
    }

    fn schedule(&mut self, bh: &fn()) {
        self.deferred.push(*bh);
    }
}

impl Timers for Raw {
    /// Allocated, because what a timer calls must live somewhere.
    type Timer = Box<usize>;

    fn timer(&mut self) -> Box<usize> {
        Box::new(self.heap.timer())
    }

    fn arm(&mut self, timer: &mut Box<usize>, deadline_ns: i64) {
        self.heap.arm(**timer, deadline_ns);
    }

    fn delete(&mut self, _timers: Vec<Box<usize>>) {
        self.heap.clear();
    }
}

impl Wakes for Raw {
    type Waker = Arc<EventFd>;

    fn waker(&mut self) -> Result<Arc<EventFd>> {
        let fd = Arc::new(self.watch_signal()?);
        self.signal = Some(Arc::clone(&fd));
        Ok(fd)
    }

    fn wake(waker: &Arc<EventFd>) {
        waker.signal();
    }
}

/// The cheapest wake-up that sleeps: an edge-triggered eventfd that is never read.
pub(crate) struct RawEdge(Raw);

impl Loop for RawEdge {
    const NAME: &'static str = "raw edge-triggered";
    const KIND: Kind = Kind::Limit;

    fn new() -> Result<Self> {
        Raw::new().map(RawEdge)
    }

    fn iterate(&mut self, wait: Wait) {
        self.0.poll(wait);
    }
}

impl Wakes for RawEdge {
    type Waker = Arc<EventFd>;

    fn waker(&mut self) -> Result<Arc<EventFd>> {
        let fd = Arc::new(EventFd::new()?);
        let edge = libc::EPOLLIN | libc::EPOLLET;
        self.0.epoll.add(fd.as_raw_fd(), edge, WAKE)?;
        self.0.signal = Some(Arc::clone(&fd));
        Ok(fd)
    }

    fn wake(waker: &Arc<EventFd>) {
        waker.signal();
    }
}

/// A lock-free list, and one write each time that the receiver sleeps.
pub(crate) struct RawList {
    epoll: Epoll,
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    list: Stack,
    /// The receiver sleeps, or is about to.
    armed: AtomicBool,
    wake: EventFd,
}

impl Loop for RawList {
    const NAME: &'static str = "raw list";
    const KIND: Kind = Kind::Limit;

    fn new() -> Result<Self> {
        let epoll = Epoll::new()?;
        let wake = EventFd::new()?;
        epoll.add(wake.as_raw_fd(), libc::EPOLLIN | libc::EPOLLET, WAKE)?;
        let shared = Arc::new(Shared {
            list: Stack::default(),
            armed: AtomicBool::new(false),
            wake,
        });
        Ok(RawList { epoll, shared })
    }

    fn iterate(&mut self, wait: Wait) {
        if wait == Wait::Block && self.shared.list.is_empty() {
            self.shared.armed.store(true, Ordering::SeqCst);
            if self.shared.list.is_empty() {
                self.epoll.wait(-1);
            }
            self.shared.armed.store(false, Ordering::Relaxed);
        }
        self.shared.list.run_all();
    }
}

impl Posts for RawList {
    type Poster = Arc<Shared>;

    fn poster(&mut self) -> Result<Arc<Shared>> {
        Ok(Arc::clone(&self.shared))
    }

    fn post(poster: &Arc<Shared>, number: u64) {
        poster.list.push(number);
        if poster.armed.load(Ordering::SeqCst) && poster.armed.swap(false, Ordering::SeqCst) {
            poster.wake.signal();
        }
    }
}

/// A word in memory that the other thread writes, looked at all the time.
pub(crate) struct RawSpin {
    word: Arc<AtomicBool>,
}

impl Loop for RawSpin {
    const NAME: &'static str = "raw spin";
    const KIND: Kind = Kind::Limit;

    fn new() -> Result<Self> {
        Ok(RawSpin {
            word: Arc::default(),
        })
    }

    fn iterate(&mut self, _wait: Wait) {
        // Spins for a while, then yields the processor.
        for _ in 0..1000 {
            if self.word.load(Ordering::Acquire) {
                self.word.store(false, Ordering::Relaxed);
                hit();
                return;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
}

impl Wakes for RawSpin {
    type Waker = Arc<AtomicBool>;

    fn waker(&mut self) -> Result<Arc<AtomicBool>> {
        Ok(Arc::clone(&self.word))
    }

    fn wake(waker: &Arc<AtomicBool>) {
        waker.store(true, Ordering::Release);
    }
}
