//! AioContexts: life, and attachment to contexts.
#![allow(unsafe_code)] // entry points

use crate::argument::{Given, entry};
use crate::handle::{QContext, QContextAio, give_aio};
use glib::translate::IntoGlibPtr;
use glib_sys::{GError, GSource, gboolean};
use qcontext::QContext as Context;
use qcontext::{AioContext, Error, ErrorKind};
use std::ffi::c_char;
use std::ptr;

/// qcontext_aio_new:
/// Creates an AioContext that is not attached. It is driven by qcontext_aio_poll(), by the source of
/// qcontext_aio_get_g_source(), or by the context that it is attached to.
/// @error: OS
///
/// Returns: (transfer full) (nullable): the AioContext.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_new(error: *mut *mut GError) -> *mut QContextAio {
    entry!(qcontext_aio_new, ptr::null_mut(), error, || {
        Ok(give_aio(AioContext::new()?))
    })
}

/// qcontext_aio_ref:
/// Takes another reference.
/// @aio: an AioContext
///
/// Returns: (transfer full): @aio.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_ref(aio: *mut QContextAio) -> *mut QContextAio {
    entry!(qcontext_aio_ref, ptr::null_mut(), |aio: AioContext| {
        Ok(give_aio(aio))
    })
}

/// qcontext_aio_unref:
/// Gives a reference back. The context it is attached to, and each of its sources, hold references too. The last one removes
/// all handlers, with their destroy notifies. Bottom halves and timers that are left never run then. Their destroy notifies run,
/// and of each only the pointer is left, with which qcontext_bh_delete() or qcontext_timer_free() may still be called.
/// @aio: (nullable) (transfer full): an AioContext; NULL is ignored
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_unref(aio: *mut QContextAio) {
    entry!(qcontext_aio_unref, (), |aio: Given<AioContext>| {
        drop(aio);
        Ok(())
    });
}

/// qcontext_aio_attach:
/// Lets a context drive the AioContext; it takes a reference until it is detached.
/// @aio: an AioContext that is not driven
/// @context: a context
/// @name: (nullable): a name for qcontext_find_aio_by_name()
/// @error: EXISTS when the name is taken, BUSY when it is attached elsewhere, WRONG_THREAD while another thread drives it,
/// CLOSED after a stop, OS
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_attach(
    aio: *mut QContextAio,
    context: *mut QContext,
    name: *const c_char,
    error: *mut *mut GError,
) -> gboolean {
    entry!(
        qcontext_aio_attach,
        0,
        error,
        |aio: AioContext, context: Context, name: Option<&str>| {
            context.attach(&aio, name)?;
            Ok(1)
        }
    )
}

fn check_attached(aio: &AioContext, context: &Context) -> Result<(), Error> {
    if context.has_aio(aio) {
        return Ok(());
    }
    let message = format!(
        "the AioContext is not attached to context '{}'",
        context.id()
    );
    Err(Error::new(ErrorKind::NotFound, message))
}

/// qcontext_aio_detach:
/// Detaches the AioContext from the context. This happens at once on the context's thread or when no thread runs the context,
/// else soon. Pending events are kept.
/// @aio: an AioContext
/// @context: the context it is attached to
///
/// Returns: FALSE when it is not attached there.
///
/// Any thread, any locks held; never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_detach(
    aio: *mut QContextAio,
    context: *mut QContext,
) -> gboolean {
    entry!(
        qcontext_aio_detach,
        0,
        |aio: AioContext, context: Context| {
            check_attached(&aio, &context)?;
            context.detach(&aio);
            Ok(1)
        }
    )
}

/// qcontext_aio_detach_sync:
/// As qcontext_aio_detach(), and waits until it is done.
/// @aio: an AioContext
/// @context: the context it is attached to
/// @error: NOT_FOUND when it is not attached there, WOULD_DEADLOCK, CLOSED after a stop, BUSY inside one of its callbacks and
///   while it has requests in the context's io_uring
///
/// Returns: TRUE when it is detached.
///
/// Any thread; blocks unless it is the context's own, so no lock that callbacks of the context take may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_detach_sync(
    aio: *mut QContextAio,
    context: *mut QContext,
    error: *mut *mut GError,
) -> gboolean {
    entry!(
        qcontext_aio_detach_sync,
        0,
        error,
        |aio: AioContext, context: Context| {
            check_attached(&aio, &context)?;
            detach_and_wait(&aio, &context)?;
            Ok(1)
        }
    )
}

/// Detaches, and waits only if it is not done at once: an unthreaded context may have no thread to wait for.
fn detach_and_wait(aio: &AioContext, context: &Context) -> Result<(), Error> {
    context.detach(aio);
    if context.has_aio(aio) {
        context.detach_sync(aio)?;
    }
    Ok(())
}

/// qcontext_aio_move:
/// Moves the AioContext from one context to another without losing an event.
/// @aio: an AioContext
/// @from: the context it is attached to
/// @to: the context to attach it to
/// @name: (nullable): a name for qcontext_find_aio_by_name()
/// @error: as for qcontext_aio_detach_sync() and qcontext_aio_attach(); after a failure of the latter it is detached
///
/// Returns: TRUE when it has moved.
///
/// Any thread; blocks unless it is @from's, so no lock that callbacks of @from take may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_move(
    aio: *mut QContextAio,
    from: *mut QContext,
    to: *mut QContext,
    name: *const c_char,
    error: *mut *mut GError,
) -> gboolean {
    entry!(
        qcontext_aio_move,
        0,
        error,
        |aio: AioContext, from: Context, to: Context, name: Option<&str>| {
            check_attached(&aio, &from)?;
            detach_and_wait(&aio, &from)?;
            to.attach(&aio, name)?;
            Ok(1)
        }
    )
}

/// qcontext_find_aio_by_name:
/// @context: a context
/// @name: a name given to qcontext_aio_attach()
///
/// Returns: (transfer full) (nullable): a new reference to the AioContext, NULL when there is none of that name.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_find_aio_by_name(
    context: *mut QContext,
    name: *const c_char,
) -> *mut QContextAio {
    entry!(
        qcontext_find_aio_by_name,
        ptr::null_mut(),
        |context: Context, name: &str| {
            Ok(context.find_aio(name).map_or(ptr::null_mut(), give_aio))
        }
    )
}

/// qcontext_aio_get_g_source:
/// Creates a source that drives the AioContext from any GMainContext. It holds a reference to the AioContext. If sources of one
/// AioContext are attached to several GMainContexts, each event is served once, by whichever thread comes first.
/// @aio: an AioContext that is attached to no context
/// @error: OS
///
/// Returns: (transfer full) (nullable): a new source, not attached.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_get_g_source(
    aio: *mut QContextAio,
    error: *mut *mut GError,
) -> *mut GSource {
    entry!(
        qcontext_aio_get_g_source,
        ptr::null_mut(),
        error,
        |aio: AioContext| {
            let source = aio.g_source()?;
            Ok(source.into_glib_ptr())
        }
    )
}
