//! Event notifiers: eventfds in the caller's storage, which may be copied bit by bit.
#![allow(unsafe_code)] // pointers from C, fds as numbers

use crate::boundary::{Fault, enter, enter_fallible};
use glib_sys::{GError, gboolean};
use qcontext::EventNotifier;
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// QContextNotifier:
/// A signal between threads or processes, carried by an eventfd. An all-zero one is not initialised.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QContextNotifier {
    /// What becomes readable by a signal.
    pub rfd: c_int,
    /// What a signal writes to.
    pub wfd: c_int,
    /// Whether the fds are there.
    pub initialized: gboolean,
}

/// # Safety
/// `notifier` is NULL or a notifier of the caller's.
unsafe fn read(notifier: *const QContextNotifier) -> Result<QContextNotifier, Fault> {
    if notifier.is_null() {
        return Err(Fault::Misuse("the notifier is NULL"));
    }
    // SAFETY: the caller's word.
    Ok(unsafe { *notifier })
}

/// The fd that becomes readable, -1 when the notifier is not initialised.
///
/// # Safety
/// As for `read`.
pub(crate) unsafe fn notifier_fd(notifier: *const QContextNotifier) -> Result<c_int, Fault> {
    // SAFETY: the caller's word.
    let notifier = unsafe { read(notifier) }?;
    Ok(if notifier.initialized != 0 {
        notifier.rfd
    } else {
        -1
    })
}

/// A notifier with one eventfd for both directions.
fn both(fd: c_int, initialized: gboolean) -> QContextNotifier {
    QContextNotifier {
        rfd: fd,
        wfd: fd,
        initialized,
    }
}

/// The eventfd `fd` of an initialised notifier, whose owner stays the notifier.
fn borrow(fd: c_int) -> ManuallyDrop<EventNotifier> {
    // SAFETY: the notifier owns its fds until it is cleaned up.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    ManuallyDrop::new(EventNotifier::from_fd(fd))
}

/// qcontext_notifier_init:
/// Initialises a notifier with a new eventfd.
/// @notifier: the storage, whatever is in it
/// @active: whether it is signalled already
/// @error: OS
///
/// Returns: FALSE on failure; the notifier is not initialised then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_init(
    notifier: *mut QContextNotifier,
    active: gboolean,
    error: *mut *mut GError,
) -> gboolean {
    let body = || {
        if notifier.is_null() {
            return Err(Fault::Misuse("the notifier is NULL"));
        }
        // SAFETY: the caller's storage.
        unsafe { notifier.write(both(-1, 0)) };
        let fresh = EventNotifier::new()?;
        if active != 0 {
            fresh.signal();
        }
        let fd = ManuallyDrop::new(fresh).as_raw_fd();
        // SAFETY: the caller's storage.
        unsafe { notifier.write(both(fd, 1)) };
        Ok(1)
    };
    // SAFETY: the caller's place for an error.
    unsafe { enter_fallible("qcontext_notifier_init", 0, error, body) }
}

/// qcontext_notifier_init_fd:
/// Initialises a notifier with an eventfd that came from elsewhere, which it takes over.
/// @notifier: the storage, whatever is in it
/// @fd: an eventfd, which should be non-blocking
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_init_fd(notifier: *mut QContextNotifier, fd: c_int) {
    enter("qcontext_notifier_init_fd", (), || {
        if notifier.is_null() || fd < 0 {
            return Err(Fault::Misuse("the notifier is NULL or the fd is negative"));
        }
        // SAFETY: the caller's storage.
        unsafe { notifier.write(both(fd, 1)) };
        Ok(())
    });
}

/// qcontext_notifier_cleanup:
/// Closes the notifier's fds. Its handlers were removed before.
/// @notifier: a notifier; one that is not initialised stays so
///
/// Any thread, any locks held; nobody else uses @notifier meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_cleanup(notifier: *mut QContextNotifier) {
    enter("qcontext_notifier_cleanup", (), || {
        // SAFETY: the caller's notifier.
        let old = unsafe { read(notifier) }?;
        if old.initialized == 0 {
            return Ok(());
        }
        // SAFETY: the caller's notifier.
        unsafe { notifier.write(both(-1, 0)) };
        drop(ManuallyDrop::into_inner(borrow(old.rfd)));
        if old.wfd != old.rfd {
            drop(ManuallyDrop::into_inner(borrow(old.wfd)));
        }
        Ok(())
    });
}

/// qcontext_notifier_set:
/// Signals. Several signals before a test are one.
/// @notifier: a notifier
///
/// Returns: FALSE when the notifier is not initialised.
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_set(notifier: *const QContextNotifier) -> gboolean {
    enter("qcontext_notifier_set", 0, || {
        // SAFETY: the caller's notifier.
        let notifier = unsafe { read(notifier) }?;
        if notifier.initialized != 0 {
            borrow(notifier.wfd).signal();
        }
        Ok(notifier.initialized)
    })
}

/// qcontext_notifier_test_and_clear:
/// Consumes the signal.
/// @notifier: a notifier
///
/// Returns: whether there was one.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_test_and_clear(
    notifier: *const QContextNotifier,
) -> gboolean {
    enter("qcontext_notifier_test_and_clear", 0, || {
        // SAFETY: the caller's notifier.
        let notifier = unsafe { read(notifier) }?;
        Ok((notifier.initialized != 0 && borrow(notifier.rfd).take()).into())
    })
}

/// qcontext_notifier_get_fd:
/// @notifier: a notifier
///
/// Returns: the fd that becomes readable by a signal, -1 when the notifier is not initialised.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_get_fd(notifier: *const QContextNotifier) -> c_int {
    enter("qcontext_notifier_get_fd", -1, || {
        // SAFETY: the caller's notifier.
        unsafe { notifier_fd(notifier) }
    })
}

/// qcontext_notifier_get_wfd:
/// @notifier: a notifier
///
/// Returns: the fd that a signal writes to, -1 when the notifier is not initialised.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_get_wfd(notifier: *const QContextNotifier) -> c_int {
    enter("qcontext_notifier_get_wfd", -1, || {
        // SAFETY: the caller's notifier.
        let notifier = unsafe { read(notifier) }?;
        Ok(if notifier.initialized != 0 {
            notifier.wfd
        } else {
            -1
        })
    })
}
