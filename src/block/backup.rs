//! `blockdev-backup`: a copy of a node as it is when the job begins, as a job.
//!
//! A `copy-before-write` node takes the node's place among its users, under a drain, so that begins at one moment. What guests are
//! going to change is copied before by their own requests, and the job copies the rest, several chunks at once. Both ask the filter,
//! which copies each cluster once. At the end the users get the node back.
//!
//! * [`options`]: the arguments; [`begin`]: how the filter comes; [`copier`]: the job's share of the copy
//!
//! A failed copy fails the guest's write that waits for it, as in QEMU; `on-target-error` is for what the job itself copies. The
//! target is flushed before the job is completed. When the program dies, the source is as good as ever, and the target is incomplete.
#![forbid(unsafe_code)]

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backend::BlockBackend;
use super::change::GraphChange;
use super::drain::drain;
use super::drivers::copy_before_write::CopyState;
use super::error_policy::OnError;
use super::graph::Edge;
use super::node::Node;
use crate::job::{JobStep, JobWork, RunningJob, WorkFuture};
use crate::{Error, ErrorKind, Result};

mod begin;
mod copier;
mod options;

pub use begin::NewBackup;
pub use options::BLOCKDEV_BACKUP_OPTIONS;

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackupSync {
    /// Everything.
    Full,
    /// What the node itself has, without its backing files.
    Top,
    /// What guests change.
    None,
}

/// How the job copies.
#[derive(Clone, Copy, Debug)]
struct BackupSettings {
    sync: BackupSync,
    on_source_error: OnError,
    on_target_error: OnError,
    /// The most chunks at once.
    workers: usize,
    /// The most bytes of a chunk.
    chunk: u64,
}

/// The job's work.
#[derive(Debug)]
struct BackupWork {
    uses: BackupUses,
    source: Arc<Node>,
    filter: Arc<Node>,
    state: Arc<CopyState>,
    settings: BackupSettings,
}

/// The job's edges.
#[derive(Debug)]
struct BackupUses {
    /// None once the filter is to go: it must have no other users then than those of the source.
    filter: Mutex<Option<Edge>>,
    target: Edge,
    /// Keeps other jobs away.
    _source: Edge,
}

impl JobWork for BackupWork {
    fn run(self: Arc<Self>, job: Arc<RunningJob>) -> WorkFuture {
        Box::pin(async move {
            match self.settings.sync {
                BackupSync::None => self.wait_for_cancel(&job).await,
                BackupSync::Full | BackupSync::Top => self.copy(&job).await,
            }
        })
    }

    fn step(self: Arc<Self>, step: JobStep, job: Arc<RunningJob>) -> Option<WorkFuture> {
        match step {
            JobStep::Prepare => None,
            JobStep::Commit | JobStep::Abort => {
                Some(Box::pin(async move { self.remove_filter(&job).await }))
            }
        }
    }
}

impl BackupWork {
    async fn copy(&self, job: &Arc<RunningJob>) -> Result<()> {
        copier::copy(self, job).await?;
        match job.is_cancelled() {
            true => Ok(()),
            false => self.flush(job).await,
        }
    }

    async fn flush(&self, job: &RunningJob) -> Result<()> {
        let target = BlockBackend::open(&self.uses.target, job.aio());
        let flushed = job.hurried_by_cancel(target.flush(), || target.hurry());
        flushed
            .await
            .map_err(|error| Error::new(ErrorKind::Os, error.to_string()))
    }

    /// Guests do the work. A cancellation is the only end, so the copy must be good then.
    async fn wait_for_cancel(&self, job: &RunningJob) -> Result<()> {
        job.set_remaining(self.state.remaining());
        job.set_idle(true);
        job.unless_cancelled(pending::<()>()).await;
        job.set_idle(false);
        self.flush(job).await
    }

    /// The users of the source get it back.
    async fn remove_filter(&self, job: &RunningJob) -> Result<()> {
        let mut change = GraphChange::new();
        change.replace(&self.filter, &self.source)?;
        let drained = drain(&change.nodes()).await;
        drop(self.uses.filter().take());
        let made = job.aio().run_in_pool(move || change.make(&drained));
        let made = made.await.flatten();
        match &made {
            Ok(()) => self.filter.withdraw(),
            Err(error) => tell_stays(&self.source, error),
        }
        made
    }
}

impl BackupUses {
    /// A way to the filter; none if it is to go.
    fn open_filter(&self, job: &RunningJob) -> Option<BlockBackend> {
        let open = |edge| BlockBackend::open(edge, job.aio());
        self.filter().as_ref().map(open)
    }

    /// It is replaced as a whole.
    fn filter(&self) -> MutexGuard<'_, Option<Edge>> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The filter cannot be removed.
fn tell_stays(source: &Node, error: &Error) {
    glib::g_critical!(
        "qcontext",
        "The filter of a backup stays above node '{}': {error}",
        source.name()
    );
}
