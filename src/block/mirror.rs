//! `blockdev-mirror`: a copy of a node that follows what is written to it, until it takes the node's place or is let go, as a job.
//!
//! * `state`: what is not copied yet, shared by the job and the requests to the source
//! * `tap`: the look at these requests
//! * `copier`: what copies
//! * `commit`: a disk that is copied into its own base
//! * `options`: the arguments; `drive`: `drive-mirror`, which makes the target
//!
//! From its start on, all writes to the source are seen (the tap). In the copy mode `background` they are marked dirty, and the job copies
//! what is dirty. In the mode `write-blocking` the job also writes them to the target before they are answered. When everything was
//! copied once, the job is ready. At the end the source and the target are drained, what is left is copied, and the users of the source
//! get the target instead. A guest waits no longer than that takes.
//!
//! A pause, an error and a cancellation do not keep guests waiting: their writes are marked dirty then.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::backend::BlockBackend;
use super::change::GraphChange;
use super::drain::{DrainedNodes, drain};
use super::graph::Edge;
use super::node::Node;
use crate::job::{JobStep, JobWork, RunningJob, WorkFuture};
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

mod commit;
mod copier;
mod drive;
mod options;
mod state;
mod tap;

pub(super) use commit::start_active_commit;
pub use drive::{DRIVE_MIRROR_OPTIONS, drive_mirror};
pub use options::{BLOCKDEV_MIRROR_OPTIONS, COPY_MODE, mirror};

use commit::ActiveCommit;
use copier::{CopyOptions, MirrorCopier};
use state::MirrorState;
use tap::MirrorTap;

/// When so much is left to be copied, guests may as well wait for it.
const LITTLE: u64 = 1 << 20;

/// What is copied first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MirrorSync {
    /// Everything.
    Full,
    /// What the node itself has, without its backing files.
    Top,
    /// What so many images have, from the node itself down.
    Above(u32),
    /// Nothing.
    None,
}

/// The job's work.
#[derive(Debug)]
struct MirrorWork {
    source: Edge,
    target: Edge,
    /// Its users get the target at the end.
    replaces: Arc<Node>,
    sync: MirrorSync,
    copying: CopyOptions,
    state: Arc<MirrorState>,
    /// The copy mode is `write-blocking`.
    is_blocking: AtomicBool,
    /// The source is looked at.
    is_tapped: AtomicBool,
    /// It was found out what is to be copied first.
    is_found: AtomicBool,
    /// The target takes the source's place.
    is_completed: AtomicBool,
    /// The target is the source's own base.
    commit: Option<ActiveCommit>,
}

impl JobWork for MirrorWork {
    fn run(self: Arc<Self>, job: Arc<RunningJob>) -> WorkFuture {
        Box::pin(async move { self.mirror(&job).await })
    }

    fn step(self: Arc<Self>, step: JobStep, job: Arc<RunningJob>) -> Option<WorkFuture> {
        match step {
            JobStep::Prepare => Some(Box::pin(async move { self.finish(&job).await })),
            JobStep::Abort => Some(Box::pin(async move { self.give_up(&job).await })),
            JobStep::Commit => None,
        }
    }

    fn change(&self, mut options: Options) -> Result<()> {
        let mode = options.take_str("copy-mode")?;
        let is_blocking = self.is_blocking.load(Ordering::Relaxed);
        match mode.as_deref() {
            Some("write-blocking") => {
                // The work looks at them in the other order.
                self.is_blocking.store(true, Ordering::SeqCst);
                if self.is_found.load(Ordering::SeqCst) {
                    self.state.start_handing();
                }
                Ok(())
            }
            Some(mode) if is_blocking => {
                let message = format!("Change to copy mode '{mode}' is not implemented");
                Err(Error::new(ErrorKind::Unsupported, message))
            }
            _ => Ok(()),
        }
    }

    fn is_actively_synced(&self) -> Option<bool> {
        let is_mirror = self.commit.is_none();
        is_mirror.then(|| self.state.is_actively_synced())
    }

    fn has_ready(&self) -> bool {
        true
    }
}

