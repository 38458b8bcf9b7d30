//! The options of a device that a C program models.
#![allow(unsafe_code)] // pointers from C

use crate::boundary::{Fault, enter, enter_fallible, free, text};
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
/// The options of one -device argument. Reading one marks it as known, for qcontext_device_opts_finish().
#[derive(Debug)]
pub struct QContextDeviceOpts(Options);

/// # Safety
/// `opts` is NULL or options of the caller's, which nobody else uses meanwhile.
unsafe fn borrow<'a>(opts: *mut QContextDeviceOpts) -> Result<&'a mut Options, Fault> {
    // SAFETY: the caller's word.
    unsafe { opts.as_mut() }
        .map(|opts| &mut opts.0)
        .ok_or(Fault::Misuse("the options are NULL"))
}

/// qcontext_device_opts_parse:
/// Parses the argument of -device: "virtio-blk,drive=d0,context=ctx1", or a JSON object. The first bare word is the driver.
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
    let body = || {
        // SAFETY: the caller's string.
        let parsed = options::parse(Some("driver"), unsafe {
            text(optarg, "the option string is NULL")
        }?)?;
        if let Some(id) = parsed
            .peek("id")
            .filter(|_| parsed.form() == options::Form::Opts)
        {
            options::check_id(id, "id")?;
        }
        Ok(Box::into_raw(Box::new(QContextDeviceOpts(parsed))))
    };
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_device_opts_parse", ptr::null_mut(), error, body) }
}

/// qcontext_device_opts_free:
/// @opts: (nullable) (transfer full): options; NULL is ignored
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_device_opts_free(opts: *mut QContextDeviceOpts) {
    // SAFETY: the options that the caller gives back.
    unsafe { free("qcontext_device_opts_free", opts) };
}

/// qcontext_device_opts_take:
/// Takes an option out as text.
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
    enter("qcontext_device_opts_take", ptr::null_mut(), || {
        // SAFETY: the caller's options.
        let opts = unsafe { borrow(opts) }?;
        // SAFETY: the caller's string.
        let value = opts.take(unsafe { text(name, "the option's name is NULL") }?);
        Ok(value.map_or(ptr::null_mut(), |value| to_text(&value).to_glib_full()))
    })
}

/// qcontext_device_opts_take_bool:
/// Takes a boolean out: on, yes, true, y, off, no, false, n.
/// @opts: options
/// @name: the option
/// @value: (inout): where the value goes; stays as it is when the option is not given
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
    let body = || {
        if value.is_null() {
            return Err(Fault::Misuse("the place for the value is NULL"));
        }
        // SAFETY: the caller's options.
        let opts = unsafe { borrow(opts) }?;
        // SAFETY: the caller's string.
        if let Some(taken) = opts.take_bool(unsafe { text(name, "the option's name is NULL") }?)? {
            // SAFETY: the caller's place.
            unsafe { *value = taken.into() };
        }
        Ok(1)
    };
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_device_opts_take_bool", 0, error, body) }
}

/// qcontext_device_opts_take_context:
/// Takes out the name of a context and looks it up.
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
    let body = || {
        // SAFETY: the caller's options.
        let opts = unsafe { borrow(opts) }?;
        // SAFETY: the caller's string.
        let context = match opts.take_str(unsafe { text(name, "the option's name is NULL") }?)? {
            Some(id) => Context::find(&id)?,
            None => Context::main(),
        };
        Ok(give_context(context))
    };
    // SAFETY: the caller's place for an error.
    unsafe {
        enter_fallible(
            "qcontext_device_opts_take_context",
            ptr::null_mut(),
            error,
            body,
        )
    }
}

/// qcontext_device_opts_finish:
/// Makes sure that every option was taken, so that a misspelt one is an error.
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
    // SAFETY: the caller's options.
    let body = || Ok(unsafe { borrow(opts) }?.finish().map(|()| 1)?);
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_device_opts_finish", 0, error, body) }
}
