//! The signal that makes a vcpu's thread leave the guest.
//!
//! A signal that arrives while the thread is in the guest ends `KVM_RUN` with `EINTR`. A signal that arrives just before would
//! be lost. So its handler also sets `immediate_exit` in the page that the thread shares with KVM: the next `KVM_RUN` then
//! finishes a pending access and returns.
#![allow(unsafe_code)] // a signal handler, and a byte shared with the kernel

use std::cell::Cell;
use std::mem;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::OnceLock;
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;

use crate::{Error, Result};

thread_local! {
    /// The `immediate_exit` of the vcpu that this thread runs.
    static EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// While it exists, the signal handler acts on this thread's vcpu.
pub(super) struct KickRegistration {
    exit: *mut u8,
}

impl KickRegistration {
    /// `vcpu` must outlive the registration, on this thread. [`super::run`] drops the registration first.
    pub(super) fn new(vcpu: &mut VcpuFd) -> KickRegistration {
        unblock();
        let exit = &raw mut vcpu.get_kvm_run().immediate_exit;
        EXIT.set(exit);
        KickRegistration { exit }
    }

    /// Clears the early exit, so that the guest can be entered again.
    pub(super) fn clear(&self) {
        // SAFETY: the page is mapped while the vcpu lives, and only this thread and its signal handler write the byte.
        unsafe { self.exit.write_volatile(0) };
    }
}

impl Drop for KickRegistration {
    fn drop(&mut self) {
        EXIT.set(ptr::null_mut());
    }
}

extern "C" fn on_kick(_signal: libc::c_int) {
    let exit = EXIT.get();
    if !exit.is_null() {
        // SAFETY: not null, so this very thread is between `new` and `drop` of a registration and the page is mapped.
        unsafe { exit.write_volatile(1) };
    }
}

/// Unblocks the signal in this thread. The mask is inherited, also from the process that started the program.
fn unblock() {
    // SAFETY: all zeroes is a valid place for a set, which is initialised next.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGRTMIN()) };
    // SAFETY: the set is initialised.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
}

/// Installs the handler, once for the process.
pub(super) fn install() -> Result<()> {
    static INSTALLED: OnceLock<i32> = OnceLock::new();
    match *INSTALLED.get_or_init(set_handler) {
        0 => Ok(()),
        errno => Err(Error::os(
            "cannot install the signal handler of vcpus",
            std::io::Error::from_raw_os_error(errno),
        )),
    }
}

fn set_handler() -> i32 {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = on_kick;
    action.sa_sigaction = handler as libc::sighandler_t;
    // Other system calls are restarted; KVM_RUN ends in any case.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does one thread-local load and one store, which is async-signal-safe.
    let failed = unsafe { libc::sigaction(libc::SIGRTMIN(), &raw const action, ptr::null_mut()) };
    match failed {
        0 => 0,
        _ => std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EINVAL),
    }
}

/// Makes `thread` leave the guest.
pub(super) fn kick(thread: &JoinHandle<()>) {
    // SAFETY: the handle was not joined, so it names a thread. If that has ended, the call fails without effect.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGRTMIN()) };
}

/// The kernel's id of the calling thread.
pub(super) fn thread_id() -> i64 {
    // SAFETY: no preconditions.
    i64::from(unsafe { libc::gettid() })
}
