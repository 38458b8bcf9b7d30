//! The context: a named event loop, run by at most one thread, usually its own.
//!
//! * `builder`: how a context is made
//! * `registry`: the names
//! * `core`: what the handles, the thread and the registry share; `end`: how a context ends; `remains`: what is kept after
//! * `thread`: how the kernel runs the thread, with `affinity` and `sched`
//! * `run`: the thread's loop; `glib_side`: when and how the loop asks GLib
//! * `sources`: attached AioContexts and GSources; `handlers`: fd handlers
//! * `invoke`: running closures on a context; `claim`: use by a device; `clock_step`: the virtual clock in tests
//!
//! # Threads
//! A [`QContext`] handle may be used from any thread, and with any lock held. Methods that wait say so, and fail when they
//! would wait for their own thread. Callbacks run on the context's thread, without any lock of this crate.
//!
//! # Invariants
//! 1. The thread of a threaded context owns its GMainContext from before the context can be found until it has stopped.
//! 2. After a stop no callback of the context runs. What was attached has been detached, and the context's own sources have
//!    been destroyed, both on the context's thread.
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

pub(crate) mod affinity;
mod builder;
mod claim;
mod clock_step;
mod core;
mod end;
mod glib_side;
mod handlers;
mod id;
mod invoke;
mod raw;
mod registry;
mod remains;
mod run;
mod sched;
mod sources;
mod thread;

pub(crate) use self::core::ContextCore;
use crate::{AioContext, Error, ErrorKind, Result, Wait};
pub(crate) use builder::DEFAULT_POLLING;
pub use builder::QContextBuilder;
pub use claim::ContextClaim;
pub use clock_step::step_virtual_clock;
use gsource::{PollParams, Poller, PoolLimits};
pub use id::check_id;
pub use sched::SchedPolicy;
use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
pub(crate) use thread::{AFFINITY, NICE, SCHED_POLICY};

/// The id of the context that drives the program's main loop, the default GMainContext.
pub(crate) const MAIN: &str = "qcontext-main";

/// A named event loop. Clones are handles of the same context. When the last handle is dropped, the context stops.
#[derive(Clone)]
pub struct QContext(Arc<Handle>);

/// The value that the handles count. Its drop stops the context. The context's thread holds the [`ContextCore`] only, so it
/// does not keep the context running.
struct Handle(Arc<ContextCore>);

impl QContext {
    /// A new context named `id`. A threaded one runs when this returns; the caller iterates an unthreaded one.
    ///
    /// # Errors
    /// `InvalidId`, `AlreadyExists`; `Os` when fds or threads have run out.
    pub fn new(id: &str, threaded: bool) -> Result<QContext> {
        QContext::builder(id).threaded(threaded).build()
    }

    /// Settings for a new context named `id`; [`QContextBuilder::build`] makes it.
    ///
    /// ```
    /// use qcontext::{PollParams, Poller, PoolLimits, QContext};
    /// let ctx = QContext::builder("ctx1")
    ///     .threaded(true)
    ///     .poller(Poller::IoUring)
    ///     .poll_params(PollParams { max_ns: 50_000, ..PollParams::default() })
    ///     .pool_limits(PoolLimits { min: 0, max: 8 })
    ///     .build()?;
    /// assert_eq!(ctx.poll_params().max_ns, 50_000);
    /// assert_eq!(ctx.pool_limits().max, 8);
    /// // Epoll where the kernel has no io_uring.
    /// assert!([Poller::IoUring, Poller::Epoll].contains(&ctx.poller()));
    /// # Ok::<(), qcontext::Error>(())
    /// ```
    pub fn builder(id: &str) -> QContextBuilder {
        QContextBuilder::named(id)
    }

    /// A new context without a name that can be looked up. Its generated id begins with `#`.
    ///
    /// # Errors
    /// `Os` when fds or threads have run out.
    pub fn anonymous(threaded: bool) -> Result<QContext> {
        QContextBuilder::unnamed().threaded(threaded).build()
    }

    /// An unthreaded context around an existing GMainContext; the thread that iterates that runs the context. Without an `id`
    /// it cannot be looked up.
    ///
    /// # Errors
    /// As for [`QContext::new`]; `Busy` for the default GMainContext, which belongs to `qcontext-main`.
    pub fn for_main_context(id: Option<&str>, gmain: &glib::MainContext) -> Result<QContext> {
        let builder = id.map_or_else(QContextBuilder::unnamed, QContextBuilder::named);
        builder.around(gmain).build()
    }

