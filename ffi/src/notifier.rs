//! Event notifiers: eventfds in the caller's storage.
//!
//! As in QEMU, a notifier has one fd to read from and one to write to. Here both are the same eventfd. C code may copy the
//! storage bit by bit, so it has no destructor: only `qcontext_notifier_cleanup` closes the fds.
#![allow(unsafe_code)] // entry points, fds as numbers

use crate::argument::{Out, Pointee, entry};
use crate::boundary::Fault;
use glib_sys::{GError, gboolean};
use qcontext::EventNotifier;
use std::ffi::c_int;
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// QContextNotifier:
/// A signal between threads or processes, carried by an eventfd. An all-zero one is not initialised.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QContextNotifier {
    /// The fd that a signal makes readable.
    pub rfd: c_int,
    /// The fd that a signal writes to.
    pub wfd: c_int,
    /// Whether the fds are valid.
    pub initialized: gboolean,
}

impl Pointee for QContextNotifier {}

impl QContextNotifier {
    /// The fd that becomes readable, -1 when the notifier is not initialised.
    pub(crate) fn read_fd(&self) -> c_int {
        if self.initialized != 0 { self.rfd } else { -1 }
    }

    /// The fd that a signal writes to, -1 when the notifier is not initialised.
    fn write_fd(&self) -> c_int {
        if self.initialized != 0 { self.wfd } else { -1 }
    }
}

/// A notifier with one eventfd for both directions.
fn both(fd: c_int, initialized: gboolean) -> QContextNotifier {
    QContextNotifier {
        rfd: fd,
        wfd: fd,
        initialized,
    }
}

/// The eventfd `fd` of an initialised notifier. The notifier keeps owning it, unless the caller drops what is in the
/// [`ManuallyDrop`], which closes the fd.
fn borrow(fd: c_int) -> ManuallyDrop<EventNotifier> {
    // SAFETY: the notifier owns its fds until it is cleaned up.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    ManuallyDrop::new(EventNotifier::from_fd(fd))
}

/// qcontext_notifier_init:
/// Initialises a notifier with a new eventfd.
/// @notifier: the storage, with any content
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
    entry!(qcontext_notifier_init, 0, error, |notifier: Out<
        QContextNotifier,
    >| {
        notifier.set(both(-1, 0));
        let fresh = EventNotifier::new()?;
        if active != 0 {
            fresh.signal();
        }
        let fd = ManuallyDrop::new(fresh).as_raw_fd();
        notifier.set(both(fd, 1));
        Ok(1)
    })
}

/// qcontext_notifier_init_fd:
/// Initialises a notifier with an eventfd that came from elsewhere, which it takes over.
/// @notifier: the storage, with any content
/// @fd: an eventfd, which should be non-blocking
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_init_fd(notifier: *mut QContextNotifier, fd: c_int) {
    entry!(qcontext_notifier_init_fd, (), |notifier: Out<
        QContextNotifier,
    >| {
        if fd < 0 {
            return Err(Fault::Misuse("the fd is negative"));
        }
        notifier.set(both(fd, 1));
        Ok(())
    });
}

/// qcontext_notifier_cleanup:
/// Closes the notifier's fds. Remove its handlers first.
/// @notifier: a notifier; one that is not initialised stays so
///
/// Any thread, any locks held; no other call uses @notifier at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_cleanup(notifier: *mut QContextNotifier) {
    entry!(
        qcontext_notifier_cleanup,
        (),
        |notifier: &mut QContextNotifier| {
            if notifier.initialized == 0 {
                return Ok(());
            }
            let old = mem::replace(notifier, both(-1, 0));
            drop(ManuallyDrop::into_inner(borrow(old.rfd)));
            if old.wfd != old.rfd {
                drop(ManuallyDrop::into_inner(borrow(old.wfd)));
            }
            Ok(())
        }
    );
}

/// qcontext_notifier_set:
/// Signals. Several signals before a test count as one.
/// @notifier: a notifier
///
/// Returns: FALSE when the notifier is not initialised.
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_set(notifier: *const QContextNotifier) -> gboolean {
    entry!(qcontext_notifier_set, 0, |notifier: &QContextNotifier| {
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
    entry!(
        qcontext_notifier_test_and_clear,
        0,
        |notifier: &QContextNotifier| {
            Ok((notifier.initialized != 0 && borrow(notifier.rfd).take()).into())
        }
    )
}

/// qcontext_notifier_get_fd:
/// @notifier: a notifier
///
/// Returns: the fd that becomes readable by a signal, -1 when the notifier is not initialised.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_get_fd(notifier: *const QContextNotifier) -> c_int {
    entry!(
        qcontext_notifier_get_fd,
        -1,
        |notifier: &QContextNotifier| { Ok(notifier.read_fd()) }
    )
}

/// qcontext_notifier_get_wfd:
/// @notifier: a notifier
///
/// Returns: the fd that a signal writes to, -1 when the notifier is not initialised.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_notifier_get_wfd(notifier: *const QContextNotifier) -> c_int {
    entry!(
        qcontext_notifier_get_wfd,
        -1,
        |notifier: &QContextNotifier| { Ok(notifier.write_fd()) }
    )
}
