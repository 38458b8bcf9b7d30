//! Contexts: life, names, and what they say of themselves.
#![allow(unsafe_code)] // pointers from C

use crate::boundary::{Fault, enter, enter_fallible, free, optional_text, text};
use crate::handle::{self, QContext, QContextAio, give_aio, give_context};
use glib::translate::{ToGlibPtr, from_glib_none};
use glib_sys::{GError, GMainContext, gboolean};
use qcontext::QContext as Context;
use qcontext::context::Claim;
use std::ffi::c_char;
use std::ptr;

/// QContextClaim:
/// Proof that a device uses a context, which can not be deleted meanwhile.
#[derive(Debug)]
pub struct QContextClaim(#[expect(dead_code, reason = "held for its drop")] Claim);

/// qcontext_new:
/// Creates a context. A threaded one runs when this returns; an unthreaded one is run by whoever iterates it.
/// @id: (nullable): a letter, then letters, digits, '-', '.', '_'; NULL for a generated name that nobody finds
/// @threaded: whether it gets a thread of its own
/// @error: EXISTS, INVALID_ID, OS
///
/// Returns: (transfer full) (nullable): the context. When the last reference goes, it stops and its name is free.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_new(
    id: *const c_char,
    threaded: gboolean,
    error: *mut *mut GError,
) -> *mut QContext {
    let body = || {
        // SAFETY: the caller's string.
        let context = match unsafe { optional_text(id) }? {
            Some(id) => Context::new(id, threaded != 0)?,
            None => Context::anonymous(threaded != 0)?,
        };
        Ok(give_context(context))
    };
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_new", ptr::null_mut(), error, body) }
}

/// qcontext_new_for_main_context:
/// Creates an unthreaded context around a GMainContext, run by whoever iterates that.
/// @id: (nullable): as for qcontext_new()
/// @main_context: not the default GMainContext, which is qcontext-main's
/// @error: EXISTS, INVALID_ID, BUSY for the default GMainContext, OS
///
/// Returns: (transfer full) (nullable): the context.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_new_for_main_context(
    id: *const c_char,
    main_context: *mut GMainContext,
    error: *mut *mut GError,
) -> *mut QContext {
    let body = || {
        if main_context.is_null() {
            return Err(Fault::Misuse("the GMainContext is NULL"));
        }
        // SAFETY: the caller's string.
        let id = unsafe { optional_text(id) }?;
        // SAFETY: the caller's GMainContext, which this references.
        let gmain: glib::MainContext = unsafe { from_glib_none(main_context) };
        Ok(give_context(Context::for_main_context(id, &gmain)?))
    };
    // SAFETY: the caller's place for an error.
    unsafe {
        enter_fallible(
            "qcontext_new_for_main_context",
            ptr::null_mut(),
            error,
            body,
        )
    }
}

/// qcontext_ref:
/// Takes another reference.
/// @context: a context
///
/// Returns: (transfer full): @context.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_ref(context: *mut QContext) -> *mut QContext {
    enter("qcontext_ref", ptr::null_mut(), || {
        // SAFETY: the caller's context.
        unsafe { handle::context(context) }.map(give_context)
    })
}

/// qcontext_unref:
/// Gives a reference back. The last one stops the context without waiting for its thread, also from that thread.
/// @context: (nullable) (transfer full): a context; NULL is ignored
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_unref(context: *mut QContext) {
    if context.is_null() {
        return;
    }
    enter("qcontext_unref", (), || {
        // SAFETY: the reference that the caller gives back.
        drop(unsafe { Context::from_raw(context.cast()) });
        Ok(())
    });
}

/// qcontext_find_by_name:
/// Looks a context up.
/// @id: the name; "qcontext-main" always exists
/// @error: NOT_FOUND
///
/// Returns: (transfer full) (nullable): a new reference to the context.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_find_by_name(
    id: *const c_char,
    error: *mut *mut GError,
) -> *mut QContext {
    let body = || {
        // SAFETY: the caller's string.
        let id = unsafe { text(id, "the id is NULL") }?;
        Ok(give_context(Context::find(id)?))
    };
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_find_by_name", ptr::null_mut(), error, body) }
}

/// qcontext_get_main:
/// Returns: (transfer none): the context "qcontext-main", which drives the default GMainContext and always exists.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_get_main() -> *mut QContext {
    let body = || Ok(Context::main().as_raw().cast::<QContext>().cast_mut());
    enter("qcontext_get_main", ptr::null_mut(), body)
}

/// qcontext_get_current:
/// Returns: (transfer full) (nullable): a new reference to the context that runs the calling thread, NULL when none does.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_get_current() -> *mut QContext {
    let body = || Ok(Context::current().map_or(ptr::null_mut(), give_context));
    enter("qcontext_get_current", ptr::null_mut(), body)
}

/// qcontext_list_names:
/// Returns: (transfer full): the names of all contexts, "qcontext-main" first; free with g_strfreev().
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_list_names() -> *mut *mut c_char {
    enter("qcontext_list_names", ptr::null_mut(), || {
        let names: Vec<String> = Context::list()
            .iter()
            .map(|context| context.id().to_owned())
            .collect();
        Ok(names.to_glib_full())
    })
}

