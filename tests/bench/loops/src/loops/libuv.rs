//! libuv, through the few of its calls that are needed.
//!
//! # Invariants
//! 1. Handles are never freed: each is closed at most once, and the loop is run afterwards, so libuv is done with it. A
//!    bench process does not live long.
//! 2. The `data` of a handle is the fd of a poll handle with its action's bit, or the posts of an async one.
#![allow(unsafe_code)] // C library

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};

use crate::Result;
use crate::event_loop::{
    Action, Deferred, Fds, Kind, Loop, Posts, Timers, Wait, Wakes, hit, receive,
};

/// `uv_loop_t` or any handle.
#[repr(C, align(16))]
pub(crate) struct Opaque([u8; 0]);

type Handle = *mut Opaque;
type Callback = extern "C" fn(Handle);
type PollCallback = extern "C" fn(Handle, c_int, c_int);

const ASYNC: c_int = 1;
const IDLE: c_int = 6;
const POLL: c_int = 8;
const TIMER: c_int = 13;
const RUN_ONCE: c_int = 1;
const RUN_NOWAIT: c_int = 2;
const READABLE: c_int = 1;

#[link(name = "uv")]
unsafe extern "C" {
    fn uv_loop_size() -> usize;
    fn uv_loop_init(looped: Handle) -> c_int;
    fn uv_run(looped: Handle, mode: c_int) -> c_int;
    fn uv_update_time(looped: Handle);
    fn uv_now(looped: Handle) -> u64;
    fn uv_handle_size(kind: c_int) -> usize;
    fn uv_handle_get_data(handle: Handle) -> *mut c_void;
    fn uv_handle_set_data(handle: Handle, data: *mut c_void);
    fn uv_close(handle: Handle, closed: Option<Callback>);
    fn uv_poll_init(looped: Handle, poll: Handle, fd: c_int) -> c_int;
    fn uv_poll_start(poll: Handle, events: c_int, callback: PollCallback) -> c_int;
    fn uv_idle_init(looped: Handle, idle: Handle) -> c_int;
    fn uv_idle_start(idle: Handle, callback: Callback) -> c_int;
    fn uv_idle_stop(idle: Handle) -> c_int;
    fn uv_timer_init(looped: Handle, timer: Handle) -> c_int;
    fn uv_timer_start(timer: Handle, callback: Callback, timeout_ms: u64, repeat: u64) -> c_int;
    fn uv_async_init(looped: Handle, handle: Handle, callback: Callback) -> c_int;
    fn uv_async_send(handle: Handle) -> c_int;
}

extern "C" fn on_ready(poll: Handle, _status: c_int, _events: c_int) {
    // SAFETY: libuv calls with a live handle.
    let data = unsafe { uv_handle_get_data(poll) }.addr();
    let action = if data & 1 == 1 {
        Action::Read
    } else {
        Action::Count
    };
    action.perform(RawFd::try_from(data >> 1).unwrap_or(-1));
}

extern "C" fn on_idle(idle: Handle) {
    // SAFETY: libuv calls with a live handle.
    unsafe { uv_idle_stop(idle) };
    hit();
}

extern "C" fn on_hit(_handle: Handle) {
    hit();
}

/// The list that users of libuv write around its wake-up.
type Queue = Mutex<Vec<Box<dyn FnOnce() + Send>>>;

extern "C" fn on_posts(handle: Handle) {
    // SAFETY: libuv calls with a live handle.
    let queue: *const Queue = unsafe { uv_handle_get_data(handle) }.cast_const().cast();
    // SAFETY: invariant 2; the queue is never freed.
    let queue = unsafe { &*queue };
    let posts = std::mem::take(&mut *queue.lock().unwrap_or_else(PoisonError::into_inner));
    posts.into_iter().for_each(|post| post());
}

fn allocate(size: usize) -> Handle {
    let words = size.div_ceil(16);
    Box::leak(vec![0_u128; words].into_boxed_slice())
        .as_mut_ptr()
        .cast()
}

pub(crate) struct Libuv {
    looped: Handle,
    polls: HashMap<RawFd, Handle>,
    /// Closed timers, which are used again: libuv is done with them after an iteration.
    closed: Vec<Handle>,
}

impl Libuv {
    fn handle(kind: c_int) -> Handle {
        // SAFETY: the size of a kind of handle.
        allocate(unsafe { uv_handle_size(kind) })
    }

    fn run(&mut self, mode: c_int) {
        // SAFETY: the loop is initialised and this thread's.
        unsafe { uv_run(self.looped, mode) };
    }
}

impl Loop for Libuv {
    const NAME: &'static str = "libuv";
    const KIND: Kind = Kind::Peer;

