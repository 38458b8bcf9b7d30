//! User data and its destroy notify.
//!
//! # Invariants
//! 1. A [`User`] belongs to the callbacks that are registered with it and goes when the last of them does, which the Rust side
//!    makes happen on the home thread after the last call has returned.
//! 2. The destroy notify runs if and only if the registration has succeeded: `PENDING` becomes `TAKEN` when it has, and a
//!    user that goes while `PENDING` is left to [`register`], which knows the outcome.
//! 3. A call counts itself before it looks at `closed`; [`Fate::close`] sets that before it looks at the count. So either the
//!    call sees that it must not begin, or the closer sees it.
#![allow(unsafe_code)] // calls C with C's pointers

use crate::boundary::Fault;
use crate::callback::{QContextFillFunc, QContextFunc, QContextJobDoneFunc, QContextPolledFunc};
use glib_sys::{GArray, GDestroyNotify, gboolean, gpointer};
use qcontext::QContext as Context;
use qcontext::{AioContext, Error, ErrorKind};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

const PENDING: u8 = 0;
const TAKEN: u8 = 1;
const GONE: u8 = 2;

/// What becomes of a user: shared by the user and those who wait for its end.
#[derive(Default)]
pub(crate) struct Fate {
    state: AtomicU8,
    closed: AtomicBool,
    calls: AtomicUsize,
    /// The thread that calls.
    caller: AtomicUsize,
    lock: Mutex<()>,
    idle: Condvar,
}

/// User data with its destroy notify.
pub(crate) struct User {
    data: gpointer,
    destroy: GDestroyNotify,
    fate: Arc<Fate>,
}

/// Runs a destroy notify when it goes.
struct Destroy(gpointer, GDestroyNotify);

// SAFETY: C says by registering that its data may be used on the thread of the context.
unsafe impl Send for User {}
// SAFETY: the fields are read only.
unsafe impl Sync for User {}
// SAFETY: as for `User`.
unsafe impl Send for Destroy {}

impl Drop for Destroy {
    fn drop(&mut self) {
        if let Some(destroy) = self.1 {
            // SAFETY: invariants 1 and 2: this is the one call.
            unsafe { destroy(self.0) };
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.fate.state.swap(GONE, Ordering::AcqRel) == TAKEN {
            drop(Destroy(self.data, self.destroy));
        }
    }
}

/// Registers callbacks with user data: `attempt` hands the user to them. A destroy notify whose turn comes before the
/// registration is known to have succeeded goes to the home thread by `send_home`.
pub(crate) fn register<T>(
    data: gpointer,
    destroy: GDestroyNotify,
    send_home: impl FnOnce(Box<dyn FnOnce() + Send>),
    attempt: impl FnOnce(Arc<User>, &Arc<Fate>) -> Result<T, Error>,
) -> Result<T, Fault> {
    let fate = Arc::new(Fate::default());
    let user = Arc::new(User {
        data,
        destroy,
        fate: Arc::clone(&fate),
    });
    let done = attempt(user, &fate)?;
    let settled = fate
        .state
        .compare_exchange(PENDING, TAKEN, Ordering::AcqRel, Ordering::Acquire);
    if settled.is_err() {
        let destroy = Destroy(data, destroy);
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

impl User {
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

    /// Tells `done` the result of a job.
    pub(crate) fn tell(&self, done: QContextJobDoneFunc, result: c_int) {
        if let Some(done) = done {
            // SAFETY: as for `call`.
            unsafe { done(self.data, result) };
        }
    }

    /// Lets `fill` append fds.
    pub(crate) fn fill(&self, fill: QContextFillFunc, fds: *mut GArray, timeout_ms: &mut i32) {
        if let Some(fill) = fill {
            // SAFETY: as for `call`; the array is one of GPollFD.
            unsafe { fill(fds, timeout_ms, self.data) };
        }
    }

    /// Tells `polled` what was found.
    pub(crate) fn polled(&self, polled: QContextPolledFunc, fds: *mut GArray) {
        if let Some(polled) = polled {
            // SAFETY: as for `fill`.
            unsafe { polled(fds, self.data) };
        }
    }

    /// As [`User::call`], for callbacks whose end somebody may wait for.
    pub(crate) fn call_counted(&self, callback: QContextFunc) {
        let fate = &self.fate;
        fate.calls.fetch_add(1, Ordering::SeqCst);
        if !fate.closed.load(Ordering::SeqCst) {
            fate.caller.store(thread_token(), Ordering::Relaxed);
            self.call(callback);
        }
        if fate.calls.fetch_sub(1, Ordering::SeqCst) == 1 && fate.closed.load(Ordering::SeqCst) {
            drop(fate.lock.lock().unwrap_or_else(PoisonError::into_inner));
            fate.idle.notify_all();
        }
    }
}

impl Fate {
    /// Refuses further calls and waits for those that have begun.
    ///
    /// # Errors
    /// `WouldDeadlock` when the calling thread runs a call; nothing has changed then.
    pub(crate) fn close(&self) -> Result<(), Error> {
        if self.calls.load(Ordering::SeqCst) > 0
            && self.caller.load(Ordering::Relaxed) == thread_token()
        {
            let message = "a callback can not wait for its own end";
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

/// A number that names the calling thread while it lives.
fn thread_token() -> usize {
    thread_local!(static TOKEN: u8 = const { 0 });
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}
