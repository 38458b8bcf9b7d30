//! A terminal in raw mode, so that each key goes to the guest at once.
#![allow(unsafe_code)] // termios has no safe binding

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::{Error, Result};

/// A terminal in raw mode. Dropping it restores the earlier mode.
pub(super) struct Terminal {
    fd: OwnedFd,
    before: libc::termios,
}

impl Terminal {
    /// Puts a terminal into raw mode; `None` if `fd` is no terminal. Keys that send signals still do, and output is still
    /// processed, because the program's own messages go there.
    pub(super) fn raw(fd: BorrowedFd<'_>) -> Result<Option<Terminal>> {
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the pointer is valid for writes; the call fills the record if it succeeds.
        if unsafe { libc::tcgetattr(fd.as_raw_fd(), before.as_mut_ptr()) } != 0 {
            return Ok(None);
        }
        // SAFETY: filled by the call that succeeded.
        let before = unsafe { before.assume_init() };
        let mut raw = before;
        raw.c_iflag &= !(libc::BRKINT | libc::ISTRIP | libc::INLCR | libc::IGNCR);
        raw.c_iflag &= !(libc::ICRNL | libc::IXON | libc::PARMRK);
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::IEXTEN);
        let fd = fd
            .try_clone_to_owned()
            .map_err(|error| Error::os("cannot use the terminal", error))?;
        // SAFETY: the record is valid for reads.
        if unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSANOW, &raw const raw) } != 0 {
            return Err(Error::last_os("cannot set the terminal's mode"));
        }
        Ok(Some(Terminal { fd, before }))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // SAFETY: the record is valid for reads.
        unsafe { libc::tcsetattr(self.fd.as_raw_fd(), libc::TCSANOW, &raw const self.before) };
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}