    fn new() -> Result<Self> {
        // SAFETY: the size of a loop.
        let looped = allocate(unsafe { uv_loop_size() });
        // SAFETY: the memory is large enough and is never freed.
        if unsafe { uv_loop_init(looped) } < 0 {
            return Err("no loop".into());
        }
        Ok(Libuv {
            looped,
            polls: HashMap::new(),
            closed: Vec::new(),
        })
    }

    fn iterate(&mut self, wait: Wait) {
        self.run(if wait == Wait::Block {
            RUN_ONCE
        } else {
            RUN_NOWAIT
        });
    }
}

impl Fds for Libuv {
    const LAZY: bool = true;

    fn watch(&mut self, fd: RawFd, action: Action) -> Result<()> {
        let poll = Libuv::handle(POLL);
        // SAFETY: the loop is initialised, the handle fresh.
        if unsafe { uv_poll_init(self.looped, poll, fd) } < 0 {
            return Err("libuv cannot watch an fd".into());
        }
        let data = usize::try_from(fd)? << 1 | usize::from(action == Action::Read);
        // SAFETY: the handle is initialised; the data is a number (invariant 2).
        unsafe { uv_handle_set_data(poll, std::ptr::without_provenance_mut(data)) };
        // SAFETY: the handle is initialised.
        unsafe { uv_poll_start(poll, READABLE, on_ready) };
        self.polls.insert(fd, poll);
        Ok(())
    }

    fn unwatch(&mut self, fd: RawFd) {
        if let Some(poll) = self.polls.remove(&fd) {
            // SAFETY: the handle is initialised and closed once, for it has left the table.
            unsafe { uv_close(poll, None) };
        }
    }
}

impl Deferred for Libuv {
    type Bh = Handle;

    fn bh(&mut self) -> Handle {
        let idle = Libuv::handle(IDLE);
        // SAFETY: the loop is initialised, the handle fresh.
        unsafe { uv_idle_init(self.looped, idle) };
        idle
    }

    fn schedule(&mut self, idle: &Handle) {
        // SAFETY: the handle is initialised.
        unsafe { uv_idle_start(*idle, on_idle) };
    }
}

impl Timers for Libuv {
    type Timer = Handle;

    fn timer(&mut self) -> Handle {
        let timer = self.closed.pop().unwrap_or_else(|| Libuv::handle(TIMER));
        // SAFETY: the loop is initialised, the handle fresh.
        unsafe { uv_timer_init(self.looped, timer) };
        timer
    }

    fn arm(&mut self, timer: &mut Handle, deadline_ns: i64) {
        // SAFETY: the loop is initialised.
        let now = unsafe { uv_now(self.looped) };
        // Rounded up, as nothing may fire early.
        let deadline = u64::try_from(deadline_ns).unwrap_or(0).div_ceil(1_000_000);
        // SAFETY: the handle is initialised.
        unsafe { uv_timer_start(*timer, on_hit, deadline.saturating_sub(now), 0) };
    }

    fn pass_deadlines(&mut self) {
        // SAFETY: the loop is initialised.
        unsafe { uv_update_time(self.looped) };
    }

    fn delete(&mut self, timers: Vec<Handle>) {
        for timer in timers {
            // SAFETY: the handle is initialised and closed once.
            unsafe { uv_close(timer, None) };
            self.closed.push(timer);
        }
    }
}

/// An async handle. Sending is allowed from every thread.
#[derive(Clone)]
pub(crate) struct Async(Handle, &'static Queue);

// SAFETY: uv_async_send() may be called from any thread; the queue has a lock.
unsafe impl Send for Async {}

impl Libuv {
    fn asynchronous(&mut self, callback: Callback) -> Async {
        let handle = Libuv::handle(ASYNC);
        let queue: &'static Queue = Box::leak(Box::default());
        // SAFETY: the loop is initialised, the handle fresh.
        unsafe { uv_async_init(self.looped, handle, callback) };
        let data = std::ptr::from_ref(queue).cast_mut().cast();
        // SAFETY: the handle is initialised (invariant 2).
        unsafe { uv_handle_set_data(handle, data) };
        Async(handle, queue)
    }
}

impl Wakes for Libuv {
    type Waker = Async;

    fn waker(&mut self) -> Result<Async> {
        Ok(self.asynchronous(on_hit))
    }

    fn wake(waker: &Async) {
        // SAFETY: the handle is initialised and never closed.
        unsafe { uv_async_send(waker.0) };
    }
}

impl Posts for Libuv {
    type Poster = Async;

    fn poster(&mut self) -> Result<Async> {
        Ok(self.asynchronous(on_posts))
    }

    fn post(poster: &Async, number: u64) {
        let mut queue = poster.1.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(Box::new(move || receive(number)));
        drop(queue);
        Libuv::wake(poster);
    }
}
