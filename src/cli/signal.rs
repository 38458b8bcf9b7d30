//! Signals: which ones end the program, which ones it survives, and their way into the main loop.
//!
//! * SIGTERM, SIGINT, SIGHUP and SIGXCPU are blocked, and read from a signalfd on the main loop. The program ends in order.
//! * SIGXFSZ and SIGPIPE do nothing. A write beyond the limit on the size of files, which a guest can ask for, fails with EFBIG, and
//!   a write to a reader that is gone fails with EPIPE. The Rust runtime has SIGPIPE ignored before `main`.
//! * SIGTTOU is blocked. Output to a terminal and a change of its mode then never stop the program, wherever it runs.
//! * SIGBUS has a handler of the library for the memory that guests share. It must not be blocked.
//!
//! A signal that is ignored when the program starts stays ignored (`nohup`, the background jobs of a script). A mask that the
//! program inherits is replaced: signals are blocked by accident, when a thread of the parent had blocked them for itself, and a
//! blocked SIGBUS would let a guest end the program.
//!
//! Only the program does this. The library leaves the dispositions of a process as they are.
//!
//! * `set`: sets of signals, and the mask
//! * `action`: what a signal does
#![allow(unsafe_code)] // signalfd has no safe binding

use std::os::fd::{FromRawFd, OwnedFd};

use gio::prelude::*;

use qcontext::{Error, Result};

mod action;
mod set;

use set::SignalSet;

/// The signals that end the program in order.
const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGXCPU];

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

/// Sets the program's signals up, and calls `action` on the main loop for each that is to end it. Call it before the process has
/// other threads, so that they inherit the mask.
pub(super) fn watch(action: impl Fn() + 'static) -> Result<Signals> {
    action::survive(libc::SIGXFSZ)?;
    let mut ending = SignalSet::empty();
    for signal in ENDING {
        // Blocked, it would be delivered although it is ignored.
        if !action::is_ignored(signal)? {
            ending.add(signal);
        }
    }
    let mut blocked = ending;
    blocked.add(libc::SIGTTOU);
    blocked.set_as_mask()?;
    let stream = gio_unix::InputStream::take_fd(signalfd(&ending)?);
    let stream = stream.upcast::<gio::PollableInputStream>();
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

fn signalfd(set: &SignalSet) -> Result<OwnedFd> {
    // SAFETY: the set is initialised.
    let fd = unsafe { libc::signalfd(-1, set.raw(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(Error::last_os("cannot make a signalfd"));
    }
    // SAFETY: the fd is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
