//! `block-commit` of a disk itself: a mirror of the disk into its own base, which takes the disk's place at the end.
//!
//! Only what the images above the base have is copied. The links down to the base are frozen and loose meanwhile, as in any commit.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::copier::CopyOptions;
use super::options::{GRANULARITY, MEMORY, SOURCE_ACCESS};
use super::state::MirrorState;
use super::{MirrorSync, MirrorWork};
use crate::block::change::GraphChange;
use crate::block::commit::plan::CommitPlan;
use crate::block::drain::drain;
use crate::block::graph::Parent;
use crate::block::graph::frozen::FrozenLinks;
use crate::job::{self, JobOptions, RunningJob};
use crate::{QContext, Result};

/// What a mirror into its own base has besides.
#[derive(Debug)]
pub(super) struct ActiveCommit {
    plan: CommitPlan,
    /// `None` when the chain is free again.
    links: Mutex<Option<FrozenLinks>>,
}

/// Starts the job.
///
/// # Errors
/// Others use the disk or the base in a way that contradicts the job; the job's id is taken or not well-formed.
pub(in crate::block) fn start_active_commit(
    plan: CommitPlan,
    links: FrozenLinks,
    options: JobOptions,
) -> Result<()> {
    let job = Parent::new("job", options.id.clone());
    let granularity = GRANULARITY.cast_unsigned();
    let work = MirrorWork {
        source: plan.top.attach(job.clone(), SOURCE_ACCESS)?,
        target: plan.base.attach(job, plan.writer())?,
        replaces: Arc::clone(&plan.top),
        sync: MirrorSync::Above(plan.depth),
        copying: CopyOptions {
            memory: MEMORY.cast_unsigned(),
            unmap: true,
            on_source_error: plan.on_error,
            on_target_error: plan.on_error,
        },
        state: Arc::new(MirrorState::new(plan.top.length(), granularity)?),
        is_blocking: AtomicBool::new(false),
        is_tapped: AtomicBool::new(false),
        is_found: AtomicBool::new(false),
        is_completed: AtomicBool::new(false),
        commit: Some(ActiveCommit {
            plan,
            links: Mutex::new(Some(links)),
        }),
    };
    job::start(options, &QContext::main(), Arc::new(work))
}

impl ActiveCommit {
    pub(super) async fn grow(&self, job: &RunningJob) -> Result<()> {
        self.plan.grow(job).await
    }

    /// The chain is free again with the change, in which the base takes the disk's place.
    pub(super) fn add_end(&self, change: &mut GraphChange) -> Result<()> {
        let links = self.links().as_ref().map(FrozenLinks::number);
        links.into_iter().for_each(|links| change.thaw(links));
        match self.plan.was_read_only && self.plan.top.is_read_only() {
            true => change.set_read_only(&self.plan.base, true),
            false => Ok(()),
        }
    }

    /// The chain is free again, and the base as it was. The edges of `work` end with that.
    pub(super) async fn give_up(&self, work: &MirrorWork, job: &RunningJob) -> Result<()> {
        let Some(links) = self.links().take() else {
            return Ok(());
        };
        let mut change = GraphChange::new();
        change.thaw(links.number());
        change.release(&work.target);
        if self.plan.was_read_only {
            change.set_read_only(&self.plan.base, true)?;
        }
        let drained = drain(&change.nodes()).await;
        let made = job.aio().run_in_pool(move || change.make(&drained));
        let made = made.await;
        drop(links);
        made?
    }

    /// The change is made.
    pub(super) fn ended(&self) {
        let links = self.links().take();
        drop(links);
    }

    /// The links are consistent after every single operation on them.
    fn links(&self) -> MutexGuard<'_, Option<FrozenLinks>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
