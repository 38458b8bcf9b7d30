//! The context: a named event loop, run by at most one thread, usually its own.
//!
//! # Threads
//! A [`QContext`] handle may be used from any thread with any lock held. What waits says so in its documentation and refuses
//! to wait for itself. Callbacks run on the context's thread, with no lock of ours held.
//!
//! # Invariants
//! 1. The home thread of a threaded context owns its GMainContext from before `new` returns until it has stopped.
//! 2. After a stop nothing of the context runs, and what it drove has been given back or destroyed on the home thread.
//!
//! # Example
//! ```
//! use qcontext::QContext;
//! let ctx = QContext::new("ctx1", true)?;
//! let answer = ctx.invoke_sync(|| 6 * 7)?;
//! assert_eq!(answer, 42);
//! assert_eq!(QContext::find("ctx1")?.thread_id(), ctx.thread_id());
//! ctx.stop()?;
//! # Ok::<(), qcontext::Error>(())
//! ```
#![deny(unsafe_code)]

mod glib_fds;
mod home;
mod id;
mod inner;
mod invoke;
mod raw;
mod registry;
mod sources;

use crate::{AioContext, Error, ErrorKind, FdHandler, Result, Wait};
use gsource::{PollParams, Poller, PoolLimits};
pub use id::check_id;
pub(crate) use inner::Inner;
use std::ffi::CStr;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The id of the context that drives the program's main loop, the default GMainContext.
pub const MAIN: &str = "qcontext-main";

/// The longest busy-polling of a fresh context, in nanoseconds.
const POLL_MAX_NS: i64 = 32_768;

/// A named event loop. Clones are the same context; when the last one goes, a threaded context stops by itself.
#[derive(Clone)]
pub struct QContext(Arc<Handle>);

/// What users hold: ends the context when the last clone goes. The home thread holds the [`Inner`] only.
struct Handle(Arc<Inner>);

/// Proof that a device uses a context, which can not be deleted meanwhile.
pub struct Claim {
    inner: Arc<Inner>,
    device: String,
}

impl QContext {
    /// A new context named `id`; a threaded one runs when this returns. An unthreaded one is run by whoever iterates it.
    ///
    /// # Errors
    /// `InvalidId`, `AlreadyExists`; `Os` when there are no fds or threads left.
    pub fn new(id: &str, threaded: bool) -> Result<QContext> {
        QContext::with_poller(id, threaded, Poller::default())
    }

    /// As [`QContext::new`], for a context that waits with `poller`; with epoll where `poller` is not to be had, which is
    /// told of by a warning. [`QContext::poller`] answers which it is.
    ///
    /// # Errors
    /// As for [`QContext::new`].
    ///
    /// ```
    /// use qcontext::{Poller, QContext};
    /// let ctx = QContext::with_poller("ring0", true, Poller::IoUring)?;
    /// assert!([Poller::IoUring, Poller::Epoll].contains(&ctx.poller()));
    /// assert_eq!(ctx.invoke_sync(|| 6 * 7)?, 42);
    /// ctx.stop()?;
    /// # Ok::<(), qcontext::Error>(())
    /// ```
    pub fn with_poller(id: &str, threaded: bool, poller: Poller) -> Result<QContext> {
        let context = QContext::start(id, threaded, poller)?;
        registry::publish(&context);
        Ok(context)
    }

    /// A new context that runs. Its name is taken, but it is found only when it is published.
    pub(crate) fn start(id: &str, threaded: bool, poller: Poller) -> Result<QContext> {
        id::check_id(id, "id")?;
        let context = QContext::wrap(Inner::fresh(id, threaded, poller)?);
        registry::reserve(&context)?;
        if threaded {
            context.inner().start()?;
        }
        Ok(context)
    }

    /// Keeps a context that was made by [`QContext::start`], and lets it be found.
    pub(crate) fn publish_kept(&self) {
        registry::keep(self);
        registry::publish(self);
    }

    /// A new context that nobody finds by name; its id is generated and begins with `#`.
    ///
    /// # Errors
    /// `Os` when there are no fds or threads left.
    pub fn anonymous(threaded: bool) -> Result<QContext> {
        let id = registry::generate_id();
        let context = QContext::wrap(Inner::fresh(&id, threaded, Poller::default())?);
        if threaded {
            context.inner().start()?;
        }
        Ok(context)
    }

