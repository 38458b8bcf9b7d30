//! Plain GLib: a GMainContext with a GSource for each thing.
#![allow(unsafe_code)] // ready times exist in C only

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::time::Duration;

use glib::translate::ToGlibPtr;
use glib::{ControlFlow, MainContext, Priority, Source};

use crate::Result;
use crate::event_loop::{
    Action, Deferred, Fds, Kind, Loop, Posts, Timers, Wait, Wakes, hit, receive,
};
use crate::eventfd::EventFd;

pub(crate) struct Glib {
    main: MainContext,
    fds: HashMap<RawFd, Source>,
}

impl Loop for Glib {
    const NAME: &'static str = "GLib";
    const KIND: Kind = Kind::Peer;

    fn new() -> Result<Self> {
        Ok(Glib {
            main: MainContext::new(),
            fds: HashMap::new(),
        })
    }

    fn iterate(&mut self, wait: Wait) {
        self.main.iteration(wait == Wait::Block);
    }
}

impl Fds for Glib {
    fn watch(&mut self, fd: RawFd, action: Action) -> Result<()> {
        let callback = move |_: RawFd, _| {
            action.perform(fd);
            ControlFlow::Continue
        };
        let ready = glib::IOCondition::IN;
        let source = glib_unix::fd_source_new(fd, ready, None, Priority::DEFAULT, callback);
        source.attach(Some(&self.main));
        self.fds.insert(fd, source);
        Ok(())
    }

    fn unwatch(&mut self, fd: RawFd) {
        if let Some(source) = self.fds.remove(&fd) {
            source.destroy();
        }
    }
}

impl Deferred for Glib {
    type Bh = MainContext;

    fn bh(&mut self) -> MainContext {
        self.main.clone()
    }

    fn schedule(&mut self, main: &MainContext) {
        once(main, hit);
    }
}

/// A source that runs `callback` in the next iteration and goes away.
fn once(main: &MainContext, callback: impl Fn() + Send + 'static) {
    let source = glib::idle_source_new(None, Priority::DEFAULT, move || {
        callback();
        ControlFlow::Break
    });
    source.attach(Some(main));
}

impl Posts for Glib {
    type Poster = MainContext;

    fn poster(&mut self) -> Result<MainContext> {
        Ok(self.main.clone())
    }

    fn post(main: &MainContext, number: u64) {
        once(main, move || receive(number));
    }
}

impl Wakes for Glib {
    type Waker = EventFd;

    fn waker(&mut self) -> Result<EventFd> {
        self.watch_signal()
    }

    fn wake(waker: &EventFd) {
        waker.signal();
    }
}

/// A source with a ready time.
pub(crate) struct Timeout(Source);

impl Drop for Timeout {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

impl Timers for Glib {
    type Timer = Timeout;

    fn timer(&mut self) -> Timeout {
        let hour = Duration::from_secs(3600);
        let source = glib::timeout_source_new(hour, None, Priority::DEFAULT, || {
            hit();
            ControlFlow::Continue
        });
        source.attach(Some(&self.main));
        Timeout(source)
    }

    fn arm(&mut self, timer: &mut Timeout, deadline_ns: i64) {
        // SAFETY: the source is alive; the time is in microseconds of the monotonic clock.
        unsafe { glib_sys::g_source_set_ready_time(timer.0.to_glib_none().0, deadline_ns / 1000) };
    }
}
