//! The GSource that drives a reactor from a GMainContext.
//!
//! GLib sees one fd, the epoll set; with the poll poller it sees all that are watched. They are GPollFDs of the source
//! (`g_source_add_poll`): with `g_source_add_unix_fd`, GLib would dispatch whenever the fd is ready, also if `check` finds that
//! only a wake-up was there. The source may recurse, and has the default priority. Its state is a boxed [`SourceState`] behind
//! the `GSource`. It is written at creation, and dropped in finalize, which may run on any thread.
#![allow(unsafe_code)] // a GSource is a C structure with a table of C functions

use crate::Result;
use crate::poller::{READABLE, WRITABLE};
use crate::reactor::{Driving, Reactor};
use glib::translate::from_glib_full;
use std::any::Any;
use std::cell::RefCell;
use std::mem::size_of;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

#[repr(C)]
struct ReactorSource {
    base: glib_sys::GSource,
    state: *mut SourceState,
}

struct SourceState {
    reactor: Arc<Reactor>,
    polled: PolledFd,
    shown: RefCell<Shown>,
    /// Keeps an owner of the reactor alive for as long as its source.
    _keep: Option<Box<dyn Any + Send + Sync>>,
}

/// An fd that GLib polls for the source. GLib uses it until it is removed from the source, or the source is destroyed; either
/// comes before the drop.
struct PolledFd(NonNull<glib_sys::GPollFD>);

impl PolledFd {
    /// # Safety
    /// The source is alive, and outlives this or has been destroyed before.
    unsafe fn add(source: *mut glib_sys::GSource, fd: RawFd, events: u16) -> PolledFd {
        let revents = 0;
        let asked = glib_sys::GPollFD {
            fd,
            events,
            revents,
        };
        let place = NonNull::from(Box::leak(Box::new(asked)));
        // SAFETY: the caller's promise; the place stays valid until the drop.
        unsafe { glib_sys::g_source_add_poll(source, place.as_ptr()) };
        PolledFd(place)
    }

    /// # Safety
    /// It is an fd of the source, which is alive.
    unsafe fn remove(self, source: *mut glib_sys::GSource) {
        // SAFETY: the caller's promise.
        unsafe { glib_sys::g_source_remove_poll(source, self.0.as_ptr()) };
    }

    /// What GLib's last poll said. On the thread that iterates.
    fn is_ready(&self) -> bool {
        // SAFETY: the place is valid until the drop, and only the thread that iterates writes it.
        unsafe { self.0.as_ref() }.revents != 0
    }
}

