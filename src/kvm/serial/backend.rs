//! What the console is connected to, in ways that make no context wait.
//!
//! Other processes share the fds that a program is started with, so their flags are not ours to change, and an fd that polls
//! as ready may still block: a terminal that has room for a part of what is written, a pipe that somebody else fills
//! between the two calls. A terminal or a pipe is therefore opened once more (`/proc/self/fd`, proc(5)), which gives a file
//! description of our own that does not block. A socket is told so with each call. A regular file has no other side to wait
//! for, only its file system. What is left, such as other devices and terminals that belong to another user, is written to by a
//! worker, which may outlive its console with at most one portion; it is read when it polls as readable, and waits if another
//! reader was quicker.
#![allow(unsafe_code)] // poll, and send and recv with flags

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind::Interrupted, ErrorKind::WouldBlock, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use crate::{Error, Result};

/// What the console is connected to.
#[derive(Debug)]
pub struct Backend {
    pub(super) input: Option<ConsoleFd>,
    pub(super) output: ConsoleFd,
}

/// One direction of it.
#[derive(Debug)]
pub(super) struct ConsoleFd {
    file: Arc<File>,
    manner: Manner,
}

/// What keeps a call on it from waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// The file description, which nobody shares.
    OwnDescription,
    /// The call.
    Socket,
    /// Its kind.
    RegularFile,
    /// Nothing.
    Waiting,
}

/// What came of writing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Some(usize),
    /// Later.
    Nothing,
    /// Never again.
    Failed,
}

impl Backend {
    /// Standard input and output.
    ///
    /// # Errors
    /// `Os` if they are closed.
    pub fn stdio() -> Result<Backend> {
        let (input, output) = (io::stdin(), io::stdout());
        Ok(Backend {
            input: Some(ConsoleFd::input(duplicate(input.as_fd())?)),
            output: ConsoleFd::output(duplicate(output.as_fd())?),
        })
    }

    /// A file, which gets the output; there is no input.
    ///
    /// # Errors
    /// `Os` if it cannot be made.
    pub fn file(path: &Path) -> Result<Backend> {
        let file = File::create(path)
            .map_err(|error| Error::os(format!("cannot write '{}'", path.display()), error))?;
        Ok(Backend {
            input: None,
            output: ConsoleFd::output(file.into()),
        })
    }

    #[cfg(test)]
    pub(super) fn fds(input: OwnedFd, output: OwnedFd) -> Backend {
        Backend {
            input: Some(ConsoleFd::input(input)),
            output: ConsoleFd::output(output),
        }
    }
}

impl ConsoleFd {
    fn input(fd: OwnedFd) -> ConsoleFd {
        ConsoleFd::new(fd, OpenOptions::new().read(true))
    }

    fn output(fd: OwnedFd) -> ConsoleFd {
        ConsoleFd::new(fd, OpenOptions::new().write(true))
    }

    fn new(fd: OwnedFd, how: &mut OpenOptions) -> ConsoleFd {
        let given = File::from(fd);
        let kind = given.metadata().ok();
        let (file, manner) = match kind {
            Some(kind) if kind.file_type().is_socket() => (given, Manner::Socket),
            Some(kind) if kind.is_file() => (given, Manner::RegularFile),
            Some(kind) if has_description_to_give(&given, &kind) => match open_again(&given, how) {
                Ok(own) => (own, Manner::OwnDescription),
                Err(_) => (given, Manner::Waiting),
            },
            _ => (given, Manner::Waiting),
        };
        ConsoleFd {
            file: Arc::new(file),
            manner,
        }
    }

    /// The fd to be watched.
    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Whether writing may have to wait, so that a worker has to do it.
    pub(super) fn may_wait(&self) -> bool {
        self.manner == Manner::Waiting
    }

    /// The same end, for a worker.
    pub(super) fn share(&self) -> ConsoleFd {
        ConsoleFd {
            file: Arc::clone(&self.file),
            manner: self.manner,
        }
    }

    /// Reads what is there; none if nothing is, after all. To be called when the fd was seen to be readable.
    pub(super) fn read(&self, bytes: &mut [u8]) -> Option<usize> {
        let outcome = match self.manner {
            Manner::Socket => receive(self.file.as_fd(), bytes),
            _ => (&*self.file).read(bytes),
        };
        match outcome {
            Ok(count) => Some(count),
            Err(error) if is_temporary(&error) => None,
            // EIO of a terminal that is gone: there is no more.
            Err(_) => Some(0),
        }
    }

    /// For a worker: waits until it can write.
    pub(super) fn write_patiently(&self, bytes: &[u8]) -> Written {
        loop {
            match self.write(bytes) {
                // Somebody who shares it wants it not to block.
                Written::Nothing => wait_until_writable(self.as_fd()),
                outcome => return outcome,
            }
        }
    }

    /// Writes as much as goes at once; where it [may wait](ConsoleFd::may_wait), it does.
    pub(super) fn write(&self, bytes: &[u8]) -> Written {
        let outcome = match self.manner {
            Manner::Socket => send(self.file.as_fd(), bytes),
            _ => (&*self.file).write(bytes),
        };
        match outcome {
            Ok(count) => Written::Some(count),
            Err(error) if is_temporary(&error) => Written::Nothing,
            Err(_) => Written::Failed,
        }
    }
}

impl AsFd for ConsoleFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether opening it again gives the same thing: pipes and terminals, but not the master of a pseudoterminal (5:2, see the
/// kernel's `devices.txt`), which would give another one. A regular file would lose its offset.
fn has_description_to_give(file: &File, kind: &Metadata) -> bool {
    let is_master = kind.rdev() == libc::makedev(5, 2);
    kind.file_type().is_fifo() || (file.is_terminal() && !is_master)
}

fn open_again(file: &File, how: &mut OpenOptions) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    how.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned()
        .map_err(|error| Error::os("cannot use standard input and output", error))
}

fn receive(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    let (fd, flags) = (fd.as_raw_fd(), libc::MSG_DONTWAIT);
    // SAFETY: the buffer is valid for writes of its length.
    let count = unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let (fd, flags) = (fd.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    // SAFETY: the buffer is valid for reads of its length.
    let count = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn wait_until_writable(fd: BorrowedFd<'_>) {
    let mut wanted = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one record, valid for the call. If it fails, writing tells why.
    unsafe { libc::poll(&raw mut wanted, 1, -1) };
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), WouldBlock | Interrupted)
}
