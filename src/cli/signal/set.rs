//! Sets of signals, and the mask of a thread.
#![allow(unsafe_code)] // sigset_t has no safe binding

use std::mem::MaybeUninit;
use std::ptr;

use qcontext::{Error, Result};

/// A set of signals.
#[derive(Clone, Copy)]
pub(super) struct SignalSet(libc::sigset_t);

impl SignalSet {
    pub(super) fn empty() -> SignalSet {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is valid for writes; the call initialises the set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialised by the line above.
        SignalSet(unsafe { set.assume_init() })
    }

    pub(super) fn add(&mut self, signal: i32) {
        // SAFETY: the set is initialised. An unknown signal is an error without effect.
        unsafe { libc::sigaddset(&raw mut self.0, signal) };
    }

    pub(super) fn raw(&self) -> *const libc::sigset_t {
        &raw const self.0
    }

    /// Blocks these signals in the calling thread, and no others.
    pub(super) fn set_as_mask(&self) -> Result<()> {
        self.change_mask(libc::SIG_SETMASK)
    }

    /// Lets these signals through in the calling thread; those that are pending do what they do before this returns.
    pub(super) fn unblock(&self) -> Result<()> {
        self.change_mask(libc::SIG_UNBLOCK)
    }

    /// Blocks these signals, too, in the calling thread.
    pub(super) fn block(&self) -> Result<()> {
        self.change_mask(libc::SIG_BLOCK)
    }

    fn change_mask(&self, how: i32) -> Result<()> {
        // SAFETY: the set is initialised, and the old mask is not asked for.
        let failed = unsafe { libc::pthread_sigmask(how, self.raw(), ptr::null_mut()) };
        match failed {
            0 => Ok(()),
            errno => Err(Error::os(
                "cannot set the signal mask",
                std::io::Error::from_raw_os_error(errno),
            )),
        }
    }
}
