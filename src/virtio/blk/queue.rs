//! A started queue of a disk: chains become requests to the node, and finished requests become answers.
//!
//! Used by the worker of the queue, under its lock. Each queue has a channel of its own to the node.
//!
//! # Invariants
//! 1. The chain of a request in flight is kept, and its tag is the request's. So the guest's memory, which the worker keeps
//!    as long as a chain is kept, outlives the request.
#![allow(unsafe_code)] // hands guest memory to the block layer

use std::sync::Arc;

use gsource::AioContext;

use super::config::SECTOR;
use super::request::{
    Frame, ID_LEN, RequestKind, STATUS_IOERR, STATUS_OK, STATUS_UNSUPP, distribute,
};
use super::stats::Totals;
use crate::block::{Channel, ChannelOwner, Edge, Finished, Op, Request, Submission};
use crate::virtio::memory::GuestSlice;
use crate::virtio::queue::{Broken, Chain};
use crate::virtio::worker::{Answers, QueueHandle, QueueModel, Tag};

/// See the head of this file.
#[derive(Debug)]
pub struct BlkQueue {
    serial: [u8; ID_LEN],
    channel: Channel,
    totals: Totals,
    /// Reused from batch to batch.
    finished: Vec<Finished>,
    /// The channel knows it weakly.
    _owner: Arc<QueueOwner>,
}

/// The owner of the channel: calls the queue's worker when requests have finished.
#[derive(Debug)]
struct QueueOwner(QueueHandle);

impl ChannelOwner for QueueOwner {
    fn ready(&self) {
        self.0.ready();
    }
}

impl BlkQueue {
    /// Opens a channel over `edge` for the queue.
    pub(super) fn open(
        edge: &Edge,
        serial: [u8; ID_LEN],
        aio: &AioContext,
        totals: Totals,
        handle: QueueHandle,
    ) -> BlkQueue {
        let owner = Arc::new(QueueOwner(handle));
        let known: Arc<dyn ChannelOwner> = Arc::<QueueOwner>::clone(&owner);
        BlkQueue {
            serial,
            channel: Channel::open(edge, aio, Arc::downgrade(&known)),
            totals,
            finished: Vec::new(),
            _owner: owner,
        }
    }

    /// Answers a request that the block layer has finished.
    fn finish(&mut self, done: Finished, answers: &mut Answers) {
        let ok = done.result == 0;
        let request = &done.request;
        self.totals.now.finish(request.op(), request.length(), ok);
        let tag = Tag::from(request.tag());
        self.channel.recycle(done.request);
        answers.complete_with_status(tag, if ok { STATUS_OK } else { STATUS_IOERR });
    }

    fn refuse(&mut self, tag: Tag, status: u8, answers: &mut Answers) {
        self.totals.now.errors += 1;
        answers.complete_with_status(tag, status);
    }

    /// The block request for a frame, or the status that refuses it.
    fn make_request(
        &mut self,
        frame: &Frame<'_, '_>,
        (kind, sector): (RequestKind, u64),
        tag: Tag,
    ) -> std::result::Result<Box<Request>, u8> {
        let tag = tag.into();
        let offset = sector.checked_mul(SECTOR).ok_or(STATUS_IOERR);
        match kind {
            RequestKind::Read => {
                let request = self.channel.request(Op::Read, offset?, tag);
                Ok(with_memory(request, frame.data_in()))
            }
            RequestKind::Write => {
                let request = self.channel.request(Op::Write, offset?, tag);
                Ok(with_memory(request, frame.data_out()))
            }
            RequestKind::Flush => Ok(self.channel.request(Op::Flush, 0, tag)),
            RequestKind::Discard | RequestKind::WriteZeroes => {
                let range = frame.range(kind)?;
                let mut request = self.channel.request(range.op, range.offset, tag);
                request.set_length(range.length);
                Ok(request)
            }
            RequestKind::GetId | RequestKind::Unsupported => Err(STATUS_UNSUPP),
        }
    }
}

impl QueueModel for BlkQueue {
    fn serve(
        &mut self,
        chain: &Chain<'_>,
        answers: &mut Answers,
    ) -> std::result::Result<(), Broken> {
        let frame = Frame::new(chain)?;
        let tag = answers.keep(chain);
        let Some(header) = frame.header else {
            self.refuse(tag, STATUS_IOERR, answers);
            return Ok(());
        };
        if header.0 == RequestKind::GetId {
            distribute(&self.serial, frame.data_in());
            answers.complete_with_status(tag, STATUS_OK);
            return Ok(());
        }
        match self.make_request(&frame, header, tag) {
            Ok(request) => match self.channel.submit(request) {
                Submission::Queued => {}
                Submission::Done(done) => self.finish(done, answers),
            },
            Err(status) => self.refuse(tag, status, answers),
        }
        Ok(())
    }

    fn complete(&mut self, answers: &mut Answers) {
        let mut finished = std::mem::take(&mut self.finished);
        self.channel.reap(&mut finished);
        for done in finished.drain(..) {
            self.finish(done, answers);
        }
        self.finished = finished;
    }

    fn begin_iteration(&mut self) {
        self.channel.begin_batch();
    }

    fn is_spent(&self) -> bool {
        self.channel.is_spent()
    }

    fn end_batch(&mut self) {
        self.channel.flush_submissions();
    }

    fn before_publish(&mut self) {
        self.totals.show();
    }
}

fn with_memory<'m>(
    mut request: Box<Request>,
    slices: impl Iterator<Item = GuestSlice<'m>>,
) -> Box<Request> {
    for slice in slices {
        // SAFETY: the slice lies in the queue's memory, which outlives the request (invariant 1).
        unsafe { request.push_segment(slice.as_ptr(), slice.len()) };
    }
    request
}