impl Drop for PolledFd {
    fn drop(&mut self) {
        // SAFETY: made from a box in `add`, and GLib does not use it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// The fds that GLib polls for a reactor without an epoll set.
#[derive(Default)]
struct Shown {
    /// See [`Driving::listed_since`].
    version: Option<u64>,
    fds: Vec<PolledFd>,
}

impl Shown {
    /// Makes GLib poll what `reactor` watches now.
    fn update(&mut self, source: *mut glib_sys::GSource, driving: &Driving<'_>) {
        let Some(wanted) = driving.listed_since(&mut self.version) else {
            return;
        };
        for polled in self.fds.drain(..) {
            // SAFETY: it was added below, and GLib is calling the source.
            unsafe { polled.remove(source) };
        }
        self.fds.extend(wanted.into_iter().map(|(fd, events)| {
            let events = u16::try_from(events & POLL_BITS).unwrap_or(0);
            // SAFETY: the source is alive: GLib is calling it. Its state is dropped in finalize.
            unsafe { PolledFd::add(source, fd, events) }
        }));
    }

    fn is_ready(&self) -> bool {
        self.fds.iter().any(PolledFd::is_ready)
    }
}

/// What poll(2) knows of epoll's bits.
const POLL_BITS: u32 = READABLE | WRITABLE;

static FUNCS: glib_sys::GSourceFuncs = glib_sys::GSourceFuncs {
    prepare: Some(prepare),
    check: Some(check),
    dispatch: Some(dispatch),
    finalize: Some(finalize),
    closure_callback: None,
    closure_marshal: None,
};

/// A source for `reactor`.
pub(crate) fn new(
    reactor: &Arc<Reactor>,
    keep: Option<Box<dyn Any + Send + Sync>>,
) -> Result<glib::Source> {
    let fd = reactor.poll_fd()?;
    let size = u32::try_from(size_of::<ReactorSource>()).unwrap_or(u32::MAX);
    // SAFETY: the table lives for ever and is not written to, though GLib's signature is not const.
    let source = unsafe { glib_sys::g_source_new((&raw const FUNCS).cast_mut(), size) };
    let events = u16::try_from(READABLE).unwrap_or(0);
    // SAFETY: the source is ours and not attached yet; its state is dropped in finalize.
    let polled = unsafe { PolledFd::add(source, fd, events) };
    let state = Box::new(SourceState {
        reactor: Arc::clone(reactor),
        polled,
        shown: RefCell::default(),
        _keep: keep,
    });
    // SAFETY: GLib has allocated a whole ReactorSource.
    unsafe { (*source.cast::<ReactorSource>()).state = Box::into_raw(state) };
    // SAFETY: as above.
    unsafe { glib_sys::g_source_set_can_recurse(source, glib_sys::GTRUE) };
    // SAFETY: the name is copied.
    unsafe { glib_sys::g_source_set_name(source, c"qcontext-reactor".as_ptr()) };
    // SAFETY: the fresh source's reference is given away.
    Ok(unsafe { from_glib_full(source) })
}

/// # Safety
/// `source` was made by [`new`] and is not finalized.
unsafe fn state<'a>(source: *mut glib_sys::GSource) -> &'a SourceState {
    // SAFETY: `new` has set the state before anybody could attach the source.
    let state = unsafe { (*source.cast::<ReactorSource>()).state };
    // SAFETY: the box lives until finalize.
    unsafe { &*state }
}

unsafe extern "C" fn prepare(
    source: *mut glib_sys::GSource,
    timeout: *mut i32,
) -> glib_sys::gboolean {
    // SAFETY: GLib passes our source.
    let state = unsafe { state(source) };
    let show = |driving: &Driving<'_>| state.shown.borrow_mut().update(source, driving);
    let wait = state.reactor.prepare(show);
    // SAFETY: GLib passes a valid place.
    unsafe { *timeout = wait.unwrap_or(0) };
    glib_sys::gboolean::from(wait.is_none())
}

unsafe extern "C" fn check(source: *mut glib_sys::GSource) -> glib_sys::gboolean {
    // SAFETY: GLib passes our source.
    let state = unsafe { state(source) };
    let readable = state.polled.is_ready() || state.shown.borrow().is_ready();
    glib_sys::gboolean::from(state.reactor.check(readable))
}

unsafe extern "C" fn dispatch(
    source: *mut glib_sys::GSource,
    _callback: glib_sys::GSourceFunc,
    _user_data: glib_sys::gpointer,
) -> glib_sys::gboolean {
    // A callback may finalize the source.
    // SAFETY: GLib passes our source.
    let reactor = Arc::clone(&unsafe { state(source) }.reactor);
    reactor.dispatch();
    glib_sys::G_SOURCE_CONTINUE
}

unsafe extern "C" fn finalize(source: *mut glib_sys::GSource) {
    let source = source.cast::<ReactorSource>();
    // SAFETY: GLib passes our source.
    let place = unsafe { &raw mut (*source).state };
    // SAFETY: the place is initialised: GLib zeroes a new source.
    let state = unsafe { ptr::replace(place, ptr::null_mut()) };
    if !state.is_null() {
        // SAFETY: the box was made by `new`, and finalize runs once.
        let state = unsafe { Box::from_raw(state) };
        state.reactor.forget_glib();
        crate::panic_boundary::drop_guarded(&"destructor of a source", state);
    }
}

impl Reactor {
    /// A source that drives this reactor from a GMainContext. To GLib it shows one fd.
    ///
    /// # Errors
    /// The kernel's, when it gives no fds.
    pub fn g_source(self: &Arc<Self>) -> Result<glib::Source> {
        new(self, None)
    }
}
