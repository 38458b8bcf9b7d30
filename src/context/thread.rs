//! How the kernel runs a context's thread: on which CPUs, how nice it is, and by which policy.
//!
//! The builder holds what is wanted, and applies it when the thread runs. Later changes go the same way, from any thread. What
//! is read is what the kernel has. Threads that the context's thread starts, such as the workers of its pool, inherit it.
//!
//! # Invariants
//! 1. A thread's id is used under [`ContextCore::leaving`]. The thread takes that lock before it gives its id up, so the id
//!    belongs to no other thread.
#![forbid(unsafe_code)]

use super::{ContextCore, QContext, SchedPolicy, affinity, lock, sched};
use crate::{Error, ErrorKind, Result};
use std::sync::atomic::Ordering;

/// The name of a property, as are the next ones.
pub(crate) const AFFINITY: &str = "cpu-affinity";
pub(crate) const NICE: &str = "nice";
pub(crate) const SCHED_POLICY: &str = "sched-policy";

/// What the builder was given for the thread.
#[derive(Clone, Debug, Default)]
pub(super) struct ThreadSettings {
    pub(super) cpus: Option<Vec<usize>>,
    pub(super) nice: Option<i64>,
    pub(super) policy: Option<SchedPolicy>,
}

impl ThreadSettings {
    /// # Errors
    /// `InvalidArgument` for a setting that needs a thread, if the context has none of its own.
    pub(super) fn check(&self, core: &ContextCore) -> Result<()> {
        let given = [
            (AFFINITY, self.cpus.is_some()),
            (NICE, self.nice.is_some()),
            (SCHED_POLICY, self.policy.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, is_given)| *is_given);
        given.try_for_each(|(what, _)| core.need_thread(what))
    }

    /// Applies the settings to the context's thread, which runs.
    pub(super) fn apply(&self, context: &QContext) -> Result<()> {
        if let Some(cpus) = &self.cpus {
            context.set_cpu_affinity(cpus)?;
        }
        if let Some(nice) = self.nice {
            context.set_nice(nice)?;
        }
        match self.policy {
            Some(policy) => context.set_sched_policy(policy),
            None => Ok(()),
        }
    }
}

impl QContext {
    /// The host's CPUs that the context's thread may run on, in ascending order, as the kernel has them. None while no thread
    /// runs the context.
    ///
    /// # Errors
    /// `Os` if the kernel does not say.
    pub fn cpu_affinity(&self) -> Result<Vec<usize>> {
        let core = self.core();
        let shown = core.with_thread(affinity::affinity);
        let shown = shown.map_err(|error| core.about(AFFINITY, error))?;
        Ok(shown.unwrap_or_default())
    }

    /// Restricts the context's thread to these CPUs of the host. Works at any time. Threads that it starts later, such as the
    /// workers of its pool, inherit that.
    ///
    /// # Errors
    /// `InvalidArgument` if there are none, if one does not exist or the process may not use it, and for a context without a
    /// thread of its own; `Closed` after a stop. Nothing has changed then.
    ///
    /// ```
    /// use qcontext::QContext;
    /// let ctx = QContext::new("pinned", true)?;
    /// let cpus = ctx.cpu_affinity()?;
    /// ctx.set_cpu_affinity(&cpus[..1])?;
    /// assert_eq!(ctx.cpu_affinity()?, cpus[..1]);
    /// # Ok::<(), qcontext::Error>(())
    /// ```
    pub fn set_cpu_affinity(&self, cpus: &[usize]) -> Result<()> {
        let set = |thread| affinity::set_affinity(thread, cpus);
        self.core().change_thread(AFFINITY, set)
    }

    /// The nice value of the context's thread, -20 to 19, as the kernel has it. 0 while no thread runs the context.
    ///
    /// # Errors
    /// `Os` if the kernel does not say.
    pub fn nice(&self) -> Result<i64> {
        let core = self.core();
        let shown = core.with_thread(sched::nice);
        let shown = shown.map_err(|error| core.about(NICE, error))?;
        Ok(shown.unwrap_or_default())
    }

    /// Changes the nice value of the context's thread at any time. Threads that it starts later inherit it.
    ///
    /// # Errors
    /// `InvalidArgument` if it is out of range, and for a context without a thread of its own; `Os` if the process lacks a
    /// privilege, which the message names; `Closed` after a stop. Nothing has changed then.
    pub fn set_nice(&self, nice: i64) -> Result<()> {
        let set = |thread| sched::set_nice(thread, nice);
        self.core().change_thread(NICE, set)
    }

    /// The scheduling policy of the context's thread, as the kernel has it. [`SchedPolicy::Other`] while no thread runs it.
    ///
    /// # Errors
    /// `Os` if the kernel does not say; `Unsupported` for another policy, which other code gave to the thread.
    pub fn sched_policy(&self) -> Result<SchedPolicy> {
        let core = self.core();
        let shown = core.with_thread(sched::policy);
        let shown = shown.map_err(|error| core.about(SCHED_POLICY, error))?;
        Ok(shown.unwrap_or(SchedPolicy::Other))
    }

    /// Changes the scheduling policy of the context's thread at any time. Threads that it starts later inherit it.
    ///
    /// # Errors
    /// As for [`QContext::set_nice`].
    pub fn set_sched_policy(&self, policy: SchedPolicy) -> Result<()> {
        let set = |thread| sched::set_policy(thread, policy);
        self.core().change_thread(SCHED_POLICY, set)
    }
}

impl ContextCore {
    /// Changes how the context's own thread runs.
    fn change_thread(&self, what: &str, change: impl FnOnce(i64) -> Result<()>) -> Result<()> {
        self.need_thread(what)?;
        if self.reactor.is_of_parent() {
            return Err(self.of_parent());
        }
        match self.with_thread(change) {
            Ok(changed) => changed.ok_or_else(|| self.closed()),
            Err(error) => Err(self.about(what, error)),
        }
    }

    /// Calls `work` with the id of the thread that runs the context, if there is one.
    fn with_thread<T>(&self, work: impl FnOnce(i64) -> Result<T>) -> Result<Option<T>> {
        let stays = lock(&self.leaving);
        let done = match self.thread_id.load(Ordering::Acquire) {
            -1 => Ok(None),
            thread => work(thread).map(Some),
        };
        drop(stays);
        done
    }

    /// The calling thread does not run the context any more. Its id may soon be another thread's.
    pub(super) fn forget_thread(&self) {
        let _leaves = lock(&self.leaving);
        self.thread_id.store(-1, Ordering::Release);
    }

    fn need_thread(&self, what: &str) -> Result<()> {
        if self.threaded {
            return Ok(());
        }
        let id = &self.id;
        let message =
            format!("{what} of context '{id}' expects a thread of the context's own (threaded=on)");
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    fn about(&self, what: &str, error: Error) -> Error {
        let message = format!("{what} of context '{}': {error}", self.id);
        Error::new(error.kind(), message)
    }
}
