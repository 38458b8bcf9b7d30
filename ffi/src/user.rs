//! User data of C callbacks, and its destroy notify.
//!
//! Used by each entry point that takes a callback with user data: it calls [`register`], and its closures call C through
//! [`UserData`].
//!
//! # Invariants
//! 1. The callbacks of a registration own its [`UserData`]. It is dropped with the last of them. The Rust side drops them on
//!    the home thread, after the last call has returned.
//! 2. The destroy notify runs if and only if the registration succeeded. [`register`] changes `PENDING` to `TAKEN` after
//!    success. If the user data is dropped or given up earlier, the notify is left to [`register`].
//! 3. A call increments `calls` before it reads `closed`. [`Registration::close`] sets `closed` before it reads `calls`. So
//!    either the call does not begin, or `close` waits for it.
#![allow(unsafe_code)] // calls C with C's pointers

use crate::boundary::Fault;
use crate::callback::{QContextFillFunc, QContextFunc, QContextJobDoneFunc, QContextPolledFunc};
use glib_sys::{GArray, GDestroyNotify, gboolean, gpointer};
use qcontext::QContext as Context;
use qcontext::{AioContext, Error, ErrorKind};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The registration is under way, and may still fail.
const PENDING: u8 = 0;
/// The registration succeeded: the user data runs the destroy notify when it is dropped.
const TAKEN: u8 = 1;
/// The user data was dropped or given up.
const GONE: u8 = 2;

/// The state of a registration, and its running calls. The user data and the C handle share it.
#[derive(Default)]
pub(crate) struct Registration {
    /// [`PENDING`], [`TAKEN`] or [`GONE`].
    state: AtomicU8,
    /// No call begins any more.
    closed: AtomicBool,
    /// How many calls run.
    calls: AtomicUsize,
    /// The thread of the running call.
    caller: AtomicUsize,
    /// With `idle`, on which [`Registration::close`] waits until no call runs.
    lock: Mutex<()>,
    idle: Condvar,
}

/// User data with its destroy notify.
pub(crate) struct UserData {
    data: gpointer,
    destroy: GDestroyNotify,
    registration: Arc<Registration>,
}

/// Runs a destroy notify when it is dropped.
struct DestroyOnDrop(gpointer, GDestroyNotify);

// SAFETY: promise 5 of the crate documentation: the data may be used on the thread of the context.
unsafe impl Send for UserData {}
// SAFETY: the fields are read only.
unsafe impl Sync for UserData {}
// SAFETY: as for `UserData`.
unsafe impl Send for DestroyOnDrop {}

impl Drop for DestroyOnDrop {
    fn drop(&mut self) {
        if let Some(destroy) = self.1 {
            // SAFETY: invariants 1 and 2: this is the one call.
            unsafe { destroy(self.0) };
        }
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        self.destroy();
    }
}

/// Registers callbacks with user data. `attempt` registers closures that own the user data. If these are dropped before
/// `attempt` has returned successfully, `send_home` runs the destroy notify on the home thread.
pub(crate) fn register<T>(
    data: gpointer,
    destroy: GDestroyNotify,
    send_home: impl FnOnce(Box<dyn FnOnce() + Send>),
    attempt: impl FnOnce(Arc<UserData>, &Arc<Registration>) -> Result<T, Error>,
) -> Result<T, Fault> {
    let registration = Arc::new(Registration::default());
    let user = Arc::new(UserData {
        data,
        destroy,
        registration: Arc::clone(&registration),
    });
    let done = attempt(user, &registration)?;
    let settled =
        registration
            .state
            .compare_exchange(PENDING, TAKEN, Ordering::AcqRel, Ordering::Acquire);
    if settled.is_err() {
        let destroy = DestroyOnDrop(data, destroy);
        send_home(Box::new(move || drop(destroy)));
    }
    Ok(done)
}

