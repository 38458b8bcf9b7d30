//! The opaque types, and how a pointer from C becomes a Rust handle.
#![allow(unsafe_code)] // pointers from C

use crate::boundary::Fault;
use qcontext::AioContext;
use qcontext::QContext as Context;
use std::mem::ManuallyDrop;

/// QContext:
/// A named event loop, run by at most one thread, usually its own. Counted; the same context is always the same pointer.
#[derive(Debug)]
pub struct QContext(());

/// QContextAio:
/// A device's set of event handlers: fd handlers, bottom halves, timers. Counted; a QContext or a GSource drives it.
#[derive(Debug)]
pub struct QContextAio(());

/// A handle that counts while it is used.
///
/// # Safety
/// `context` is NULL or a context to which the caller holds a reference.
pub(crate) unsafe fn context(context: *const QContext) -> Result<Context, Fault> {
    // SAFETY: the caller's word.
    unsafe { borrowed_context(context) }.map(|borrowed| Context::clone(&borrowed))
}

/// A handle that does not count: for calls from signal handlers, which must not be the last to let go.
///
/// # Safety
/// As for [`context`]; the caller's reference outlives the result.
pub(crate) unsafe fn borrowed_context(
    context: *const QContext,
) -> Result<ManuallyDrop<Context>, Fault> {
    if context.is_null() {
        return Err(Fault::Misuse("the context is NULL"));
    }
    // SAFETY: contexts are given to C by `give_context` only, and `ManuallyDrop` keeps the count.
    Ok(ManuallyDrop::new(unsafe {
        Context::from_raw(context.cast())
    }))
}

/// Gives a reference to C.
pub(crate) fn give_context(context: Context) -> *mut QContext {
    context.into_raw().cast::<QContext>().cast_mut()
}

/// A handle that counts while it is used.
///
/// # Safety
/// `aio` is NULL or an AioContext to which the caller holds a reference.
pub(crate) unsafe fn aio(aio: *const QContextAio) -> Result<AioContext, Fault> {
    // SAFETY: the caller's word.
    unsafe { borrowed_aio(aio) }.map(|borrowed| AioContext::clone(&borrowed))
}

/// A handle that does not count.
///
/// # Safety
/// As for [`aio`]; the caller's reference outlives the result.
pub(crate) unsafe fn borrowed_aio(
    aio: *const QContextAio,
) -> Result<ManuallyDrop<AioContext>, Fault> {
    if aio.is_null() {
        return Err(Fault::Misuse("the AioContext is NULL"));
    }
    // SAFETY: AioContexts are given to C by `give_aio` only, and `ManuallyDrop` keeps the count.
    Ok(ManuallyDrop::new(unsafe {
        AioContext::from_raw(aio.cast())
    }))
}

/// Gives a reference to C.
pub(crate) fn give_aio(aio: AioContext) -> *mut QContextAio {
    aio.into_raw().cast::<QContextAio>().cast_mut()
}
