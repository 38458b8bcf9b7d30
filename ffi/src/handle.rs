//! The counted opaque types, and how their pointers become Rust handles.
#![allow(unsafe_code)] // pointers from C

use crate::argument::{FromC, Given};
use crate::boundary::Fault;
use qcontext::AioContext;
use qcontext::QContext as Context;
use std::mem::ManuallyDrop;
use std::ops::Deref;

/// QContext:
/// A named event loop, run by at most one thread, usually its own. Counted; the same context is always the same pointer.
#[derive(Debug)]
pub struct QContext(());

/// QContextAio:
/// A device's set of event handlers: fd handlers, bottom halves, timers. Counted; a QContext or a GSource drives it.
#[derive(Debug)]
pub struct QContextAio(());

/// A handle that does not count. A signal handler may use it, because it never drops the last reference.
#[derive(Debug)]
pub(crate) struct Borrowed<T>(ManuallyDrop<T>);

impl<T> Deref for Borrowed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The four ways in which a call takes a handle.
macro_rules! from_handle {
    ($($handle:ty, $opaque:ty, $null:literal);+) => {$(
        impl FromC for Given<$handle> {
            type Pointer = *mut $opaque;

            unsafe fn from_c(pointer: *mut $opaque, _: &'static str) -> Result<Self, Fault> {
                if pointer.is_null() {
                    return Ok(Given(None));
                }
                // SAFETY: promises 2 and 4: the reference was given by `give_context` or `give_aio`.
                Ok(Given(Some(unsafe { <$handle>::from_raw(pointer.cast()) })))
            }
        }

        impl FromC for Borrowed<$handle> {
            type Pointer = *const $opaque;

            unsafe fn from_c(pointer: *const $opaque, _: &'static str) -> Result<Self, Fault> {
                if pointer.is_null() {
                    return Err(Fault::Misuse($null));
                }
                // SAFETY: promise 2: the caller's reference outlives this, which never drops it.
                let handle = unsafe { <$handle>::from_raw(pointer.cast()) };
                Ok(Borrowed(ManuallyDrop::new(handle)))
            }
        }

        impl FromC for $handle {
            type Pointer = *const $opaque;

            unsafe fn from_c(pointer: *const $opaque, null: &'static str) -> Result<Self, Fault> {
                // SAFETY: as the caller of this function promises.
                let borrowed = unsafe { Borrowed::<$handle>::from_c(pointer, null) }?;
                Ok((*borrowed).clone())
            }
        }

        impl FromC for Option<$handle> {
            type Pointer = *const $opaque;

            unsafe fn from_c(pointer: *const $opaque, null: &'static str) -> Result<Self, Fault> {
                if pointer.is_null() {
                    return Ok(None);
                }
                // SAFETY: as the caller of this function promises.
                unsafe { <$handle>::from_c(pointer, null) }.map(Some)
            }
        }
    )+};
}

from_handle! {
    Context, QContext, "the context is NULL";
    AioContext, QContextAio, "the AioContext is NULL"
}

/// Gives a reference to C.
pub(crate) fn give_context(context: Context) -> *mut QContext {
    context.into_raw().cast::<QContext>().cast_mut()
}

/// Gives a reference to C.
pub(crate) fn give_aio(aio: AioContext) -> *mut QContextAio {
    aio.into_raw().cast::<QContextAio>().cast_mut()
}