    /// A context for somebody's GMainContext, run by whoever iterates that; anonymous without an `id`.
    ///
    /// # Errors
    /// As for [`QContext::new`]; `Busy` for the default GMainContext, which is `qcontext-main`'s.
    pub fn for_main_context(id: Option<&str>, gmain: &glib::MainContext) -> Result<QContext> {
        id.map_or(Ok(()), |id| id::check_id(id, "id"))?;
        if *gmain == glib::MainContext::default() {
            let message = format!("the default GMainContext belongs to context '{MAIN}'");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let generated = id.map_or_else(registry::generate_id, str::to_owned);
        let inner = Inner::new(&generated, false, Poller::default(), gmain.clone())?;
        // A context that is not ours does not tell of changes, so GLib is always asked.
        inner.foreign.store(true, Ordering::Release);
        let context = QContext::wrap(inner);
        if id.is_some() {
            registry::reserve(&context)?;
            registry::publish(&context);
        }
        Ok(context)
    }

    fn wrap(inner: Arc<Inner>) -> QContext {
        let context = QContext(Arc::new(Handle(inner)));
        *lock(&context.inner().handle) = Arc::downgrade(&context.0);
        context
    }

    /// The context `qcontext-main`, which drives the default GMainContext and always exists.
    pub fn main() -> QContext {
        registry::main()
    }

    /// The context named `id`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn find(id: &str) -> Result<QContext> {
        registry::find(id)
    }

    /// All contexts, `qcontext-main` first, then in order of creation.
    pub fn list() -> Vec<QContext> {
        registry::list()
    }

    /// The context that runs the calling thread.
    pub fn current() -> Option<QContext> {
        home::current()
            .and_then(|inner| inner.handle())
            .or_else(registry::owned_here)
    }

    /// Keeps this context alive without a handle, until [`QContext::delete`]. Without effect if it has no name or was deleted.
    pub fn keep(&self) {
        registry::keep(self);
    }

