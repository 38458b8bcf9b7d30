//! Contexts: life, names, and queries.
#![allow(unsafe_code)] // entry points

use crate::argument::{Given, Pointee, entry, give};
use crate::handle::{Borrowed, QContext, QContextAio, give_aio, give_context};
use glib::MainContext;
use glib::translate::ToGlibPtr;
use glib_sys::{GError, GMainContext, gboolean};
use qcontext::ContextClaim;
use qcontext::QContext as Context;
use std::ffi::c_char;
use std::ptr;

/// QContextClaim:
/// Proof that a device uses a context. While it exists, the context cannot be deleted.
#[derive(Debug)]
pub struct QContextClaim(#[expect(dead_code, reason = "held for its drop")] ContextClaim);

impl Pointee for QContextClaim {}

/// qcontext_new:
/// Creates a context. A threaded one runs when this returns; an unthreaded one runs on the thread that iterates it.
/// @id: (nullable): a letter, then letters, digits, '-', '.', '_'; NULL for a generated name that cannot be looked up
/// @threaded: whether it gets a thread of its own
/// @error: EXISTS, INVALID_ID, OS
///
/// Returns: (transfer full) (nullable): the context. Dropping the last reference stops it and frees its name.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_new(
    id: *const c_char,
    threaded: gboolean,
    error: *mut *mut GError,
) -> *mut QContext {
    entry!(qcontext_new, ptr::null_mut(), error, |id: Option<&str>| {
        let context = match id {
            Some(name) => Context::new(name, threaded != 0)?,
            None => Context::anonymous(threaded != 0)?,
        };
        Ok(give_context(context))
    })
}

/// qcontext_new_for_main_context:
/// Creates an unthreaded context around a GMainContext. It runs on the thread that iterates that.
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
    entry!(
        qcontext_new_for_main_context,
        ptr::null_mut(),
        error,
        |id: Option<&str>, main_context: MainContext| {
            Ok(give_context(Context::for_main_context(id, &main_context)?))
        }
    )
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
    entry!(qcontext_ref, ptr::null_mut(), |context: Context| {
        Ok(give_context(context))
    })
}

/// qcontext_unref:
/// Gives a reference back. The last one stops the context without waiting for its thread, also from that thread.
/// @context: (nullable) (transfer full): a context; NULL is ignored
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_unref(context: *mut QContext) {
    entry!(qcontext_unref, (), |context: Given<Context>| {
        drop(context);
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
    entry!(qcontext_find_by_name, ptr::null_mut(), error, |id: &str| {
        Ok(give_context(Context::find(id)?))
    })
}

/// qcontext_find_by_main_context:
/// Looks up the context that wraps a GMainContext. A context without a name is found too.
/// @main_context: (nullable): a GMainContext; NULL for the default one, which is qcontext-main's
///
/// Returns: (transfer full) (nullable): a new reference to the context, NULL when there is none.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_find_by_main_context(
    main_context: *mut GMainContext,
) -> *mut QContext {
    entry!(
        qcontext_find_by_main_context,
        ptr::null_mut(),
        |main_context: Option<MainContext>| {
            let gmain = main_context.unwrap_or_else(MainContext::default);
            Ok(Context::of_main_context(&gmain).map_or(ptr::null_mut(), give_context))
        }
    )
}

/// qcontext_get_main:
/// Returns: (transfer none): the context "qcontext-main", which drives the default GMainContext and always exists.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_get_main() -> *mut QContext {
    entry!(qcontext_get_main, ptr::null_mut(), || {
        Ok(Context::main().as_raw().cast::<QContext>().cast_mut())
    })
}

/// qcontext_get_current:
/// Returns: (transfer full) (nullable): a new reference to the context that runs the calling thread, NULL when none does.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_get_current() -> *mut QContext {
    entry!(qcontext_get_current, ptr::null_mut(), || {
        Ok(Context::current().map_or(ptr::null_mut(), give_context))
    })
}

