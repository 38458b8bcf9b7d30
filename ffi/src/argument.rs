//! Pointer arguments: each entry point turns all of its pointers into checked Rust values here, and nowhere else.
//!
//! [`entry!`] takes the name of the function, the value that it returns after a fault, its `GError **` if it has one, and
//! a closure. The closure names the pointers that it uses and says with a type what each of them must be:
//!
//! | type | NULL | otherwise |
//! |---|---|---|
//! | `QContext`, `AioContext` | misuse | a handle with a reference of its own |
//! | `Borrowed<_>` | misuse | a handle that does not count: allowed in signal handlers |
//! | `Option<QContext>` and so on | `None` | as above |
//! | `&T`, `&mut T` | misuse | what the library gave to C, or a structure of the caller's |
//! | `&str`, `Option<&str>` | misuse, `None` | a string; an error when it is not UTF-8 |
//! | `Out<T>` | misuse | where to store a result |
//! | `Given<T>` | `None` | what the caller gives back |
//!
//! Misuse is a critical with the name of the function and of the argument, or the noun for a handle.
#![allow(unsafe_code)] // turns pointers of C into references

use crate::boundary::Fault;
use glib::translate::from_glib_none;
use qcontext::{Error, ErrorKind};
use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

/// Checks the pointers of a C call and runs its body; see the module's documentation.
macro_rules! entry {
    ($name:ident, $neutral:expr, || $body:block) => {
        $crate::argument::entry!($name, $neutral, std::ptr::null_mut(), || $body)
    };
    ($name:ident, $neutral:expr, $error:expr, || $body:block) => {{
        let body = || $body;
        // SAFETY: promise 1 of the crate documentation.
        unsafe { $crate::boundary::enter(stringify!($name), $neutral, $error, body) }
    }};
    ($name:ident, $neutral:expr, |$($argument:ident: $kind:ty),+ $(,)?| $body:block) => {
        $crate::argument::entry!($name, $neutral, std::ptr::null_mut(), |$($argument: $kind),+| $body)
    };
    ($name:ident, $neutral:expr, $error:expr, |$($argument:ident: $kind:ty),+ $(,)?| $body:block) => {
        $crate::argument::entry!($name, $neutral, $error, || {
            $(
                // SAFETY: the caller of an entry point keeps the promises of the crate documentation.
                let $argument: $kind = unsafe {
                    <$kind as $crate::argument::FromC>::from_c(
                        $argument,
                        concat!("the ", stringify!($argument), " is NULL"),
                    )
                }?;
            )+
            $body
        })
    };
}
pub(crate) use entry;

/// What a pointer argument becomes.
pub(crate) trait FromC: Sized {
    /// The pointer as C passes it.
    type Pointer;

    /// Checks a pointer. `null` is the report for a NULL that is not allowed.
    ///
    /// # Safety
    /// The pointer keeps the promises of the crate documentation, for as long as the result is used.
    unsafe fn from_c(pointer: Self::Pointer, null: &'static str) -> Result<Self, Fault>;
}

/// What C holds by pointer and Rust reads by reference.
pub(crate) trait Pointee {}

impl<T: Pointee> FromC for &T {
    type Pointer = *const T;

    unsafe fn from_c(pointer: *const T, null: &'static str) -> Result<Self, Fault> {
        // SAFETY: promise 1.
        unsafe { pointer.as_ref() }.ok_or(Fault::Misuse(null))
    }
}

impl<T: Pointee> FromC for &mut T {
    type Pointer = *mut T;

    unsafe fn from_c(pointer: *mut T, null: &'static str) -> Result<Self, Fault> {
        // SAFETY: promise 1, and the function is for one thread at a time.
        unsafe { pointer.as_mut() }.ok_or(Fault::Misuse(null))
    }
}

impl<T: Pointee> FromC for Option<&T> {
    type Pointer = *const T;

    unsafe fn from_c(pointer: *const T, _: &'static str) -> Result<Self, Fault> {
        // SAFETY: promise 1.
        Ok(unsafe { pointer.as_ref() })
    }
}

/// What the caller gives back: the reference or the memory is the callee's. `None` for NULL.
#[derive(Debug)]
pub(crate) struct Given<T>(pub(crate) Option<T>);

impl<T: Pointee> FromC for Given<Box<T>> {
    type Pointer = *mut T;

    unsafe fn from_c(pointer: *mut T, _: &'static str) -> Result<Self, Fault> {
        if pointer.is_null() {
            return Ok(Given(None));
        }
        // SAFETY: promise 4; the library gave it with `give`.
        Ok(Given(Some(unsafe { Box::from_raw(pointer) })))
    }
}

/// Gives an object to C, which gives it back as [`Given`].
pub(crate) fn give<T: Pointee>(object: T) -> *mut T {
    Box::into_raw(Box::new(object))
}

/// Where the caller wants a result.
#[derive(Debug)]
pub(crate) struct Out<T>(NonNull<T>);

impl<T> FromC for Out<T> {
    type Pointer = *mut T;

    unsafe fn from_c(pointer: *mut T, null: &'static str) -> Result<Self, Fault> {
        NonNull::new(pointer).map(Out).ok_or(Fault::Misuse(null))
    }
}

impl<T> Out<T> {
    /// Stores the result. What was there is not read and not dropped.
    pub(crate) fn set(&self, value: T) {
        // SAFETY: promise 1: the place is valid for a write during the call.
        unsafe { self.0.write(value) };
    }

    /// The place, for a C function that stores the result.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<'a> FromC for &'a str {
    type Pointer = *const c_char;

    unsafe fn from_c(pointer: *const c_char, null: &'static str) -> Result<&'a str, Fault> {
        // SAFETY: as the caller of this function promises.
        unsafe { Option::<&'a str>::from_c(pointer, null) }?.ok_or(Fault::Misuse(null))
    }
}

impl<'a> FromC for Option<&'a str> {
    type Pointer = *const c_char;

    unsafe fn from_c(pointer: *const c_char, _: &'static str) -> Result<Option<&'a str>, Fault> {
        if pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: promise 3.
        let text = unsafe { CStr::from_ptr(pointer) };
        match text.to_str() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Fault::Error(Error::new(
                ErrorKind::InvalidArgument,
                "a string is not UTF-8",
            ))),
        }
    }
}

macro_rules! from_glib {
    ($($object:ty, $pointer:ty);+) => {$(
        impl FromC for $object {
            type Pointer = *mut $pointer;

            unsafe fn from_c(pointer: *mut $pointer, null: &'static str) -> Result<Self, Fault> {
                if pointer.is_null() {
                    return Err(Fault::Misuse(null));
                }
                // SAFETY: promise 1; this takes a reference, and sinks a floating one.
                Ok(unsafe { from_glib_none(pointer) })
            }
        }

        impl FromC for Option<$object> {
            type Pointer = *mut $pointer;

            unsafe fn from_c(pointer: *mut $pointer, null: &'static str) -> Result<Self, Fault> {
                if pointer.is_null() {
                    return Ok(None);
                }
                // SAFETY: as the caller of this function promises.
                unsafe { <$object>::from_c(pointer, null) }.map(Some)
            }
        }
    )+};
}

from_glib! {
    glib::MainContext, glib_sys::GMainContext;
    glib::Source, glib_sys::GSource;
    glib::Variant, glib_sys::GVariant
}
