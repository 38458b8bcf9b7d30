//! Device options for programs that implement devices in C.
#![allow(unsafe_code)] // entry points

use crate::argument::{Given, Out, Pointee, entry, give};
use crate::handle::{QContext, give_context};
use crate::variant::to_text;
use glib::translate::ToGlibPtr;
use glib_sys::{GError, gboolean};
use qcontext::QContext as Context;
use qcontext::object::Options;
use qcontext::object::options;
use std::ffi::c_char;
use std::ptr;

/// QContextDeviceOpts:
/// The options of one -device argument. Taking an option removes it, so that qcontext_device_opts_finish() finds unknown ones.
#[derive(Debug)]
pub struct QContextDeviceOpts(Options);

impl Pointee for QContextDeviceOpts {}

/// qcontext_device_opts_parse:
/// Parses the argument of -device: "virtio-blk,drive=d0,context=ctx1", or a JSON object. If the first item has no '=', it is the driver.
/// @optarg: the argument
/// @error: INVALID_ARGUMENT for malformed JSON, INVALID_ID
///
/// Returns: (transfer full) (nullable): the options; free with qcontext_device_opts_free().
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_device_opts_parse(
    optarg: *const c_char,
    error: *mut *mut GError,
) -> *mut QContextDeviceOpts {
    entry!(
        qcontext_device_opts_parse,
        ptr::null_mut(),
        error,
        |optarg: &str| {
            let parsed = options::parse(Some("driver"), optarg)?;
            if let Some(id) = parsed
                .peek("id")
                .filter(|_| parsed.form() == options::Form::Opts)
            {
                options::check_id(id, "id")?;
            }
            Ok(give(QContextDeviceOpts(parsed)))
        }
    )
}

/// qcontext_device_opts_free:
/// @opts: (nullable) (transfer full): options; NULL is ignored
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_device_opts_free(opts: *mut QContextDeviceOpts) {
    entry!(qcontext_device_opts_free, (), |opts: Given<
        Box<QContextDeviceOpts>,
    >| {
        drop(opts);
        Ok(())
    });
}

/// qcontext_device_opts_take:
/// Takes an option as text.
/// @opts: options
/// @name: the option
///
/// Returns: (transfer full) (nullable): its value, NULL when it is not given; free with g_free().
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_device_opts_take(
    opts: *mut QContextDeviceOpts,
    name: *const c_char,
) -> *mut c_char {
    entry!(
        qcontext_device_opts_take,
        ptr::null_mut(),
        |opts: &mut QContextDeviceOpts, name: &str| {
            let value = opts.0.take(name);
            Ok(value.map_or(ptr::null_mut(), |value| to_text(&value).to_glib_full()))
        }
    )
}

/// qcontext_device_opts_take_bool:
/// Takes a boolean: on, yes, true, y, off, no, false, n.
/// @opts: options
/// @name: the option
/// @value: (inout): where to store the value; unchanged when the option is not given
/// @error: INVALID_ARGUMENT for anything else
///
/// Returns: FALSE on failure.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_device_opts_take_bool(
    opts: *mut QContextDeviceOpts,
    name: *const c_char,
    value: *mut gboolean,
    error: *mut *mut GError,
) -> gboolean {
    entry!(
        qcontext_device_opts_take_bool,
        0,
        error,
        |opts: &mut QContextDeviceOpts, name: &str, value: Out<gboolean>| {
            if let Some(taken) = opts.0.take_bool(name)? {
                value.set(taken.into());
            }
            Ok(1)
        }
    )
}

/// qcontext_device_opts_take_context:
/// Takes the name of a context and looks it up.
/// @opts: options
/// @name: the option, usually "context"
/// @error: NOT_FOUND
///
/// Returns: (transfer full) (nullable): a reference to the context; qcontext-main when the option is not given.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_device_opts_take_context(
    opts: *mut QContextDeviceOpts,
    name: *const c_char,
    error: *mut *mut GError,
) -> *mut QContext {
    entry!(
        qcontext_device_opts_take_context,
        ptr::null_mut(),
        error,
        |opts: &mut QContextDeviceOpts, name: &str| {
            let context = match opts.0.take_str(name)? {
                Some(id) => Context::find(&id)?,
                None => Context::main(),
            };
            Ok(give_context(context))
        }
    )
}

/// qcontext_device_opts_finish:
/// Checks that no option is left, so that a misspelt one is an error.
/// @opts: options
/// @error: INVALID_ARGUMENT, which names the first one left
///
/// Returns: FALSE on failure.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_device_opts_finish(
    opts: *mut QContextDeviceOpts,
    error: *mut *mut GError,
) -> gboolean {
    entry!(
        qcontext_device_opts_finish,
        0,
        error,
        |opts: &mut QContextDeviceOpts| { Ok(opts.0.finish().map(|()| 1)?) }
    )
}
