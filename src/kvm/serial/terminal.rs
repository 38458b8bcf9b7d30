//! A terminal in raw mode, so that each key goes to the guest at once.
//!
//! Used by the console. A terminal belongs to the process group in its foreground, which a shell chooses (`fg`, `bg`, Ctrl-Z). In
//! the background its mode is left alone and nothing is read: the kernel would stop the process. A terminal that does not control
//! this process's session has no such groups, and is always ours.
//!
//! # Threads
//! Any. [`restore_terminal`] may be called by a signal handler.
//!
//! # Invariants
//! 1. A `SavedMode` is never freed, because a signal handler may read it. A mode that comes back is not saved again.
#![allow(unsafe_code)] // termios, and a pointer for a signal handler

use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::foreground::{is_foreground, with_blocked};
use crate::{Error, Result};

/// A terminal, whose mode we may have changed. Dropping it restores the earlier mode.
pub(super) struct Terminal {
    fd: OwnedFd,
    state: Mutex<TerminalState>,
}

#[derive(Default)]
struct TerminalState {
    /// Raw mode is set.
    raw: bool,
    /// The mode before ours, the last time.
    before: Option<&'static SavedMode>,
}

/// The mode of a terminal.
#[derive(Clone, Copy)]
struct Mode(libc::termios);

/// What [`restore_terminal`] sets.
struct SavedMode {
    fd: RawFd,
    mode: Mode,
}

static RESTORE: AtomicPtr<SavedMode> = AtomicPtr::new(ptr::null_mut());

/// Restores the mode of the console's terminal. For a program that ends by a signal: async-signal-safe, and it does not wait.
pub fn restore_terminal() {
    // SAFETY: null, or a record that is never freed (invariant 1).
    if let Some(saved) = unsafe { RESTORE.load(Ordering::Acquire).as_ref() }
        && is_foreground(saved.fd)
    {
        saved.mode.set(saved.fd);
    }
}

impl Terminal {
    /// The terminal that `fd` is; `None` if it is none.
    pub(super) fn new(fd: BorrowedFd<'_>) -> Result<Option<Terminal>> {
        if Mode::of(fd.as_raw_fd()).is_none() {
            return Ok(None);
        }
        let fd = fd
            .try_clone_to_owned()
            .map_err(|error| Error::os("cannot use the terminal", error))?;
        let state = Mutex::default();
        Ok(Some(Terminal { fd, state }))
    }

    /// True if this process may read the terminal and change its mode.
    pub(super) fn is_ours(&self) -> bool {
        is_foreground(self.fd.as_raw_fd())
    }

    /// Sets raw mode. A mode that another program has set meanwhile is what [`Terminal::leave`] restores.
    #[expect(
        clippy::significant_drop_tightening,
        reason = "the mode is set under the lock: state and terminal agree"
    )]
    pub(super) fn enter(&self) {
        let fd = self.fd.as_raw_fd();
        let mut state = self.state();
        let Some(now) = Mode::of(fd) else {
            return;
        };
        if state.raw && now.is_raw() {
            return;
        }
        let known = state.before.filter(|saved| saved.mode.is_same(now));
        let saved = known.unwrap_or_else(|| Box::leak(Box::new(SavedMode { fd, mode: now })));
        RESTORE.store(ptr::from_ref(saved).cast_mut(), Ordering::Release);
        (state.raw, state.before) = (true, Some(saved));
        now.raw().set(fd);
    }

    /// Restores the mode before ours. In the background the shell has done so.
    #[expect(
        clippy::significant_drop_tightening,
        reason = "the mode is set under the lock: state and terminal agree"
    )]
    pub(super) fn leave(&self) {
        let mut state = self.state();
        if !mem::replace(&mut state.raw, false) {
            return;
        }
        if let Some(saved) = state.before
            && self.is_ours()
        {
            saved.mode.set(saved.fd);
        }
        RESTORE.store(ptr::null_mut(), Ordering::Release);
    }

    fn state(&self) -> MutexGuard<'_, TerminalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

impl Mode {
    fn of(fd: RawFd) -> Option<Mode> {
        let mut mode = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the pointer is valid for writes; the call fills the record if it succeeds.
        let known = unsafe { libc::tcgetattr(fd, mode.as_mut_ptr()) } == 0;
        // SAFETY: filled by the call that succeeded.
        known.then(|| Mode(unsafe { mode.assume_init() }))
    }

    /// Keys that send signals still do, and output is still processed, because the program's own messages go there.
    fn raw(self) -> Mode {
        let mut raw = self.0;
        raw.c_iflag &= !(libc::BRKINT | libc::ISTRIP | libc::INLCR | libc::IGNCR);
        raw.c_iflag &= !(libc::ICRNL | libc::IXON | libc::PARMRK);
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::IEXTEN);
        Mode(raw)
    }

    fn is_raw(self) -> bool {
        let raw = self.raw().0;
        (raw.c_iflag, raw.c_lflag) == (self.0.c_iflag, self.0.c_lflag)
    }

    fn is_same(self, other: Mode) -> bool {
        let (a, b) = (self.0, other.0);
        (a.c_iflag, a.c_oflag, a.c_cflag, a.c_lflag) == (b.c_iflag, b.c_oflag, b.c_cflag, b.c_lflag)
            && a.c_cc == b.c_cc
    }

    /// A failure means that the terminal is gone.
    fn set(&self, fd: RawFd) {
        with_blocked(libc::SIGTTOU, || {
            // SAFETY: the record is valid for reads.
            unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const self.0) }
        });
    }
}
