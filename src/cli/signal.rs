//! Signals: which ones end the program, which ones it survives, and their way into the main loop.
//!
//! * SIGTERM, SIGINT, SIGHUP and SIGXCPU are blocked, and read from a signalfd on the main loop. The program ends in order.
//! * SIGXFSZ and SIGPIPE do nothing. A write beyond the limit on the size of files, which a guest can ask for, fails with EFBIG, and
//!   a write to a reader that is gone fails with EPIPE. The Rust runtime has SIGPIPE ignored before `main`.
//! * SIGTTOU is blocked. Output to a terminal and a change of its mode then never stop the program, wherever it runs.
//! * With a console on a terminal, SIGTSTP and SIGCONT come through the signalfd, too, because the mode of the terminal changes with
//!   them. Signals that end the program at once, such as SIGQUIT, restore the mode first.
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
//! * `fatal`: signals that end the program at once
#![allow(unsafe_code)] // signalfd and raise have no safe binding

use std::os::fd::{FromRawFd, OwnedFd};

use gio::prelude::*;

use qcontext::{Error, Result};

mod action;
mod fatal;
mod set;

use set::SignalSet;

/// The signals that end the program in order.
const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGXCPU];

/// The signals of a shell's job control.
const JOB_CONTROL: [i32; 2] = [libc::SIGTSTP, libc::SIGCONT];

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalRequest {
    /// That the program ends.
    End,
    /// That it stops: Ctrl-Z.
    Stop,
    /// Nothing: it has been continued.
    Continued,
}

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

/// Sets the program's signals up, and calls `action` on the main loop for each that asks for something. `on_terminal` is whether
/// there is a console on a terminal. Call it before the process has other threads, so that they inherit the mask.
pub(super) fn watch(
    on_terminal: bool,
    action: impl Fn(SignalRequest) + 'static,
) -> Result<Signals> {
    action::survive(libc::SIGXFSZ)?;
    let mut watched = SignalSet::empty();
    add_those_not_ignored(&mut watched, &ENDING)?;
    if on_terminal {
        add_those_not_ignored(&mut watched, &JOB_CONTROL)?;
        fatal::restore_the_terminal_at_the_end()?;
    }
    let mut blocked = watched;
    blocked.add(libc::SIGTTOU);
    blocked.set_as_mask()?;
    let stream = gio_unix::InputStream::take_fd(signalfd(&watched)?);
    let stream = stream.upcast::<gio::PollableInputStream>();
    let source = stream.create_source(
        None::<&gio::Cancellable>,
        Some("qctx-signals"),
        glib::Priority::HIGH,
        move |stream| {
            let mut record = [0; size_of::<libc::signalfd_siginfo>()];
            let read = stream.read_nonblocking(&mut record, None::<&gio::Cancellable>);
            if let (Ok(_), Some(number)) = (read, record.first_chunk()) {
                action(request(u32::from_ne_bytes(*number)));
            }
            glib::ControlFlow::Continue
        },
    );
    source.attach(Some(&glib::MainContext::default()));
    Ok(Signals { source })
}

/// Stops the process as SIGTSTP does by default. Returns when it is continued.
pub(super) fn stop() -> Result<()> {
    let mut set = SignalSet::empty();
    set.add(libc::SIGTSTP);
    // SAFETY: the signal is blocked, so it stays pending.
    unsafe { libc::raise(libc::SIGTSTP) };
    set.unblock()?;
    set.block()
}

/// Blocked, an ignored signal would be delivered.
fn add_those_not_ignored(set: &mut SignalSet, signals: &[i32]) -> Result<()> {
    for &signal in signals {
        if !action::is_ignored(signal)? {
            set.add(signal);
        }
    }
    Ok(())
}

/// What a signal asks for, by its number, which is what a record of a signalfd begins with.
fn request(signal: u32) -> SignalRequest {
    match signal.cast_signed() {
        libc::SIGTSTP => SignalRequest::Stop,
        libc::SIGCONT => SignalRequest::Continued,
        _ => SignalRequest::End,
    }
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
