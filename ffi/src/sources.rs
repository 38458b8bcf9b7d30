//! GSources on a context, some of them by name.
#![allow(unsafe_code)] // entry points, a GLib call

use crate::argument::entry;
use crate::handle::QContext;
use glib::Source;
use glib::translate::{IntoGlibPtr, ToGlibPtr};
use glib_sys::{GError, GSource, gboolean};
use qcontext::QContext as Context;
use std::ffi::c_char;
use std::ptr;

/// qcontext_attach_source:
/// Lets the context drive any GSource, and takes a reference to it. It is destroyed when the context stops.
/// @context: a context
/// @source: a source that is not attached
/// @name: (nullable): a name for qcontext_find_source_by_name()
/// @error: EXISTS when the name is taken, BUSY when the source is attached or destroyed already, CLOSED after a stop
///
/// Returns: the source's id within the GMainContext, 0 on failure.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_attach_source(
    context: *mut QContext,
    source: *mut GSource,
    name: *const c_char,
    error: *mut *mut GError,
) -> u32 {
    entry!(
        qcontext_attach_source,
        0,
        error,
        |context: Context, source: Source, name: Option<&str>| {
            context.attach_source(&source, name)?;
            // SAFETY: the source is attached.
            Ok(unsafe { glib_sys::g_source_get_id(source.to_glib_none().0) })
        }
    )
}

/// qcontext_find_source_by_name:
/// @context: a context
/// @name: a name given to qcontext_attach_source()
///
/// Returns: (transfer full) (nullable): a new reference to the source, NULL when there is none of that name.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_find_source_by_name(
    context: *mut QContext,
    name: *const c_char,
) -> *mut GSource {
    entry!(
        qcontext_find_source_by_name,
        ptr::null_mut(),
        |context: Context, name: &str| {
            Ok(context
                .find_source(name)
                .map_or(ptr::null_mut(), |source| source.into_glib_ptr()))
        }
    )
}

/// qcontext_destroy_source:
/// Destroys a source and forgets its name. As with g_source_destroy(), the notify of the source's callback runs here, unless a call
/// is running.
/// @context: a context
/// @source: a source attached with qcontext_attach_source()
///
/// Returns: FALSE when it was not attached here; nothing has changed then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_destroy_source(
    context: *mut QContext,
    source: *mut GSource,
) -> gboolean {
    entry!(
        qcontext_destroy_source,
        0,
        |context: Context, source: Source| { Ok(context.destroy_source(&source).into()) }
    )
}
