//! The context as a counted pointer, for languages without destructors.
#![allow(unsafe_code)] // counts by hand

use super::{Handle, QContext};
use std::ffi::c_void;
use std::sync::Arc;

#[doc(hidden)] // for the C ABI
impl QContext {
    /// Turns this handle into a pointer, which is the same for all handles of a context. [`QContext::from_raw`] takes it back.
    pub fn into_raw(self) -> *const c_void {
        Arc::into_raw(self.0).cast()
    }

    /// The pointer that [`QContext::into_raw`] would give, without giving the handle away.
    pub fn as_raw(&self) -> *const c_void {
        Arc::as_ptr(&self.0).cast()
    }

    /// Takes back a handle.
    ///
    /// # Safety
    /// `raw` came from [`QContext::into_raw`], and each such pointer is taken back once.
    pub unsafe fn from_raw(raw: *const c_void) -> QContext {
        // SAFETY: by this function's contract, the count of one `into_raw` is still there.
        QContext(unsafe { Arc::from_raw(raw.cast::<Handle>()) })
    }
}
