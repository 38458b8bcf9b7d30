//! libevent, through the few of its calls that are needed.
#![allow(unsafe_code)] // C library

use std::collections::HashMap;
use std::ffi::{c_int, c_short, c_void};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::event_loop::{
    Action, Deferred, Fds, Kind, Loop, Posts, Timers, Wait, Wakes, hit, receive,
};
use crate::eventfd::{self, EventFd};
use crate::{Result, clock};

#[repr(C)]
pub(crate) struct Opaque([u8; 0]);

type Pointer = *mut Opaque;
type Callback = extern "C" fn(c_int, c_short, *mut c_void);

const TIMEOUT: c_short = 1;
const READ: c_short = 2;
const PERSIST: c_short = 0x10;
const ONCE: c_int = 1;
const NONBLOCK: c_int = 2;
const PRECISE_TIMER: c_int = 0x20;

#[link(name = "event_core")]
unsafe extern "C" {
    fn event_config_new() -> Pointer;
    fn event_config_set_flag(config: Pointer, flag: c_int) -> c_int;
    fn event_config_free(config: Pointer);
    fn event_base_new_with_config(config: Pointer) -> Pointer;
    fn event_base_free(base: Pointer);
    fn event_base_loop(base: Pointer, flags: c_int) -> c_int;
    fn event_new(
        base: Pointer,
        fd: c_int,
        events: c_short,
        callback: Callback,
        data: *mut c_void,
    ) -> Pointer;
    fn event_add(event: Pointer, timeout: *const libc::timeval) -> c_int;
    fn event_active(event: Pointer, events: c_int, calls: c_short);
    fn event_free(event: Pointer);
}

extern "C" fn on_read(fd: c_int, _events: c_short, _data: *mut c_void) {
    Action::Read.perform(fd);
}

extern "C" fn on_hit(_fd: c_int, _events: c_short, _data: *mut c_void) {
    hit();
}

/// The list that users of libevent write around an eventfd.
type Queue = Mutex<Vec<Box<dyn FnOnce() + Send>>>;

extern "C" fn on_posts(fd: c_int, _events: c_short, data: *mut c_void) {
    eventfd::read(fd);
    let queue: *const Queue = data.cast_const().cast();
    // SAFETY: the data is a queue that is never freed.
    let queue = unsafe { &*queue };
    let posts = std::mem::take(&mut *queue.lock().unwrap_or_else(PoisonError::into_inner));
    posts.into_iter().for_each(|post| post());
}

/// An event of a base, which outlives it: bases are freed only when a bench is over, after their events.
pub(crate) struct Event(Pointer);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is ours; events are dropped before their base.
        unsafe { event_free(self.0) };
    }
}

struct Base(Pointer);

impl Drop for Base {
    fn drop(&mut self) {
        // SAFETY: the base is ours.
        unsafe { event_base_free(self.0) };
    }
}

pub(crate) struct Libevent {
    /// Before the base.
    events: HashMap<RawFd, Event>,
    /// Leaked: deferred callbacks and timers of a workload may be dropped after the loop.
    base: &'static Base,
}

impl Libevent {
    fn event(&self, fd: RawFd, events: c_short, callback: Callback, data: *mut c_void) -> Event {
        // SAFETY: the base is alive.
        Event(unsafe { event_new(self.base.0, fd, events, callback, data) })
    }

    fn watched(&self, fd: RawFd, callback: Callback, data: *mut c_void) -> Event {
        let event = self.event(fd, READ | PERSIST, callback, data);
        // SAFETY: the event is initialised; without a timeout.
        unsafe { event_add(event.0, ptr::null()) };
        event
    }
}

impl Loop for Libevent {
    const NAME: &'static str = "libevent";
    const KIND: Kind = Kind::Peer;

    fn new() -> Result<Self> {
        // SAFETY: takes nothing.
        let config = unsafe { event_config_new() };
        // SAFETY: the configuration is ours.
        unsafe { event_config_set_flag(config, PRECISE_TIMER) };
        // SAFETY: as above.
        let base = unsafe { event_base_new_with_config(config) };
        // SAFETY: as above; it is used no more.
        unsafe { event_config_free(config) };
        if base.is_null() {
            return Err("no base".into());
        }
        Ok(Libevent {
            events: HashMap::new(),
            base: Box::leak(Box::new(Base(base))),
        })
    }

    fn iterate(&mut self, wait: Wait) {
        let flags = if wait == Wait::Block { ONCE } else { NONBLOCK };
        // SAFETY: the base is alive and this thread's.
        unsafe { event_base_loop(self.base.0, flags) };
    }
}

impl Fds for Libevent {
    fn watch(&mut self, fd: RawFd, action: Action) -> Result<()> {
        let callback = if action == Action::Read {
            on_read
        } else {
            on_hit
        };
        let event = self.watched(fd, callback, ptr::null_mut());
        self.events.insert(fd, event);
        Ok(())
    }

    fn unwatch(&mut self, fd: RawFd) {
        self.events.remove(&fd);
    }
}

impl Deferred for Libevent {
    type Bh = Event;

    fn bh(&mut self) -> Event {
        self.event(-1, 0, on_hit, ptr::null_mut())
    }

    fn schedule(&mut self, event: &Event) {
        // SAFETY: the event is initialised.
        unsafe { event_active(event.0, c_int::from(TIMEOUT), 1) };
    }
}

impl Timers for Libevent {
    type Timer = Event;

    fn timer(&mut self) -> Event {
        self.event(-1, TIMEOUT, on_hit, ptr::null_mut())
    }

    fn arm(&mut self, timer: &mut Event, deadline_ns: i64) {
        let delay = (deadline_ns - clock::now_ns()).max(0);
        let delay = libc::timeval {
            tv_sec: delay / 1_000_000_000,
            tv_usec: delay % 1_000_000_000 / 1000,
        };
        // SAFETY: the event is initialised, the time valid for the call.
        unsafe { event_add(timer.0, &raw const delay) };
    }
}

impl Wakes for Libevent {
    type Waker = EventFd;

    fn waker(&mut self) -> Result<EventFd> {
        self.watch_signal()
    }

    fn wake(waker: &EventFd) {
        waker.signal();
    }
}

#[derive(Clone)]
pub(crate) struct Poster {
    wake: Arc<EventFd>,
    queue: &'static Queue,
}

impl Posts for Libevent {
    type Poster = Poster;

    fn poster(&mut self) -> Result<Poster> {
        let wake = Arc::new(EventFd::new()?);
        let queue: &'static Queue = Box::leak(Box::default());
        let data = ptr::from_ref(queue).cast_mut().cast();
        let event = self.watched(wake.as_raw_fd(), on_posts, data);
        self.events.insert(wake.as_raw_fd(), event);
        Ok(Poster { wake, queue })
    }

    /// One write for each batch: the thread that finds the list empty wakes the loop.
    fn post(poster: &Poster, number: u64) {
        let mut queue = poster.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let first = queue.is_empty();
        queue.push(Box::new(move || receive(number)));
        drop(queue);
        if first {
            poster.wake.signal();
        }
    }
}
