//! A poll function for a GMainContext whose reactor waits for all that GLib asks for: one system call where poll(2) and a look
//! at the epoll set are two, and a cost that does not grow with what is watched.
//!
//! GLib gives a poll function no user data. The reactor's source says in its prepare, on the same thread and just before,
//! which reactor is meant; a call that does not have that reactor's fd is one for another context.
#![allow(unsafe_code)] // a C function, poll(2)

use crate::reactor::{Driving, Reactor};
use glib::translate::ToGlibPtr;
use glib_sys::GPollFD;
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// The reactor whose source GLib prepared last on this thread.
    static PREPARED: Cell<Option<Arc<Reactor>>> = const { Cell::new(None) };
}

/// Waits for what a GMainContext asks for, with the reactor that is attached to it.
pub trait GlibPoll: Send + Sync {
    /// As poll(2): waits until one of `fds` is ready or `timeout_ms` are over (negative: for ever), and fills in what is
    /// ready. The number of those.
    fn poll(&self, driving: &Driving<'_>, fds: &mut [GPollFD], timeout_ms: i32) -> i32;
}

/// What has ended a wait for GLib.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// Something is there for the reactor's own source.
    pub ours: bool,
    /// The handler of GLib's fds is ready.
    pub theirs: bool,
}

impl Reactor {
    /// Lets GLib wait by `how` whenever somebody iterates `gmain`, to which this reactor's source is attached. Only for a
    /// GMainContext of one's own.
    pub fn wait_for_glib_by(&self, gmain: &glib::MainContext, how: Arc<dyn GlibPoll>) {
        if self.set_glib_poll(how) {
            let gmain = gmain.to_glib_none().0;
            // SAFETY: the context is alive, and the function is one for ever.
            unsafe { glib_sys::g_main_context_set_poll_func(gmain, Some(poll)) };
        }
    }
}

/// GLib is about to poll for `reactor`.
pub(crate) fn note_prepared(reactor: &Arc<Reactor>) {
    if reactor.glib_poll().is_some() {
        let _ = say(Some(Arc::clone(reactor)));
    }
}

/// GLib has polled, by whatever means.
pub(crate) fn note_checked(reactor: &Reactor) {
    if reactor.glib_poll().is_some() {
        let _ = say(None);
    }
}

/// Not at the end of a thread, when nobody polls by us any more.
fn say(reactor: Option<Arc<Reactor>>) -> Option<Arc<Reactor>> {
    PREPARED
        .try_with(|prepared| prepared.replace(reactor))
        .ok()?
}

unsafe extern "C" fn poll(fds: *mut GPollFD, count: u32, timeout_ms: i32) -> i32 {
    if count > 0 {
        // SAFETY: GLib passes so many.
        let fds = unsafe { std::slice::from_raw_parts_mut(fds, count as usize) };
        if let Some(answer) = poll_by_reactor(fds, timeout_ms) {
            return answer;
        }
    }
    // SAFETY: a GPollFD is a struct pollfd on Unix, and there are `count`.
    unsafe { libc::poll(fds.cast(), count.into(), timeout_ms) }
}

fn poll_by_reactor(fds: &mut [GPollFD], timeout_ms: i32) -> Option<i32> {
    let reactor = say(None)?;
    let own = reactor.poll_fd().ok()?;
    if !fds.iter().any(|poll| poll.fd == own) {
        return None;
    }
    let driving = reactor.drive().ok()?;
    let how = reactor.glib_poll()?;
    Some(how.poll(&driving, fds, timeout_ms))
}

const _: () = assert!(size_of::<GPollFD>() == size_of::<libc::pollfd>());