    fn wrap(core: Arc<ContextCore>) -> QContext {
        let context = QContext(Arc::new(Handle(core)));
        *lock(&context.core().handle) = Arc::downgrade(&context.0);
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

    /// The context that wraps `gmain`, also one without a name. `None` if there is none, or it has not started yet.
    pub fn of_main_context(gmain: &glib::MainContext) -> Option<QContext> {
        registry::of_main_context(gmain)
    }

    /// All named contexts, `qcontext-main` first, then in order of creation.
    pub fn list() -> Vec<QContext> {
        registry::list()
    }

    /// The context that runs the calling thread.
    pub fn current() -> Option<QContext> {
        run::current()
            .and_then(|core| core.handle())
            .or_else(registry::owned_here)
    }

    /// Keeps this context until [`QContext::delete`], also without a handle. Does nothing if it has no name or was deleted.
    pub fn keep(&self) {
        registry::keep(self);
    }

    /// Stops the context named `id`, waits for its thread and frees the name.
    ///
    /// When several threads delete the same context, one succeeds and the others get `NotFound`. A new context of that name
    /// is not affected.
    ///
    /// # Errors
    /// `NotFound`; `Busy` for `qcontext-main` and while a device uses the context; `WouldDeadlock` as for [`QContext::stop`].
    /// Nothing has changed then.
    pub fn delete(id: &str) -> Result<()> {
        let not_found = || Error::new(ErrorKind::NotFound, format!("object '{id}' not found"));
        let context = registry::find(id).map_err(|_| not_found())?;
        if id == MAIN {
            let message = format!("object '{id}' is in use, can not be deleted");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let right = context.core().may_wait_for_end("delete")?;
        context.core().close_to_devices()?;
        // False if another thread has deleted this very context.
        if !registry::remove(&context) {
            return Err(not_found());
        }
        context.core().end_and_wait(right)
    }

    /// The name.
    pub fn id(&self) -> &str {
        &self.core().id
    }

    /// The name, for C.
    #[doc(hidden)] // for the C ABI
    pub fn c_id(&self) -> &CStr {
        &self.core().c_id
    }

    /// True when the context has a thread of its own.
    pub fn is_threaded(&self) -> bool {
        self.core().threaded
    }

    /// The kernel's id of the thread that runs the context, or -1. For `qcontext-main` it is the main thread's.
    pub fn thread_id(&self) -> i64 {
        self.core().thread_id.load(Ordering::Acquire)
    }

    /// True on the thread that runs this context, also if that thread iterates the GMainContext itself.
    pub fn is_current(&self) -> bool {
        self.core().reactor.is_driven_here() || self.core().gmain.is_owner()
    }

    /// The context's own AioContext, for bottom halves and timers that need none of their own.
    ///
    /// # Errors
    /// `Closed` after a stop.
    pub fn aio(&self) -> Result<AioContext> {
        self.core().aio()
    }

    /// The GMainContext that this context wraps. Any `glib::Source` may be attached to it.
    pub fn main_context(&self) -> glib::MainContext {
        self.core().gmain.clone()
    }

    /// Makes the current or next wait return. Async-signal-safe.
    pub fn notify(&self) {
        self.core().reactor.notify();
    }

    /// Changes when a notification has ended an iteration by GLib's functions.
    #[doc(hidden)] // for the C ABI
    pub fn glib_notifications(&self) -> usize {
        self.core().reactor.glib_notifications()
    }

    /// One iteration of an unthreaded context on the calling thread. True when something was dispatched.
    ///
    /// # Errors
    /// `WrongThread` when another thread runs the context; `Closed` after a stop.
    pub fn iterate(&self, wait: Wait) -> Result<bool> {
        self.core().iterate(wait)
    }

    /// True when [`QContext::iterate`] without waiting would dispatch something.
    ///
    /// # Errors
    /// `WrongThread` when another thread runs the context; `Closed` after a stop.
    pub fn is_pending(&self) -> Result<bool> {
        self.core().is_pending()
    }

    /// The poller that the context waits with.
    pub fn poller(&self) -> Poller {
        self.core().reactor.poller()
    }

    /// How the context busy-polls before it sleeps; for at most 32768 ns unless changed.
    pub fn poll_params(&self) -> PollParams {
        self.core().reactor.poll_params()
    }

    /// Changes the busy-polling.
    ///
    /// # Errors
    /// `InvalidArgument` when a parameter is negative; nothing has changed then.
    pub fn set_poll_params(&self, params: PollParams) -> Result<()> {
        self.core().reactor.set_poll_params(params)
    }

    /// How many workers the context's pool may have; at most 64 unless changed.
    pub fn pool_limits(&self) -> PoolLimits {
        self.core().reactor.pool_limits()
    }

    /// Changes how many workers the pool may have. Works while jobs run.
    ///
    /// # Errors
    /// `InvalidArgument` when a limit is negative, the maximum 0, or the minimum above it; nothing has changed then.
    pub fn set_pool_limits(&self, limits: PoolLimits) -> Result<()> {
        self.core().reactor.set_pool_limits(limits)
    }

    pub(crate) fn core(&self) -> &Arc<ContextCore> {
        &self.0.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        registry::forget(self);
        self.0.request_stop_unattended();
        self.0.release_remains();
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

/// Locks a mutex. A panic of a holder leaves the data consistent, because no callback runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
