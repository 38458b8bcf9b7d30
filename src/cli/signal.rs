//! SIGTERM, SIGINT and SIGHUP as an event of the main loop.
#![allow(unsafe_code)] // signal masks and signalfd have no safe binding

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

use gio::prelude::*;

use qcontext::{Error, Result};

/// The source of the signals. Dropping it removes the source.
#[derive(Debug)]
pub(super) struct Signals {
    source: glib::Source,
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.source.destroy();
    }
}

/// Calls `action` on the main loop for each of these signals. Call it before the process has other threads, so that they
/// inherit the blocked signals.
pub(super) fn watch(action: impl Fn() + 'static) -> Result<Signals> {
    let set = block()?;
    // SAFETY: `set` is a valid signal set.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(Error::last_os("cannot make a signalfd"));
    }
    // SAFETY: the fd is new and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let stream = gio_unix::InputStream::take_fd(fd).upcast::<gio::PollableInputStream>();
    let source = stream.create_source(
        None::<&gio::Cancellable>,
        Some("qctx-signals"),
        glib::Priority::HIGH,
        move |stream| {
            let mut record = [0; size_of::<libc::signalfd_siginfo>()];
            if stream
                .read_nonblocking(&mut record, None::<&gio::Cancellable>)
                .is_ok()
            {
                action();
            }
            glib::ControlFlow::Continue
        },
    );
    source.attach(Some(&glib::MainContext::default()));
    Ok(Signals { source })
}

fn block() -> Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is valid for writes; the call initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the line above.
    let mut set = unsafe { set.assume_init() };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: `set` is a valid signal set and the signal exists.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: `set` is a valid signal set, and the old one is not asked for.
    let failed =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    match failed {
        0 => Ok(set),
        errno => Err(Error::os(
            "cannot block signals",
            std::io::Error::from_raw_os_error(errno),
        )),
    }
}
