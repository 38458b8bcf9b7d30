//! The fds that the console is connected to, used so that no context blocks.
//!
//! The fds that a program is started with are shared with other processes, so we must not set O_NONBLOCK on them. Without it even
//! an fd that polls as ready may block: a terminal that has room for a part of the data, or a pipe that another process fills
//! between the two calls. What we do depends on the file:
//!
//! * A terminal or a pipe is opened again through `/proc/self/fd` (proc(5)). That gives a file description of our own, which is
//!   non-blocking.
//! * A socket is used with MSG_DONTWAIT.
//! * A regular file blocks for its file system only.
//! * Other files, and terminals of another user, are written by a worker of the pool. At the console's end the worker may still be
//!   writing one chunk. They are read when they poll as readable; that blocks if another process has read the data first.
#![allow(unsafe_code)] // poll, and send and recv with flags

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind::Interrupted, ErrorKind::WouldBlock, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use crate::foreground::read_unstopped;
use crate::{Error, Result};

/// What the console is connected to.
#[derive(Debug)]
pub struct Backend {
    pub(super) input: Option<ConsoleFd>,
    pub(super) output: ConsoleFd,
}

/// The fd of one direction.
#[derive(Debug)]
pub(super) struct ConsoleFd {
    file: Arc<File>,
    mode: BlockingMode,
    is_terminal: bool,
}

/// How a call on an fd is kept from blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockingMode {
    /// Its file description is our own, and non-blocking.
    OwnDescription,
    /// By a flag of each call.
    Socket,
    /// It needs nothing.
    RegularFile,
    /// It may block.
    MayBlock,
}

/// The result of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Some(usize),
    /// The file takes nothing at the moment.
    Nothing,
    /// The file takes nothing any more: the errno.
    Failed(i32),
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

    /// A file for the output. There is no input.
    ///
    /// # Errors
    /// `Os` if it cannot be created.
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
        let (kind, is_terminal) = (given.metadata().ok(), given.is_terminal());
        let (file, mode) = match kind {
            Some(kind) if kind.file_type().is_socket() => (given, BlockingMode::Socket),
            Some(kind) if kind.is_file() => (given, BlockingMode::RegularFile),
            Some(kind) if can_be_opened_again(&given, &kind) => match open_again(&given, how) {
                Ok(own) => (own, BlockingMode::OwnDescription),
                Err(_) => (given, BlockingMode::MayBlock),
            },
            _ => (given, BlockingMode::MayBlock),
        };
        ConsoleFd {
            file: Arc::new(file),
            mode,
            is_terminal,
        }
    }

    /// The fd to watch.
    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// True if a write may block, so that a worker has to do it.
    pub(super) fn may_block(&self) -> bool {
        self.mode == BlockingMode::MayBlock
    }

    /// The same fd, for a worker.
    pub(super) fn share(&self) -> ConsoleFd {
        ConsoleFd {
            file: Arc::clone(&self.file),
            mode: self.mode,
            is_terminal: self.is_terminal,
        }
    }

    /// Reads available data; `None` if there is none after all. Call it when the fd polls as readable.
    pub(super) fn read(&self, bytes: &mut [u8]) -> Option<usize> {
        let outcome = match self.mode {
            BlockingMode::Socket => receive(self.file.as_fd(), bytes),
            _ if self.is_terminal => read_unstopped(|| (&*self.file).read(bytes)),
            _ => (&*self.file).read(bytes),
        };
        match outcome {
            Ok(count) => Some(count),
            Err(error) if is_temporary(&error) => None,
            // Such as EIO of a terminal that is gone, or that another process group has: the end of input.
            Err(_) => Some(0),
        }
    }

    /// For a worker: blocks until it has written.
    pub(super) fn write_blocking(&self, bytes: &[u8]) -> Written {
        loop {
            match self.write(bytes) {
                // Another process has set O_NONBLOCK on the shared file description.
                Written::Nothing => wait_until_writable(self.as_fd()),
                outcome => return outcome,
            }
        }
    }

    /// Writes as much as fits. Blocks if it [may](ConsoleFd::may_block).
    pub(super) fn write(&self, bytes: &[u8]) -> Written {
        let outcome = match self.mode {
            BlockingMode::Socket => send(self.file.as_fd(), bytes),
            _ => (&*self.file).write(bytes),
        };
        match outcome {
            Ok(count) => Written::Some(count),
            Err(error) if is_temporary(&error) => Written::Nothing,
            Err(error) => Written::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

impl AsFd for ConsoleFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// True if opening the file again gives the same file: pipes and terminals. Not the master of a pseudoterminal (5:2, see the
/// kernel's `devices.txt`), because that makes a new terminal, and not a regular file, which would lose its offset.
fn can_be_opened_again(file: &File, kind: &Metadata) -> bool {
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
    // SAFETY: one record, valid for the call. If it fails, the next write reports the reason.
    unsafe { libc::poll(&raw mut wanted, 1, -1) };
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), WouldBlock | Interrupted)
}