/// qcontext_get_id:
/// @context: a context
///
/// Returns: (transfer none): the name; borrowed, valid while the caller holds a reference.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_get_id(context: *const QContext) -> *const c_char {
    enter("qcontext_get_id", ptr::null(), || {
        // SAFETY: the caller's context.
        Ok(unsafe { handle::context(context) }?.c_id().as_ptr())
    })
}

/// qcontext_get_threaded:
/// @context: a context
///
/// Returns: whether the context has a thread of its own.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_get_threaded(context: *const QContext) -> gboolean {
    enter("qcontext_get_threaded", 0, || {
        // SAFETY: the caller's context.
        Ok(unsafe { handle::context(context) }?.is_threaded().into())
    })
}

/// qcontext_get_thread_id:
/// @context: a context
///
/// Returns: the kernel's id of the thread that runs the context, -1 when none does; for qcontext-main the main thread's.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_get_thread_id(context: *const QContext) -> i64 {
    enter("qcontext_get_thread_id", -1, || {
        // SAFETY: the caller's context.
        Ok(unsafe { handle::context(context) }?.thread_id())
    })
}

/// qcontext_get_context:
/// @context: a context
///
/// Returns: (transfer none): the GMainContext it wraps, to which any GSource may be attached; borrowed, valid while the
/// caller holds a reference.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_get_context(context: *const QContext) -> *mut GMainContext {
    enter("qcontext_get_context", ptr::null_mut(), || {
        // SAFETY: the caller's context.
        Ok(unsafe { handle::context(context) }?
            .main_context()
            .to_glib_none()
            .0)
    })
}

/// qcontext_get_aio:
/// @context: a context
/// @error: CLOSED after a stop
///
/// Returns: (transfer full) (nullable): the AioContext that every context has, for bottom halves and timers that need none of
/// their own.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_get_aio(
    context: *mut QContext,
    error: *mut *mut GError,
) -> *mut QContextAio {
    // SAFETY: the caller's context.
    let body = || Ok(give_aio(unsafe { handle::context(context) }?.aio()?));
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_get_aio", ptr::null_mut(), error, body) }
}

/// qcontext_get_iohandler_aio:
/// @context: a context
/// @error: CLOSED after a stop
///
/// Returns: (transfer full) (nullable): the AioContext that holds the fds of qcontext_add_fd() and qcontext_set_fd_handler(). The
/// context drives it always.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_get_iohandler_aio(
    context: *mut QContext,
    error: *mut *mut GError,
) -> *mut QContextAio {
    // SAFETY: the caller's context.
    let body = || Ok(give_aio(unsafe { handle::context(context) }?.iohandlers()?));
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_get_iohandler_aio", ptr::null_mut(), error, body) }
}

/// qcontext_is_current:
/// @context: a context
///
/// Returns: whether the calling thread runs the context now.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_is_current(context: *const QContext) -> gboolean {
    enter("qcontext_is_current", 0, || {
        // SAFETY: the caller's context.
        Ok(unsafe { handle::context(context) }?.is_current().into())
    })
}

/// qcontext_stop:
/// Stops the context and waits until its thread has ended. What runs is finished, what is pending is dropped (with its destroy
/// notifies), what is attached is detached. Stopping again does nothing.
/// @context: a context
/// @error: WOULD_DEADLOCK on the context's own thread, BUSY for qcontext-main
///
/// Returns: TRUE when the context has stopped; otherwise nothing has changed.
///
/// Any thread but the context's own; blocks, so no lock that callbacks of the context take may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_stop(
    context: *mut QContext,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: the caller's context.
    let body = || Ok(unsafe { handle::context(context) }?.stop().map(|()| 1)?);
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_stop", 0, error, body) }
}

/// qcontext_notify:
/// Makes the current or next wait of the context return.
/// @context: a context
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notify(context: *mut QContext) {
    enter("qcontext_notify", (), || {
        // SAFETY: the caller's context.
        unsafe { handle::borrowed_context(context) }?.notify();
        Ok(())
    });
}

/// qcontext_claim:
/// Records that a device uses the context, so that it can not be deleted until the claim is released.
/// @context: a context
/// @device: the device's name, for the message that refuses the deletion
/// @error: CLOSED when the context has been deleted meanwhile
///
/// Returns: (transfer full) (nullable): the claim.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_claim(
    context: *mut QContext,
    device: *const c_char,
    error: *mut *mut GError,
) -> *mut QContextClaim {
    let body = || {
        // SAFETY: the caller's context.
        let context = unsafe { handle::context(context) }?;
        // SAFETY: the caller's string.
        let claim = context.claim(unsafe { text(device, "the device's name is NULL") }?)?;
        Ok(Box::into_raw(Box::new(QContextClaim(claim))))
    };
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_claim", ptr::null_mut(), error, body) }
}

/// qcontext_claim_release:
/// The device uses the context no more.
/// @claim: (nullable) (transfer full): a claim; NULL is ignored
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_claim_release(claim: *mut QContextClaim) {
    // SAFETY: the claim that the caller gives back.
    unsafe { free("qcontext_claim_release", claim) };
}
