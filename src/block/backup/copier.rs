//! The job's share of a backup: chunks that the filter is asked to copy, several at once.
//!
//! The filter says what is left; a guest may have had it copied meanwhile. When a user wants the job to pause or to end, no new
//! chunk begins, and those under way are waited for. A chunk that has failed is left, unless the job fails; then the job begins again
//! with what is left.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use gsource::Clock;

use super::{BackupSettings, BackupWork};
use crate::Result;
use crate::block::backend::BlockBackend;
use crate::block::drivers::copy_before_write::CopyState;
use crate::block::error_policy::{ErrorPolicy, REPEATED_AFTER_NS};
use crate::block::request::Op;
use crate::job::{JobIo, RunningJob};

/// What has become of a chunk.
#[derive(Debug)]
struct CopiedChunk {
    /// The errno, and whether the target has failed.
    error: Option<(i32, bool)>,
}

/// Chunks under way.
#[derive(Default)]
struct Flights(Vec<Pin<Box<dyn Future<Output = CopiedChunk> + Send>>>);

impl Flights {
    /// Waits for one; none if there is none.
    async fn next(&mut self) -> Option<CopiedChunk> {
        if self.0.is_empty() {
            return None;
        }
        let landed = poll_fn(|context| {
            let mut flights = self.0.iter_mut().enumerate();
            let landed = flights.find_map(|(index, flight)| match flight.as_mut().poll(context) {
                Poll::Ready(landed) => Some((index, landed)),
                Poll::Pending => None,
            });
            landed.map_or(Poll::Pending, Poll::Ready)
        });
        let (index, landed) = landed.await;
        drop(self.0.swap_remove(index));
        Some(landed)
    }
}

/// Copies what is left.
pub(super) async fn copy(work: &BackupWork, job: &Arc<RunningJob>) -> Result<()> {
    let Some(backend) = work.uses.open_filter(job) else {
        return Ok(());
    };
    let mut pass = Pass {
        job,
        state: &work.state,
        settings: work.settings,
        flights: Flights::default(),
        source_errors: ErrorPolicy::new(work.settings.on_source_error),
        target_errors: ErrorPolicy::new(work.settings.on_target_error),
        copied: 0,
        has_failed: false,
    };
    job.set_remaining(work.state.remaining());
    let copying = pass.copy_all(&backend);
    job.hurried_by_cancel(copying, || backend.hurry()).await
}

/// The job's way through the node.
struct Pass<'a> {
    job: &'a RunningJob,
    state: &'a CopyState,
    settings: BackupSettings,
    flights: Flights,
    source_errors: ErrorPolicy,
    target_errors: ErrorPolicy,
    /// So much has been copied that the job has told.
    copied: u64,
    /// A chunk has failed in this pass.
    has_failed: bool,
}

impl Pass<'_> {
    async fn copy_all(&mut self, backend: &BlockBackend) -> Result<()> {
        let mut at = 0;
        loop {
            if self.job.is_pausing() || self.job.is_cancelled() {
                self.land_all().await?;
            }
            if self.job.is_cancelled() {
                return Ok(());
            }
            self.job.pause_point().await;
            while self.flights.0.len() < self.settings.workers
                && let Some(chunk) = self.next_chunk(at)
            {
                at = chunk.end;
                let len = chunk.end - chunk.start;
                self.flights.0.push(Box::pin(fly(backend.clone(), chunk)));
                self.job.keep_speed(len).await;
                if self.job.is_pausing() || self.job.is_cancelled() {
                    break;
                }
            }
            match self.flights.next().await {
                Some(landed) => self.take(landed)?,
                None if self.state.next_needed(&(0..self.state.length())).is_none() => {
                    self.tell();
                    return Ok(());
                }
                None => {
                    if std::mem::take(&mut self.has_failed) {
                        let rest = REPEATED_AFTER_NS.cast_signed();
                        self.job.aio().sleep_ns(Clock::Realtime, rest).await;
                    }
                    at = 0;
                }
            }
        }
    }

    async fn land_all(&mut self) -> Result<()> {
        while let Some(landed) = self.flights.next().await {
            self.take(landed)?;
        }
        Ok(())
    }

    fn take(&mut self, landed: CopiedChunk) -> Result<()> {
        self.tell();
        let Some((errno, is_of_target)) = landed.error else {
            return Ok(());
        };
        let error = io::Error::from_raw_os_error(errno);
        if self.job.is_cancelled() {
            return Ok(());
        }
        self.has_failed = true;
        match is_of_target {
            true => self.target_errors.apply(self.job, JobIo::Write, error)?,
            false => self.source_errors.apply(self.job, JobIo::Read, error)?,
        };
        Ok(())
    }

    /// Tells the job's progress.
    fn tell(&mut self) {
        let copied = self.state.copied();
        self.job.add_done(copied - self.copied);
        self.copied = copied;
        self.job.set_remaining(self.state.remaining());
    }

    fn next_chunk(&self, at: u64) -> Option<Range<u64>> {
        let needed = self.state.next_needed(&(at..self.state.length()))?;
        let most = match self.job.speed() {
            0 => self.settings.chunk,
            // Ten a second, so that it is even.
            speed => self.settings.chunk.min(speed / 10),
        };
        let cluster = self.state.cluster_size();
        let most = (most / cluster * cluster).max(cluster);
        // Not what was there before `at`.
        let start = needed.start.max(at);
        Some(start..needed.end.min(start + most))
    }
}

/// Lets the filter copy a chunk.
async fn fly(backend: BlockBackend, chunk: Range<u64>) -> CopiedChunk {
    let mut request = backend.request(Op::Populate, chunk.start);
    request.set_length(chunk.end - chunk.start);
    let finished = backend.submit(request).await;
    let is_of_target = finished.request.failed_at_target;
    backend.recycle(finished.request);
    let error = (finished.result < 0).then(|| (finished.result.saturating_neg(), is_of_target));
    CopiedChunk { error }
}
