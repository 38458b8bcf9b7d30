//! Objects and properties: `-object`, `object-del`, `qom-list`, `qom-get`.
#![allow(unsafe_code)] // entry points

use crate::argument::entry;
use crate::handle::{QContext, give_context};
use crate::variant::{from_variant, to_text, to_variant};
use glib::Variant;
use glib::translate::{IntoGlibPtr, ToGlibPtr};
use glib_sys::{GError, GVariant, gboolean};
use qcontext::QContext as Context;
use qcontext::object::{self, Object, Value, tree};
use qcontext::{Error, ErrorKind};
use std::ffi::c_char;
use std::ptr;

/// qcontext_object_add:
/// Creates a context as the command line does: "qcontext,id=ctx1,threaded=yes", or a JSON object. It lasts until
/// qcontext_object_del(), even when no reference is left.
/// @optarg: the argument of -object
/// @error: an unknown type or option, a bad or taken id
///
/// Returns: (transfer full) (nullable): a reference to the new context, even if another thread has deleted it by then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_object_add(
    optarg: *const c_char,
    error: *mut *mut GError,
) -> *mut QContext {
    entry!(
        qcontext_object_add,
        ptr::null_mut(),
        error,
        |optarg: &str| {
            let options = object::options::parse(Some("qom-type"), optarg)?;
            Ok(give_context(Context::from_options(options)?))
        }
    )
}

/// qcontext_object_del:
/// Stops a context, waits for its thread and forgets its name. References stay valid for qcontext_unref(). When several threads
/// delete one context, one of them succeeds and the others get NOT_FOUND.
/// @id: the context's name
/// @error: NOT_FOUND; BUSY for qcontext-main and while a device uses the context; WOULD_DEADLOCK on its own thread
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread but the context's own; blocks, so no lock that callbacks of the context take may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_object_del(
    id: *const c_char,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_object_del, 0, error, |id: &str| {
        Ok(object::object_del(id).map(|()| 1)?)
    })
}

/// qcontext_qom_list:
/// @path: a path in the object tree, such as "/objects" or "/objects/ctx1"
/// @error: DEVICE_NOT_FOUND
///
/// Returns: (transfer full) (nullable): the names of its properties and children; free with g_strfreev().
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_qom_list(
    path: *const c_char,
    error: *mut *mut GError,
) -> *mut *mut c_char {
    entry!(qcontext_qom_list, ptr::null_mut(), error, |path: &str| {
        let properties = tree::list(path)?;
        let names: Vec<String> = properties
            .into_iter()
            .map(|property| property.name.into_owned())
            .collect();
        Ok(names.to_glib_full())
    })
}

/// qcontext_qom_get:
/// @path_and_property: a path, a dot and a property, such as "/objects/ctx1.thread_id"
/// @error: DEVICE_NOT_FOUND, NOT_FOUND
///
/// Returns: (transfer full) (nullable): the value as text; free with g_free().
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_qom_get(
    path_and_property: *const c_char,
    error: *mut *mut GError,
) -> *mut c_char {
    entry!(
        qcontext_qom_get,
        ptr::null_mut(),
        error,
        |path_and_property: &str| {
            let both = path_and_property;
            let (path, property) = both.rsplit_once('.').ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidArgument,
                    format!("'{both}' is not a path, a dot and a property"),
                )
            })?;
            Ok(to_text(&tree::get(path, property)?).to_glib_full())
        }
    )
}

/// qcontext_get_property:
/// @context: a context
/// @name: a property, such as "thread_id"
/// @error: NOT_FOUND
///
/// Returns: (transfer full) (nullable): the value; not floating.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_get_property(
    context: *mut QContext,
    name: *const c_char,
    error: *mut *mut GError,
) -> *mut GVariant {
    entry!(
        qcontext_get_property,
        ptr::null_mut(),
        error,
        |context: Context, name: &str| {
            let value = context.get(name)?;
            Ok(to_variant(&value).into_glib_ptr())
        }
    )
}

/// qcontext_set_property:
/// @context: a context
/// @name: a property, such as "poll-max-ns"
/// @value: a boolean, a number, a string or an array of these, such as "[0, 1]" for "cpu-affinity"; consumed if floating
/// @error: NOT_FOUND, INVALID_ARGUMENT for one that cannot be written or a value that does not fit
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_set_property(
    context: *mut QContext,
    name: *const c_char,
    value: *mut GVariant,
    error: *mut *mut GError,
) -> gboolean {
    entry!(
        qcontext_set_property,
        0,
        error,
        |value: Variant, context: Context, name: &str| {
            let wanted: Value = from_variant(&value)
                .ok_or_else(|| object::expected(name, "boolean, number, string or array"))?;
            context.set(name, wanted)?;
            Ok(1)
        }
    )
}
