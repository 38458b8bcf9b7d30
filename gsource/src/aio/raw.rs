//! The AioContext as a counted pointer, for languages without destructors.
#![allow(unsafe_code)] // counts by hand

use super::{AioContext, Handle};
use std::ffi::c_void;
use std::sync::Arc;

#[doc(hidden)] // for the C ABI
impl AioContext {
    /// Gives this handle away as a pointer, the same for all handles of a context. [`AioContext::from_raw`] takes it back.
    pub fn into_raw(self) -> *const c_void {
        Arc::into_raw(self.0).cast()
    }

    /// The pointer that [`AioContext::into_raw`] would give, without giving the handle away.
    pub fn as_raw(&self) -> *const c_void {
        Arc::as_ptr(&self.0).cast()
    }

    /// Takes back a handle that was given away.
    ///
    /// # Safety
    /// `raw` came from [`AioContext::into_raw`], and each pointer that was given away is taken back once.
    pub unsafe fn from_raw(raw: *const c_void) -> AioContext {
        // SAFETY: the caller's promise.
        AioContext(unsafe { Arc::from_raw(raw.cast::<Handle>()) })
    }
}

#[cfg(test)]
mod tests {
    use super::AioContext;

    #[test]
    fn all_handles_have_one_pointer() {
        let aio = AioContext::new().unwrap();
        let raw = aio.clone().into_raw();
        assert_eq!(raw, aio.as_raw());
        // SAFETY: given away two lines above.
        let back = unsafe { AioContext::from_raw(raw) };
        assert!(back.is_same(&aio));
    }
}
