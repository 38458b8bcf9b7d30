//! Going into the background.
//!
//! The program forks before it makes anything, because only the thread that forks goes on in the child. The parent waits until
//! the child is ready, or has ended with an error, and ends with the same status. Until it is ready, the child writes its errors
//! where the parent does.
#![allow(unsafe_code)] // fork, setsid and waitpid

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use qcontext::{Error, Result};

/// The child's side: says to the parent that everything is ready.
#[derive(Debug)]
pub(super) struct Daemon {
    ready: PipeWriter,
}

/// Forks. Returns in the child; the parent ends here. Call it while the process has one thread.
///
/// # Errors
/// There can be no other process.
pub(super) fn fork() -> Result<Daemon> {
    let (waiting, ready) = io::pipe().map_err(|error| Error::os("cannot make a pipe", error))?;
    // SAFETY: the process has one thread, so the child has all of it.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os("cannot fork")),
        0 => {
            drop(waiting);
            // SAFETY: no pointers involved.
            if unsafe { libc::setsid() } < 0 {
                return Err(Error::last_os("cannot make a session"));
            }
            Ok(Daemon { ready })
        }
        child => {
            drop(ready);
            end_as(child, waiting)
        }
    }
}

/// Waits for the child to be ready, and ends with status 0 then; with its status if it has ended instead.
fn end_as(child: libc::pid_t, mut waiting: PipeReader) -> ! {
    let mut word = [0];
    if matches!(waiting.read(&mut word), Ok(1)) {
        std::process::exit(0);
    }
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) } == child;
    let code = match ended && libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status),
        false => 1,
    };
    std::process::exit(code)
}

impl Daemon {
    /// Leaves the directory and the standard streams of the parent, and lets it end.
    ///
    /// # Errors
    /// There is no `/dev/null`, or the root directory cannot be entered.
    pub(super) fn ready(mut self) -> Result<()> {
        let failed = |error| Error::os("cannot go into the background", error);
        std::env::set_current_dir("/").map_err(failed)?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        replace_standard_streams(&null.map_err(failed)?).map_err(failed)?;
        // An error means that the parent is gone.
        let _ = self.ready.write_all(&[1]);
        Ok(())
    }
}

fn replace_standard_streams(null: &File) -> io::Result<()> {
    for stream in 0..3 {
        // SAFETY: no pointers involved; the standard streams belong to the program.
        if unsafe { libc::dup2(null.as_raw_fd(), stream) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