impl MirrorWork {
    async fn mirror(&self, job: &Arc<RunningJob>) -> Result<()> {
        if let Some(commit) = &self.commit {
            commit.grow(job).await?;
        } else if self.source.node().length() != self.target.node().length() {
            let message = "Source and target image have different sizes";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let nodes = [self.source.node()];
        let Some(drained) = job.unless_cancelled(drain(&nodes)).await else {
            return Ok(());
        };
        self.set_tap();
        drop(drained);
        let source = BlockBackend::open(&self.source, job.aio());
        let target = BlockBackend::open(&self.target, job.aio());
        let backends = (source.clone(), target.clone());
        let mut copier = MirrorCopier::new(job, &self.state, backends, self.copying);
        self.find_dirty(&source, &target, job).await;
        self.is_found.store(true, Ordering::SeqCst);
        if self.is_blocking.load(Ordering::SeqCst) {
            self.state.start_handing();
        }
        let first = self.state.dirty.count();
        // A guest that writes all the time never leaves less than this for long.
        let much = self.copying.memory;
        let is_copied = |now: &MirrorCopier| now.copied() >= first && now.remaining() <= much;
        let once = copier.copy_until(|now| now.is_clean() || is_copied(now));
        once.await?;
        let flushed = flush(&target, job).await;
        if flushed.is_err() || job.is_cancelled() {
            copier.settle().await?;
            return flushed;
        }
        self.state.become_ready();
        job.become_ready();
        let mut passes = Passes::default();
        let on =
            copier.copy_until(|copier| job.asked_to_end().is_some() && passes.are_over(copier));
        on.await?;
        copier.settle().await?;
        let is_completed = job.asked_to_end() == Some(true);
        self.is_completed.store(is_completed, Ordering::Relaxed);
        Ok(())
    }

    /// Marks what is to be copied first.
    async fn find_dirty(&self, source: &BlockBackend, target: &BlockBackend, job: &RunningJob) {
        let length = source.node().length();
        let mut at = 0;
        while at < length && self.sync != MirrorSync::None && !job.is_cancelled() {
            job.pause_point().await;
            let Ok(status) = source.block_status(at, length - at).await else {
                // The copy shows what is wrong there.
                self.state.dirty.set(at..length);
                return;
            };
            let mut count = status.length.clamp(1, length - at);
            let is_wanted = match self.sync {
                MirrorSync::Top => status.is_allocated(),
                MirrorSync::Above(depth) => (1..=depth).contains(&status.depth),
                _ if status.is_zero => match target.block_status(at, count).await {
                    Ok(there) => {
                        count = there.length.clamp(1, count);
                        !there.is_zero
                    }
                    Err(_) => true,
                },
                _ => true,
            };
            if is_wanted {
                self.state.dirty.set(at..at + count);
                job.set_remaining(self.state.dirty.count());
            }
            at += count;
        }
    }

    /// Copies what is left while no guest works, and lets the target take the source's place.
    async fn finish(&self, job: &Arc<RunningJob>) -> Result<()> {
        self.copy_most(job).await?;
        let mut change = GraphChange::new();
        let target = self.target.node();
        if self.is_completed.load(Ordering::Relaxed) {
            change.replace(&self.replaces, &target)?;
            change.release(&self.target);
            if let Some(commit) = &self.commit {
                commit.add_end(&mut change)?;
            }
        }
        let mut nodes = change.nodes();
        nodes.extend([self.source.node(), target]);
        let Some(drained) = job.unless_cancelled(drain(&nodes)).await else {
            return Ok(());
        };
        self.copy_rest(job).await?;
        if !job.begin_final() {
            return Ok(());
        }
        self.remove_tap();
        self.pivot(job, change, drained).await
    }

    /// Copies most of what was written since the work was over.
    async fn copy_most(&self, job: &Arc<RunningJob>) -> Result<()> {
        let source = BlockBackend::open(&self.source, job.aio());
        let target = BlockBackend::open(&self.target, job.aio());
        let mut copier = MirrorCopier::last(job, &self.state, (source, target), self.copying);
        let mut passes = Passes::default();
        copier.copy_until(|now| passes.are_over(now)).await?;
        copier.settle().await
    }

    /// Copies what is left of drained nodes.
    async fn copy_rest(&self, job: &Arc<RunningJob>) -> Result<()> {
        let source = BlockBackend::for_errand(&self.source, job.aio());
        let target = BlockBackend::for_errand(&self.target, job.aio());
        let backends = (source, target.clone());
        let mut copier = MirrorCopier::last(job, &self.state, backends, self.copying);
        copier.copy_until(MirrorCopier::is_clean).await?;
        flush(&target, job).await
    }

    async fn pivot(
        &self,
        job: &RunningJob,
        change: GraphChange,
        drained: DrainedNodes,
    ) -> Result<()> {
        if !self.is_completed.load(Ordering::Relaxed) {
            drop(drained);
            return self.leave_chain(job).await;
        }
        let made = job.aio().run_in_pool(move || change.make(&drained));
        made.await??;
        self.commit.iter().for_each(ActiveCommit::ended);
        Ok(())
    }

    /// The job ends without a change of the source.
    async fn give_up(&self, job: &RunningJob) -> Result<()> {
        if self.is_tapped.load(Ordering::Relaxed) {
            let drained = drain(&[self.source.node()]).await;
            self.remove_tap();
            drop(drained);
        }
        self.leave_chain(job).await
    }

    /// The base of a disk that was to be committed is as before.
    async fn leave_chain(&self, job: &RunningJob) -> Result<()> {
        match &self.commit {
            Some(commit) => commit.give_up(self, job).await,
            None => Ok(()),
        }
    }

    /// The source is drained.
    fn set_tap(&self) {
        let tap = MirrorTap(Arc::clone(&self.state));
        self.source.node().set_tap(Some(Arc::new(tap)));
        self.is_tapped.store(true, Ordering::Relaxed);
    }

    /// The source is drained.
    fn remove_tap(&self) {
        self.source.node().set_tap(None);
        self.is_tapped.store(false, Ordering::Relaxed);
    }
}

async fn flush(target: &BlockBackend, job: &RunningJob) -> Result<()> {
    let flushed = job.hurried_by_cancel(target.flush(), || target.hurry());
    let flushed = flushed.await;
    flushed.map_err(|error| Error::new(ErrorKind::Os, error.to_string()))
}

/// Copies what was dirty again and again, as long as that helps.
#[derive(Debug, Default)]
struct Passes {
    /// What was dirty when this pass began, and how much is copied when it ends.
    pass: Option<(u64, u64)>,
}

impl Passes {
    /// Whether little is left, or a pass has not made it less.
    fn are_over(&mut self, copier: &MirrorCopier) -> bool {
        let remaining = copier.remaining();
        if remaining <= LITTLE {
            return true;
        }
        let copied = copier.copied();
        let Some((began_with, until)) = self.pass else {
            self.pass = Some((remaining, copied + remaining));
            return false;
        };
        if copied < until {
            return false;
        }
        self.pass = Some((remaining, copied + remaining));
        remaining >= began_with / 4 * 3
    }
}