/// Sends a late destroy notify to the thread that drives `aio`.
pub(crate) fn send_to_aio(aio: &AioContext) -> impl FnOnce(Box<dyn FnOnce() + Send>) + use<> {
    let aio = aio.clone();
    move |late| aio.schedule_oneshot("destroy notify", late)
}

/// Sends a late destroy notify to the thread of `context`.
pub(crate) fn send_to(context: &Context) -> impl FnOnce(Box<dyn FnOnce() + Send>) + use<> {
    let context = context.clone();
    move |late| {
        // A stopped context runs nothing. The notify then runs here, when `late` is dropped.
        let _ = context.invoke(late);
    }
}

impl UserData {
    fn destroy(&self) {
        if self.registration.state.swap(GONE, Ordering::AcqRel) == TAKEN {
            drop(DestroyOnDrop(self.data, self.destroy));
        }
    }

    /// The AioContext has ended: no counted call begins any more, and the destroy notify runs. On the home, where none runs.
    pub(crate) fn give_up(&self) {
        self.registration.closed.store(true, Ordering::SeqCst);
        self.destroy();
    }

    /// Calls `callback`, if there is one.
    pub(crate) fn call(&self, callback: QContextFunc) {
        if let Some(callback) = callback {
            // SAFETY: C registered this callback for this data (invariant 1).
            unsafe { callback(self.data) };
        }
    }

    /// Asks `question`.
    pub(crate) fn ask(&self, question: unsafe extern "C" fn(gpointer) -> gboolean) -> bool {
        // SAFETY: as for `call`.
        unsafe { question(self.data) != 0 }
    }

    /// Calls `done` with the result of a job.
    pub(crate) fn call_done(&self, done: QContextJobDoneFunc, result: c_int) {
        if let Some(done) = done {
            // SAFETY: as for `call`.
            unsafe { done(self.data, result) };
        }
    }

    /// Calls `fill`, which appends fds.
    pub(crate) fn call_fill(&self, fill: QContextFillFunc, fds: *mut GArray, timeout_ms: &mut i32) {
        if let Some(fill) = fill {
            // SAFETY: as for `call`; the array is one of GPollFD.
            unsafe { fill(fds, timeout_ms, self.data) };
        }
    }

    /// Calls `polled` with the result of the poll.
    pub(crate) fn call_polled(&self, polled: QContextPolledFunc, fds: *mut GArray) {
        if let Some(polled) = polled {
            // SAFETY: as for `fill`.
            unsafe { polled(fds, self.data) };
        }
    }

    /// As [`UserData::call`], for callbacks with which [`Registration::close`] is used.
    pub(crate) fn call_counted(&self, callback: QContextFunc) {
        let registration = &self.registration;
        registration.calls.fetch_add(1, Ordering::SeqCst);
        if !registration.closed.load(Ordering::SeqCst) {
            registration.caller.store(thread_token(), Ordering::Relaxed);
            self.call(callback);
        }
        if registration.calls.fetch_sub(1, Ordering::SeqCst) == 1
            && registration.closed.load(Ordering::SeqCst)
        {
            drop(
                registration
                    .lock
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            registration.idle.notify_all();
        }
    }
}

impl Registration {
    /// Refuses further calls and waits for the running ones.
    ///
    /// # Errors
    /// `WouldDeadlock` when the calling thread runs a call; nothing has changed then.
    pub(crate) fn close(&self) -> Result<(), Error> {
        if self.calls.load(Ordering::SeqCst) > 0
            && self.caller.load(Ordering::Relaxed) == thread_token()
        {
            let message = "a callback cannot wait for its own end";
            return Err(Error::new(ErrorKind::WouldDeadlock, message));
        }
        self.closed.store(true, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.calls.load(Ordering::SeqCst) > 0 {
            guard = self
                .idle
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        Ok(())
    }
}

/// A number that identifies the calling thread while it lives.
fn thread_token() -> usize {
    thread_local!(static TOKEN: u8 = const { 0 });
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}
