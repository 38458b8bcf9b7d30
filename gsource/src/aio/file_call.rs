//! A system call on a file: made on the calling thread, or as an entry of an io_uring.
//!
//! Used by [`AsyncFile`](crate::AsyncFile), and by code that has an engine of its own for files. Both forms take the same number
//! of vectors and bytes and answer alike: a count or a negative errno.
#![allow(unsafe_code)] // calls and entries name memory

use io_uring::{opcode, squeue, types};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the kernel moves at most in one call.
const LENGTH_MAX: usize = 0x7fff_f000;

/// How many vectors the kernel takes at most in one call.
const VECTORS_MAX: usize = libc::UIO_MAXIOV as usize;

/// Memory that a system call may read and write for as long as this is borrowed.
#[derive(Clone, Copy, Debug)]
pub struct IoMemory<'a>(&'a [libc::iovec]);

impl<'a> IoMemory<'a> {
    /// Memory in pieces. A call takes as many as the kernel does.
    ///
    /// # Safety
    /// What the vectors describe stays valid for `'a`, for reading, and for writing if it is to be read into. It is not used
    /// through a reference meanwhile.
    #[inline]
    pub unsafe fn new(vectors: &'a [libc::iovec]) -> IoMemory<'a> {
        IoMemory(vectors)
    }

    /// The pieces that a call takes.
    #[inline]
    pub fn vectors(self) -> &'a [libc::iovec] {
        &self.0[..self.0.len().min(VECTORS_MAX)]
    }
}

/// A system call on a file.
#[derive(Clone, Copy, Debug)]
pub enum FileCall<'a> {
    /// Reads into the memory, at an offset.
    Read(IoMemory<'a>, u64),
    /// Writes the memory, at an offset.
    Write(IoMemory<'a>, u64),
    /// `fsync`
    Sync,
    /// `fdatasync`
    DataSync,
    /// `fallocate`
    Allocate {
        /// Its flags.
        mode: i32,
        /// Where the range begins.
        offset: u64,
        /// How long the range is.
        length: u64,
    },
}

impl FileCall<'_> {
    /// Makes the call on this thread; a transfer with `flags` (`RWF_*`). The answer is a count or a negative errno.
    #[inline]
    pub fn run(self, file: BorrowedFd<'_>, flags: i32) -> i32 {
        let fd = file.as_raw_fd();
        let answer = match self {
            FileCall::Read(memory, offset) => {
                let (start, count) = raw(memory);
                // SAFETY: the memory is valid for a system call while it is borrowed, which is its promise.
                unsafe { libc::preadv2(fd, start, count, offset.cast_signed(), flags) }
            }
            FileCall::Write(memory, offset) => {
                let (start, count) = raw(memory);
                // SAFETY: as above.
                unsafe { libc::pwritev2(fd, start, count, offset.cast_signed(), flags) }
            }
            // SAFETY: no memory involved.
            FileCall::Sync => unsafe { libc::fsync(fd) as isize },
            // SAFETY: no memory involved.
            FileCall::DataSync => unsafe { libc::fdatasync(fd) as isize },
            FileCall::Allocate {
                mode,
                offset,
                length,
            } => {
                let (offset, length) = (offset.cast_signed(), length.cast_signed());
                // SAFETY: no memory involved.
                unsafe { libc::fallocate(fd, mode, offset, length) as isize }
            }
        };
        count_or_errno(answer)
    }

    /// The call as an entry of an io_uring. It names the memory, and the vectors if there are several.
    pub(super) fn entry(self, file: BorrowedFd<'_>) -> squeue::Entry {
        let fd = types::Fd(file.as_raw_fd());
        match self {
            FileCall::Read(IoMemory([one]), offset) => {
                let read = opcode::Read::new(fd, one.iov_base.cast(), length(one));
                read.offset(offset).build()
            }
            FileCall::Write(IoMemory([one]), offset) => {
                let start = one.iov_base.cast_const().cast();
                let write = opcode::Write::new(fd, start, length(one));
                write.offset(offset).build()
            }
            FileCall::Read(memory, offset) => {
                let (start, count) = raw(memory);
                let read = opcode::Readv::new(fd, start, count.cast_unsigned());
                read.offset(offset).build()
            }
            FileCall::Write(memory, offset) => {
                let (start, count) = raw(memory);
                let write = opcode::Writev::new(fd, start, count.cast_unsigned());
                write.offset(offset).build()
            }
            FileCall::Sync => opcode::Fsync::new(fd).build(),
            FileCall::DataSync => {
                let sync = opcode::Fsync::new(fd);
                sync.flags(types::FsyncFlags::DATASYNC).build()
            }
            FileCall::Allocate {
                mode,
                offset,
                length,
            } => {
                let allocate = opcode::Fallocate::new(fd, length);
                allocate.offset(offset).mode(mode).build()
            }
        }
    }
}

#[inline]
fn raw(memory: IoMemory<'_>) -> (*const libc::iovec, i32) {
    let vectors = memory.vectors();
    (vectors.as_ptr(), i32::try_from(vectors.len()).unwrap_or(0))
}

/// How much of a single piece a call takes.
fn length(one: &libc::iovec) -> u32 {
    u32::try_from(one.iov_len.min(LENGTH_MAX)).unwrap_or(0)
}

/// A system call's answer in one number.
#[inline]
fn count_or_errno(answer: isize) -> i32 {
    if answer < 0 {
        let errno = io::Error::last_os_error().raw_os_error();
        return -errno.unwrap_or(libc::EIO);
    }
    i32::try_from(answer).unwrap_or(i32::MAX)
}
