//! Running an unthreaded context: whole iterations, or the four steps of an iteration for programs with their own poll loop.
#![allow(unsafe_code)] // entry points; the steps of an iteration exist in C only

use crate::argument::{FromC, Out, entry};
use crate::boundary::Fault;
use crate::handle::QContext;
use glib::translate::ToGlibPtr;
use glib_sys::{GArray, GError, GMainContext, GPollFD, gboolean};
use qcontext::QContext as Context;
use qcontext::Wait;
use std::ptr::{self, NonNull};

pub(crate) fn wait(may_block: gboolean) -> Wait {
    if may_block != 0 {
        Wait::Block
    } else {
        Wait::NoBlock
    }
}

/// The GMainContext of a context that the calling thread has acquired.
struct Acquired(glib::MainContext);

impl FromC for Acquired {
    type Pointer = *const QContext;

    unsafe fn from_c(context: *const QContext, null: &'static str) -> Result<Self, Fault> {
        // SAFETY: as the caller of this function promises.
        let gmain = unsafe { Context::from_c(context, null) }?.main_context();
        if gmain.is_owner() {
            return Ok(Acquired(gmain));
        }
        Err(Fault::Misuse(
            "the calling thread has not acquired the context",
        ))
    }
}

impl Acquired {
    fn as_ptr(&self) -> *mut GMainContext {
        self.0.to_glib_none().0
    }
}

/// An array of GPollFD.
struct PollFds(NonNull<GArray>);

impl FromC for PollFds {
    type Pointer = *mut GArray;

    unsafe fn from_c(array: *mut GArray, null: &'static str) -> Result<Self, Fault> {
        let array = NonNull::new(array).ok_or(Fault::Misuse(null))?;
        // SAFETY: promise 1.
        let element = unsafe { glib_sys::g_array_get_element_size(array.as_ptr()) };
        if usize::try_from(element) == Ok(size_of::<GPollFD>()) {
            return Ok(PollFds(array));
        }
        Err(Fault::Misuse("the array is not one of GPollFD"))
    }
}

/// qcontext_iterate:
/// Runs one iteration of an unthreaded context.
/// @context: a context
/// @may_block: whether to wait until something happens
/// @error: WRONG_THREAD when another thread runs the context, CLOSED after a stop
///
/// Returns: whether something was dispatched.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_iterate(
    context: *mut QContext,
    may_block: gboolean,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_iterate, 0, error, |context: Context| {
        Ok(context.iterate(wait(may_block))?.into())
    })
}

/// qcontext_pending:
/// As g_main_context_pending(): whether qcontext_iterate() without waiting would dispatch something. Runs no callback but @can_read
/// of fd handlers, and prepare and check of GSources.
/// @context: a context
/// @error: WRONG_THREAD when another thread runs the context, CLOSED after a stop
///
/// Returns: TRUE when something is ready; FALSE otherwise, and on failure.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_pending(
    context: *mut QContext,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_pending, 0, error, |context: Context| {
        Ok(context.is_pending()?.into())
    })
}

/// qcontext_acquire:
/// Makes the calling thread the owner of the context, which may run it, until qcontext_release() is called as often.
/// @context: a context
///
/// Returns: FALSE while another thread owns the context.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_acquire(context: *mut QContext) -> gboolean {
    entry!(qcontext_acquire, 0, |context: Context| {
        let gmain = context.main_context();
        // SAFETY: the GMainContext is alive.
        Ok(unsafe { glib_sys::g_main_context_acquire(gmain.to_glib_none().0) })
    })
}

/// qcontext_release:
/// Undoes one qcontext_acquire().
/// @context: a context that the calling thread has acquired
///
/// The thread that acquired it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_release(context: *mut QContext) {
    entry!(qcontext_release, (), |context: Acquired| {
        // SAFETY: the GMainContext is alive and the thread owns it.
        unsafe { glib_sys::g_main_context_release(context.as_ptr()) };
        Ok(())
    });
}

