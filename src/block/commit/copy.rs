//! The data goes into the base, a piece at a time.
#![forbid(unsafe_code)]

use std::io;

use super::CommitWork;
use super::plan::CommitPlan;
use crate::block::IoBuffer;
use crate::block::backend::BlockBackend;
use crate::block::error_policy::{ErrorPolicy, REPEATED_AFTER_NS};
use crate::block::graph::frozen::FrozenLinks;
use crate::block::node::Node;
use crate::job::{JobIo, RunningJob};
use crate::{Error, ErrorKind, Result};

/// How much one request copies. A cancellation waits no longer.
const COPIED_MAX: u64 = 512 << 10;

/// Both ends of the copy.
struct Ends<'a> {
    top: BlockBackend,
    base: BlockBackend,
    plan: &'a CommitPlan,
    job: &'a RunningJob,
    memory: Option<IoBuffer>,
}

impl CommitWork {
    /// Copies what is above the base into it.
    pub(super) async fn copy(&self, job: &RunningJob) -> Result<()> {
        self.plan.grow(job).await?;
        let top = self.open(&self.plan.top, job)?;
        let base = self.open(&self.plan.base, job)?;
        let ends = Ends {
            top: top.clone(),
            base: base.clone(),
            plan: &self.plan,
            job,
            memory: None,
        };
        let hurry = || [top, base].iter().for_each(BlockBackend::hurry);
        job.hurried_by_cancel(ends.copy_all(), hurry).await
    }

    fn open(&self, node: &Node, job: &RunningJob) -> Result<BlockBackend> {
        let open = |links: &FrozenLinks| {
            let edge = links.edge_to(node)?;
            Some(BlockBackend::open(edge, job.aio()))
        };
        let opened = self.links().as_ref().and_then(open);
        opened.ok_or_else(|| Error::new(ErrorKind::Closed, "the chain is free again"))
    }
}

impl Ends<'_> {
    async fn copy_all(mut self) -> Result<()> {
        let length = self.top.node().length();
        self.job.add_total(length);
        let mut policy = ErrorPolicy::new(self.plan.on_error);
        let mut offset = 0;
        while offset < length && !self.job.is_cancelled() {
            self.job.pause_point().await;
            match self.copy_next(offset, length).await {
                Ok((count, is_copied)) => {
                    offset += count;
                    self.job.add_done(count);
                    match is_copied {
                        true => self.job.keep_speed(count).await,
                        // Neighbours on the same home get their turn.
                        false => self.job.yield_now().await,
                    }
                }
                Err((io, error)) => {
                    // The image goes at the end, so nothing of it may be left out.
                    if !policy.apply(self.job, io, error)? {
                        self.job.rest_ns(REPEATED_AFTER_NS).await;
                    }
                }
            }
        }
        match self.job.is_cancelled() {
            true => Ok(()),
            false => self.base.flush().await.map_err(flush_failed),
        }
    }

    /// Copies a piece, or finds out that there is nothing to copy. Returns how far that holds, and whether it copied.
    async fn copy_next(
        &mut self,
        offset: u64,
        length: u64,
    ) -> std::result::Result<(u64, bool), (JobIo, io::Error)> {
        let reading = |error| (JobIo::Read, error);
        let writing = |error| (JobIo::Write, error);
        let left = length - offset;
        let status = self.top.block_status(offset, left).await.map_err(reading)?;
        if !(1..=self.plan.depth).contains(&status.depth) {
            return Ok((status.length, false));
        }
        let count = status.length.min(COPIED_MAX);
        if status.is_zero {
            let zeroed = self.base.write_zeroes(offset, count, true, false).await;
            return zeroed.map(|()| (count, true)).map_err(writing);
        }
        let mut memory = self.memory.take().unwrap_or_else(|| IoBuffer::zeroed(0));
        memory.set_len(usize::try_from(count).unwrap_or(0));
        let (result, memory) = self.copy_data(offset, memory).await;
        self.memory = Some(memory);
        result.map(|()| (count, true))
    }

    async fn copy_data(
        &self,
        offset: u64,
        memory: IoBuffer,
    ) -> (std::result::Result<(), (JobIo, io::Error)>, IoBuffer) {
        match self.top.read(offset, memory).await {
            (Ok(()), memory) => {
                let (written, memory) = self.base.write(offset, memory, false).await;
                (written.map_err(|error| (JobIo::Write, error)), memory)
            }
            (Err(error), memory) => (Err((JobIo::Read, error)), memory),
        }
    }
}

fn flush_failed(error: io::Error) -> Error {
    Error::os("Could not flush the base", error)
}