    /// Stops the context named `id`, waits for its thread and forgets the name.
    ///
    /// Of several threads that delete one context, one succeeds; the others are told `NotFound`, and a new context of that
    /// name is not touched.
    ///
    /// # Errors
    /// `NotFound`; `Busy` for `qcontext-main` and while a device uses the context; `WouldDeadlock` on the context's own
    /// thread. Nothing has changed then.
    pub fn delete(id: &str) -> Result<()> {
        let unknown = || Error::new(ErrorKind::NotFound, format!("object '{id}' not found"));
        let context = registry::find(id).map_err(|_| unknown())?;
        if id == MAIN {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("object '{id}' is in use, can not be deleted"),
            ));
        }
        context.inner().refuse_own_thread("delete")?;
        context.inner().close_to_users()?;
        // False if another thread has deleted this very context meanwhile.
        if !registry::remove(&context) {
            return Err(unknown());
        }
        context.stop()
    }

    /// Records that `device` uses this context.
    ///
    /// # Errors
    /// `Closed` when the context has been deleted meanwhile.
    pub fn claim(&self, device: &str) -> Result<Claim> {
        match &mut *lock(&self.inner().users) {
            Some(users) => users.push(device.to_owned()),
            None => return Err(self.inner().closed()),
        }
        Ok(Claim {
            inner: Arc::clone(self.inner()),
            device: device.to_owned(),
        })
    }

    /// The name.
    pub fn id(&self) -> &str {
        &self.inner().id
    }

    /// The name, for C.
    pub fn c_id(&self) -> &CStr {
        &self.inner().c_id
    }

    /// True when the context has a thread of its own.
    pub fn is_threaded(&self) -> bool {
        self.inner().threaded
    }

    /// The kernel's id of the thread that runs the context; -1 when none does. `qcontext-main` answers the main thread's.
    pub fn thread_id(&self) -> i64 {
        self.inner().thread_id.load(Ordering::Acquire)
    }

    /// True on the thread that runs this context, also while that only iterates its GMainContext.
    pub fn is_current(&self) -> bool {
        self.inner().reactor.is_driven_here() || self.inner().gmain.is_owner()
    }

    /// The AioContext every context has, for bottom halves and timers that need none of their own.
    ///
    /// # Errors
    /// `Closed` after a stop.
    pub fn aio(&self) -> Result<AioContext> {
        self.inner().aio()
    }

    /// The GMainContext this context wraps; any `glib::Source` may be attached to it.
    pub fn main_context(&self) -> glib::MainContext {
        self.inner().gmain.clone()
    }

    /// The AioContext that holds the fd handlers of this context.
    ///
    /// # Errors
    /// `Closed` after a stop.
    pub fn iohandlers(&self) -> Result<AioContext> {
        Ok(self.inner().handlers()?.aio().clone())
    }

    /// Watches `fd` on this context, in place of an earlier handler of it.
    ///
    /// # Errors
    /// `Os` when the kernel cannot watch the fd; `Closed` after a stop. The handler was not taken then.
    pub fn set_fd_handler(&self, fd: RawFd, handler: FdHandler) -> Result<()> {
        self.inner().handlers()?.set_fd_handler(fd, handler)
    }

    /// As [`QContext::set_fd_handler`], but never in place of another handler.
    ///
    /// # Errors
    /// As for [`AioContext::add_fd_handler`]; `Closed` after a stop.
    pub fn add_fd_handler(&self, fd: RawFd, handler: FdHandler) -> Result<()> {
        self.inner().handlers()?.aio().add_fd_handler(fd, handler)
    }

    /// As [`QContext::remove_fd_handler`], with word of the end: see [`AioContext::remove_fd_handler_then`].
    pub fn remove_fd_handler_then(&self, fd: RawFd, done: impl FnOnce() + Send + 'static) -> bool {
        self.inner()
            .handlers()
            .is_ok_and(|handlers| handlers.aio().remove_fd_handler_then(fd, done))
    }

    /// Drops what was removed, if nobody or the calling thread runs this context. See [`AioContext::reap`].
    pub fn reap(&self) {
        if let Ok(_owner) = self.inner().gmain.acquire() {
            self.inner().reactor.reap_if_idle();
        }
    }

    /// Watches `fd` no more; false when it was not watched. See [`AioContext::remove_fd_handler`].
    pub fn remove_fd_handler(&self, fd: RawFd) -> bool {
        self.inner()
            .handlers()
            .is_ok_and(|handlers| handlers.remove_fd_handler(fd))
    }

    /// Makes the current or next wait return. Async-signal-safe.
    pub fn notify(&self) {
        self.inner().reactor.notify();
    }

    /// One iteration of an unthreaded context on the calling thread; true when something was dispatched.
    ///
    /// # Errors
    /// `WrongThread` when another thread runs the context; `Closed` after a stop.
    pub fn iterate(&self, wait: Wait) -> Result<bool> {
        self.inner().iterate(wait)
    }

    /// How the context waits.
    pub fn poller(&self) -> Poller {
        self.inner().reactor.poller()
    }

    /// How long and how the context busy-polls before it sleeps; 32768 ns at most unless changed.
    pub fn poll_params(&self) -> PollParams {
        self.inner().reactor.poll_params()
    }

    /// Changes the busy-polling.
    ///
    /// # Errors
    /// `InvalidArgument` when a parameter is negative; nothing has changed then.
    pub fn set_poll_params(&self, params: PollParams) -> Result<()> {
        self.inner().reactor.set_poll_params(params)
    }

    /// How many workers the pool of this context has; at most 64 unless changed.
    pub fn pool_limits(&self) -> PoolLimits {
        self.inner().reactor.pool_limits()
    }

    /// Changes how many workers the pool has, while it works.
    ///
    /// # Errors
    /// `InvalidArgument` when a limit is negative, the maximum 0, or the minimum above it; nothing has changed then.
    pub fn set_pool_limits(&self, limits: PoolLimits) -> Result<()> {
        self.inner().reactor.set_pool_limits(limits)
    }

    /// Stops the context and waits until its thread has ended. What runs is finished, what is pending is dropped, what is
    /// attached is detached. Idempotent.
    ///
    /// # Errors
    /// `WouldDeadlock` on the context's own thread, `Busy` for `qcontext-main`. Nothing has changed then.
    pub fn stop(&self) -> Result<()> {
        let inner = self.inner();
        if inner.id == MAIN {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("context '{MAIN}' can not be stopped"),
            ));
        }
        inner.refuse_own_thread("stop")?;
        inner.request_stop();
        // Held until the thread has ended, so that everybody who stops waits for that. Nothing else takes this lock.
        let mut handle = lock(&inner.thread);
        let ended = handle.take().map_or(Ok(()), JoinHandle::join);
        drop(handle);
        ended.map_err(|_| {
            Error::new(
                ErrorKind::Closed,
                format!("the thread of context '{}' panicked", inner.id),
            )
        })
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        registry::forget(self);
        self.0.request_stop();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(users) = &mut *lock(&self.inner.users)
            && let Some(index) = users.iter().position(|user| *user == self.device)
        {
            users.swap_remove(index);
        }
    }
}

impl fmt::Debug for QContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QContext")
            .field("id", &self.id())
            .field("threaded", &self.is_threaded())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("context", &self.inner.id)
            .field("device", &self.device)
            .finish()
    }
}

/// Locks a mutex whose data is consistent even if a holder panicked, because no foreign code runs under it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