/// qcontext_prepare:
/// First step of an iteration in the caller's own poll loop. The other three steps follow in every case.
/// @context: a context that the calling thread has acquired
/// @priority: (out) (nullable): the priority to give to the next two steps
///
/// Returns: whether something is ready already.
///
/// The thread that acquired the context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_prepare(context: *mut QContext, priority: *mut i32) -> gboolean {
    entry!(qcontext_prepare, 0, |context: Acquired| {
        // SAFETY: the thread owns the GMainContext; GLib takes a NULL priority.
        Ok(unsafe { glib_sys::g_main_context_prepare(context.as_ptr(), priority) })
    })
}

/// qcontext_append_query:
/// Second step: appends the fds of the context to an array, so that several loops share one poll.
/// @context: a context that the calling thread has acquired
/// @max_priority: the priority of qcontext_prepare()
/// @timeout_ms: (out): how long the poll may block, -1 for ever
/// @pollfds: an array of GPollFD
///
/// Returns: how many entries were appended.
///
/// The thread that acquired the context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_append_query(
    context: *mut QContext,
    max_priority: i32,
    timeout_ms: *mut i32,
    pollfds: *mut GArray,
) -> i32 {
    entry!(
        qcontext_append_query,
        0,
        |context: Acquired, timeout_ms: Out<i32>, pollfds: PollFds| {
            let (gmain, timeout, fds) = (context.as_ptr(), timeout_ms.as_ptr(), pollfds.0.as_ptr());
            // SAFETY: the thread owns the GMainContext; the array and the place for the timeout are checked.
            Ok(unsafe { append_query(gmain, max_priority, timeout, fds) })
        }
    )
}

/// # Safety
/// The calling thread owns the GMainContext; the array is one of GPollFD, the timeout is valid for a write.
pub(crate) unsafe fn append_query(
    gmain: *mut GMainContext,
    priority: i32,
    timeout_ms: *mut i32,
    pollfds: *mut GArray,
) -> i32 {
    // SAFETY: the caller's array.
    let before = unsafe { (*pollfds).len };
    let mut room = 8;
    loop {
        // SAFETY: as above; the new entries are written by the query before anybody reads them.
        unsafe { glib_sys::g_array_set_size(pollfds, before + room) };
        // SAFETY: the array has entries from `before` on.
        let first = unsafe { (*pollfds).data }.cast::<GPollFD>();
        // SAFETY: as above.
        let place = unsafe { first.add(before as usize) };
        let count = i32::try_from(room).unwrap_or(i32::MAX);
        // SAFETY: there is room for `count` entries at `place`.
        let needed =
            unsafe { glib_sys::g_main_context_query(gmain, priority, timeout_ms, place, count) };
        let wanted = u32::try_from(needed).unwrap_or(0);
        if wanted <= room {
            // SAFETY: shrinks the array to what the query wrote.
            unsafe { glib_sys::g_array_set_size(pollfds, before + wanted) };
            return needed;
        }
        room = wanted;
    }
}

/// qcontext_check:
/// Third step: passes the result of the poll to the context.
/// @context: a context that the calling thread has acquired
/// @max_priority: the priority of qcontext_prepare()
/// @pollfds: (nullable): the entries that qcontext_append_query() appended, with their revents
/// @count: their number
///
/// Returns: whether something is ready to be dispatched.
///
/// The thread that acquired the context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_check(
    context: *mut QContext,
    max_priority: i32,
    pollfds: *mut GPollFD,
    count: i32,
) -> gboolean {
    entry!(qcontext_check, 0, |context: Acquired| {
        if count < 0 || (pollfds.is_null() && count > 0) {
            return Err(Fault::Misuse("the entries are NULL"));
        }
        // GLib wants a pointer that is not NULL, also for no entries.
        let fds = if pollfds.is_null() {
            ptr::dangling_mut()
        } else {
            pollfds
        };
        let gmain = context.as_ptr();
        // SAFETY: the thread owns the GMainContext, and promise 1 holds for `count` entries.
        Ok(unsafe { glib_sys::g_main_context_check(gmain, max_priority, fds, count) })
    })
}

/// qcontext_dispatch:
/// Fourth step: dispatches what is ready.
/// @context: a context that the calling thread has acquired
///
/// The thread that acquired the context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_dispatch(context: *mut QContext) {
    entry!(qcontext_dispatch, (), |context: Acquired| {
        // SAFETY: the thread owns the GMainContext.
        unsafe { glib_sys::g_main_context_dispatch(context.as_ptr()) };
        Ok(())
    });
}
