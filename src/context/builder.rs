//! How a context is made: the settings, and the order of the steps.
//!
//! `QContext::new`, `-object qcontext` and the C functions all come here. The settings are checked and the name is reserved
//! before the thread starts; the context can be found when the thread runs. So a wrong setting is never seen by others, and
//! another thread cannot take the GMainContext before the context's own thread does.
#![forbid(unsafe_code)]

use super::thread::ThreadSettings;
use super::{ContextCore, QContext, SchedPolicy, id, registry};
use crate::{Error, ErrorKind, PollParams, Poller, PoolLimits, Result};
use std::sync::Arc;

/// The busy-polling of a context that is not given another one.
pub(crate) const DEFAULT_POLLING: PollParams = PollParams {
    max_ns: 32_768,
    grow: 0,
    shrink: 0,
};

/// Settings of a context to be made; see [`QContext::builder`].
#[derive(Clone, Debug)]
#[must_use = "`build` makes the context"]
pub struct QContextBuilder {
    /// `None` for a generated one that cannot be looked up.
    pub(super) id: Option<String>,
    pub(super) threaded: bool,
    pub(super) poller: Poller,
    pub(super) poll_params: PollParams,
    pub(super) pool_limits: PoolLimits,
    thread: ThreadSettings,
    kept: bool,
    /// `None` for a GMainContext of its own.
    around: Option<glib::MainContext>,
}

impl QContextBuilder {
    pub(super) fn named(id: &str) -> QContextBuilder {
        QContextBuilder {
            id: Some(id.to_owned()),
            ..QContextBuilder::unnamed()
        }
    }

    pub(super) fn unnamed() -> QContextBuilder {
        QContextBuilder {
            id: None,
            threaded: false,
            poller: Poller::default(),
            poll_params: DEFAULT_POLLING,
            pool_limits: PoolLimits::default(),
            thread: ThreadSettings::default(),
            kept: false,
            around: None,
        }
    }

    pub(super) fn around(mut self, gmain: &glib::MainContext) -> QContextBuilder {
        self.around = Some(gmain.clone());
        self
    }

    /// Whether the context has a thread of its own. Without one the caller iterates it. Default: false.
    pub fn threaded(mut self, threaded: bool) -> QContextBuilder {
        self.threaded = threaded;
        self
    }

    /// What the context waits with. Where the kernel does not offer it, the context uses epoll and a warning says why;
    /// [`QContext::poller`] answers which one it is. Default: epoll.
    pub fn poller(mut self, poller: Poller) -> QContextBuilder {
        self.poller = poller;
        self
    }

    /// How the context busy-polls before it sleeps. Default: for at most 32768 ns.
    pub fn poll_params(mut self, params: PollParams) -> QContextBuilder {
        self.poll_params = params;
        self
    }

    /// How many workers the context's pool may have. Default: at most 64.
    pub fn pool_limits(mut self, limits: PoolLimits) -> QContextBuilder {
        self.pool_limits = limits;
        self
    }

    /// The host's CPUs that the context's thread may run on; see [`QContext::set_cpu_affinity`]. Default: those of the thread
    /// that makes the context.
    pub fn cpu_affinity(mut self, cpus: impl IntoIterator<Item = usize>) -> QContextBuilder {
        self.thread.cpus = Some(cpus.into_iter().collect());
        self
    }

    /// The nice value of the context's thread; see [`QContext::set_nice`]. Default: that of the thread that makes the context.
    pub fn nice(mut self, nice: i64) -> QContextBuilder {
        self.thread.nice = Some(nice);
        self
    }

    /// The scheduling policy of the context's thread; see [`QContext::set_sched_policy`]. Default: that of the thread that
    /// makes the context.
    pub fn sched_policy(mut self, policy: SchedPolicy) -> QContextBuilder {
        self.thread.policy = Some(policy);
        self
    }

    /// Whether the context lasts until [`QContext::delete`], also without a handle, as those of `-object` do. Otherwise it
    /// stops when its last handle is dropped. Default: false.
    pub fn kept(mut self, kept: bool) -> QContextBuilder {
        self.kept = kept;
        self
    }

    /// Makes the context. A threaded one runs when this returns.
    ///
    /// # Errors
    /// `InvalidId`, `AlreadyExists`; `InvalidArgument` for a number out of range, for CPUs that the process may not use, and for settings
    /// of a thread that the context has not; `Os` without the privilege that a setting needs, and when fds or threads have run out.
    /// Other threads have not seen the context then.
    pub fn build(self) -> Result<QContext> {
        let name = format!("context '{}'", self.id.as_deref().unwrap_or(""));
        self.make().map_err(|error| error.of(&name))
    }

    fn make(self) -> Result<QContext> {
        let context = QContext::wrap(self.make_core()?);
        self.thread.check(context.core())?;
        registry::reserve(&context)?;
        if self.threaded {
            context.core().start()?;
            self.thread.apply(&context)?;
        }
        if self.kept {
            registry::keep(&context);
        }
        registry::publish(&context);
        Ok(context)
    }

    fn make_core(&self) -> Result<Arc<ContextCore>> {
        if let Some(id) = &self.id {
            id::check_id(id, "id")?;
        }
        match &self.around {
            None => ContextCore::with_own_main_context(self),
            Some(gmain) if *gmain == glib::MainContext::default() => {
                let message = format!(
                    "the default GMainContext belongs to context '{}'",
                    super::MAIN
                );
                Err(Error::new(ErrorKind::Busy, message))
            }
            Some(gmain) => ContextCore::around(self, gmain),
        }
    }
}
