//! GSources on a context, some of them by name.
#![allow(unsafe_code)] // pointers from C

use crate::boundary::{Fault, enter, enter_fallible, optional_text, text};
use crate::handle::{self, QContext};
use glib::Source;
use glib::translate::{IntoGlibPtr, from_glib_none};
use glib_sys::{GError, GSource, gboolean};
use std::ffi::c_char;
use std::ptr;

/// # Safety
/// `source` is NULL or a source that the caller holds.
unsafe fn source(source: *mut GSource) -> Result<Source, Fault> {
    if source.is_null() {
        return Err(Fault::Misuse("the source is NULL"));
    }
    // SAFETY: the caller's word.
    Ok(unsafe { from_glib_none(source) })
}

/// qcontext_attach_source:
/// Lets the context drive any GSource, and takes a reference to it. It is destroyed when the context stops.
/// @context: a context
/// @source: a source that is attached nowhere
/// @name: (nullable): the name to find it by
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
    let body = || {
        // SAFETY: the caller's context.
        let context = unsafe { handle::context(context) }?;
        // SAFETY: the caller's source.
        let held = unsafe { self::source(source) }?;
        // SAFETY: the caller's string.
        context.attach_source(&held, unsafe { optional_text(name) }?)?;
        // SAFETY: the source was attached.
        Ok(unsafe { glib_sys::g_source_get_id(source) })
    };
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_attach_source", 0, error, body) }
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
    enter("qcontext_find_source_by_name", ptr::null_mut(), || {
        // SAFETY: the caller's context.
        let context = unsafe { handle::context(context) }?;
        // SAFETY: the caller's string.
        let name = unsafe { text(name, "the name is NULL") }?;
        Ok(context
            .find_source(name)
            .map_or(ptr::null_mut(), |source| source.into_glib_ptr()))
    })
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
    enter("qcontext_destroy_source", 0, || {
        // SAFETY: the caller's context.
        let context = unsafe { handle::context(context) }?;
        // SAFETY: the caller's source.
        Ok(context
            .destroy_source(&unsafe { self::source(source) }?)
            .into())
    })
}