/// qcontext_list_names:
/// Returns: (transfer full): the names of all contexts, "qcontext-main" first; free with g_strfreev().
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_list_names() -> *mut *mut c_char {
    entry!(qcontext_list_names, ptr::null_mut(), || {
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
    entry!(qcontext_get_id, ptr::null(), |context: Context| {
        Ok(context.c_id().as_ptr())
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
    entry!(qcontext_get_threaded, 0, |context: Context| {
        Ok(context.is_threaded().into())
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
    entry!(qcontext_get_thread_id, -1, |context: Context| {
        Ok(context.thread_id())
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
    entry!(qcontext_get_context, ptr::null_mut(), |context: Context| {
        Ok(context.main_context().to_glib_none().0)
    })
}

/// qcontext_get_aio:
/// @context: a context
/// @error: CLOSED after a stop
///
/// Returns: (transfer full) (nullable): the AioContext that every context has, for bottom halves and timers that need no
/// AioContext of their own. A stop ends it, unless the caller still has this reference: then it is detached.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_get_aio(
    context: *mut QContext,
    error: *mut *mut GError,
) -> *mut QContextAio {
    entry!(
        qcontext_get_aio,
        ptr::null_mut(),
        error,
        |context: Context| { Ok(give_aio(context.aio()?)) }
    )
}

/// qcontext_get_iohandler_aio:
/// @context: a context
/// @error: CLOSED after a stop
///
/// Returns: (transfer full) (nullable): the AioContext that holds the fds of qcontext_add_fd() and qcontext_set_fd_handler(). The
/// context always drives it. qcontext_aio_poll() of another AioContext of the context does not call its fd handlers. On qcontext-main
/// it is a GSource of its own, and such a poll does not run its bottom halves and timers either.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_get_iohandler_aio(
    context: *mut QContext,
    error: *mut *mut GError,
) -> *mut QContextAio {
    entry!(
        qcontext_get_iohandler_aio,
        ptr::null_mut(),
        error,
        |context: Context| { Ok(give_aio(context.iohandlers()?)) }
    )
}

/// qcontext_is_current:
/// @context: a context
///
/// Returns: whether the calling thread runs the context now.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_is_current(context: *const QContext) -> gboolean {
    entry!(qcontext_is_current, 0, |context: Context| {
        Ok(context.is_current().into())
    })
}

/// qcontext_stop:
/// Stops the context and waits until its thread has ended, or until the thread that iterates an unthreaded context, or has acquired
/// it, has left it.
/// Running callbacks finish. Pending work is dropped, with its destroy notifies. Attached AioContexts are detached; those without
/// another reference end. Stopping again does nothing.
/// @context: a context
/// @error: WOULD_DEADLOCK on the context's own thread, inside one of its callbacks, and when the context waits for the caller's;
/// BUSY for qcontext-main
///
/// Returns: TRUE when the context has stopped; otherwise nothing has changed.
///
/// Any thread but the context's own; blocks, so no lock that callbacks of the context take may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_stop(
    context: *mut QContext,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_stop, 0, error, |context: Context| {
        Ok(context.stop().map(|()| 1)?)
    })
}

/// qcontext_notify:
/// Ends the current or next wait of the context.
/// @context: a context
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notify(context: *mut QContext) {
    entry!(qcontext_notify, (), |context: Borrowed<Context>| {
        context.notify();
        Ok(())
    });
}

/// qcontext_claim:
/// Records that a device uses the context, so that it cannot be deleted until the claim is released.
/// @context: a context
/// @device: the device's name, for the message that refuses the deletion
/// @error: CLOSED when the context has been deleted already
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
    entry!(
        qcontext_claim,
        ptr::null_mut(),
        error,
        |context: Context, device: &str| {
            let claim = context.claim(device)?;
            Ok(give(QContextClaim(claim)))
        }
    )
}

/// qcontext_claim_release:
/// Releases a claim: the device no longer uses the context.
/// @claim: (nullable) (transfer full): a claim; NULL is ignored
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_claim_release(claim: *mut QContextClaim) {
    entry!(qcontext_claim_release, (), |claim: Given<
        Box<QContextClaim>,
    >| {
        drop(claim);
        Ok(())
    });
}
