//! Signals an eventfd without any chance to block.
//!
//! Used by [`super::CallFd`]. `write` on an eventfd blocks when the counter is full and O_NONBLOCK is off. The peer has the
//! same open file and can make both true between any check of ours and the write; eventfds do not support RWF_NOWAIT. The
//! kernel's own signalling, which KVM's irqfd uses, never blocks and leaves a full counter full. Linux AIO offers it to
//! programs: a finished request signals its `aio_resfd`. So we submit a read of no bytes from a memfd, which finishes at
//! once.
//!
//! Falls back to O_NONBLOCK, poll and write where the kernel gives no AIO context (`fs.aio-max-nr`, seccomp). Only a peer
//! that changes the file between poll and write can make that block.
//!
//! # Threads
//! Each thread that signals has an AIO context, made at its first signal and destroyed when the thread ends.
#![allow(unsafe_code)] // raw AIO system calls and their shared ring

use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

const PREAD: u16 = 0;
const FLAG_RESFD: u32 = 1;

/// `struct iocb` of the kernel's ABI, little-endian field order.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// The head of the completion ring that the kernel maps for an AIO context.
#[repr(C)]
struct AioRingHead {
    id: u32,
    size: u32,
    head: AtomicU32,
    tail: AtomicU32,
}

/// A thread's AIO context and the empty file it reads from.
struct Signaller {
    context: usize,
    empty: OwnedFd,
}

thread_local! {
    static SIGNALLER: Option<Signaller> = Signaller::new();
}

/// Adds one to `fd`'s counter; never blocks.
pub(super) fn signal(fd: &OwnedFd) {
    let done = SIGNALLER.try_with(|signaller| {
        signaller
            .as_ref()
            .is_some_and(|signaller| signaller.signal(fd))
    });
    if done != Ok(true) {
        write_if_ready(fd);
    }
}

impl Signaller {
    fn new() -> Option<Signaller> {
        // SAFETY: creates an fd of our own.
        let empty = unsafe { libc::memfd_create(c"signal".as_ptr(), libc::MFD_CLOEXEC) };
        if empty < 0 {
            return None;
        }
        // SAFETY: the fd was just created and has no other owner.
        let empty = unsafe { OwnedFd::from_raw_fd(empty) };
        let mut context = 0_usize;
        // SAFETY: io_setup writes the new context's address to the local.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) };
        (result == 0).then_some(Signaller { context, empty })
    }

    /// Submits the empty read; `false` if the kernel refused it.
    fn signal(&self, fd: &OwnedFd) -> bool {
        let mut iocb = Iocb {
            opcode: PREAD,
            fd: self.empty.as_raw_fd().cast_unsigned(),
            flags: FLAG_RESFD,
            event_fd: fd.as_raw_fd().cast_unsigned(),
            ..Iocb::default()
        };
        let mut list = [&raw mut iocb];
        // SAFETY: the list names one iocb that lives past the call; the read has no buffer.
        let submitted =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_mut_ptr()) };
        self.forget_completions();
        submitted == 1
    }

    /// Empties the completion ring, so that the context never runs full.
    fn forget_completions(&self) {
        let ring = ptr::with_exposed_provenance::<AioRingHead>(self.context);
        // SAFETY: an AIO context's id is the address of its ring, mapped until io_destroy; both sides access head
        // and tail atomically, and only this thread moves the head.
        let ring = unsafe { &*ring };
        ring.head
            .store(ring.tail.load(Ordering::Acquire), Ordering::Release);
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        // SAFETY: the context is ours and nothing is in flight: every read was finished when submitted.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

/// The fallback; see the head of this file.
fn write_if_ready(fd: &OwnedFd) {
    let fd = fd.as_raw_fd();
    // SAFETY: changes a flag of an open fd.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) };
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    if poll.revents & libc::POLLOUT != 0 {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight valid bytes. A full counter means that the peer has a signal pending already.
        unsafe { libc::write(fd, one.as_ptr().cast(), mem::size_of_val(&one)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eventfd(initial: u32) -> OwnedFd {
        // SAFETY: creates an fd of our own.
        let fd = unsafe { libc::eventfd(initial, 0) };
        // SAFETY: just created.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    fn count(fd: &OwnedFd) -> u64 {
        let mut count = [0; 8];
        // SAFETY: eight valid bytes; the tests read only counters that are not zero.
        unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        u64::from_ne_bytes(count)
    }

    #[test]
    fn kernel_signalling_counts_up() {
        let signaller = Signaller::new().expect("this kernel has AIO");
        let fd = eventfd(1);
        for _ in 0..10_000 {
            assert!(signaller.signal(&fd));
        }
        assert_eq!(count(&fd), 10_001);
    }

    #[test]
    fn fallback_signals_and_skips_a_full_counter() {
        let fd = eventfd(1);
        write_if_ready(&fd);
        assert_eq!(count(&fd), 2);
        let full = (u64::MAX - 1).to_ne_bytes();
        // SAFETY: eight valid bytes; the counter is zero, so this cannot block.
        let written = unsafe { libc::write(fd.as_raw_fd(), full.as_ptr().cast(), 8) };
        assert_eq!(written, 8);
        write_if_ready(&fd);
        assert_eq!(count(&fd), u64::MAX - 1);
    }
}
