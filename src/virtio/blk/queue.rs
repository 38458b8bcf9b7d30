//! A started queue of a disk: chains become requests to the node, and finished requests become answers.
//!
//! Used by the worker of the queue, under its lock. Each queue has a channel of its own to the node.
//!
//! # Invariants
//! 1. The chain of a request in flight, or parked, is kept, and its tag is the request's. So the guest's memory, which the worker keeps
//!    as long as a chain is kept, outlives the request.
#![allow(unsafe_code)] // hands guest memory to the block layer

use std::mem;
use std::sync::Arc;

use gsource::AioContext;

use super::BlkModel;
use super::config::SECTOR;
use super::failures::{self, FailedRequest, FailureCounts};
use super::request::{
    Frame, ID_LEN, RequestKind, STATUS_IOERR, STATUS_OK, STATUS_UNSUPP, distribute,
};
use super::stats::Totals;
use crate::block::{
    Channel, ChannelOwner, ErrorAction, ErrorRules, Finished, Op, Request, Submission,
};
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
    failures: Arc<FailureCounts>,
    error_rules: ErrorRules,
    drive: Arc<str>,
    /// Requests that failed and wait until the guest goes on. Their chains are kept.
    parked: Vec<Finished>,
    /// The queue is to stop: nothing is parked any more.
    is_ending: bool,
    /// The channel knows it weakly.
    owner: Arc<QueueOwner>,
}

/// What the guest gets.
#[derive(Clone, Copy, Debug)]
struct Answer {
    /// How many bytes of data the device has written.
    written: u32,
    status: u8,
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
    /// Opens a channel over the disk's edge for the queue.
    pub(super) fn open(
        model: &BlkModel,
        aio: &AioContext,
        totals: Totals,
        handle: QueueHandle,
    ) -> BlkQueue {
        let owner = Arc::new(QueueOwner(handle));
        let known: Arc<dyn ChannelOwner> = Arc::<QueueOwner>::clone(&owner);
        let mut channel = Channel::open(&model.edge, aio, Arc::downgrade(&known));
        channel.set_block_size(model.sizes.logical.into());
        BlkQueue {
            serial: model.serial,
            channel,
            totals,
            finished: Vec::new(),
            failures: Arc::clone(&model.failures),
            error_rules: model.error_rules,
            drive: Arc::clone(&model.drive),
            parked: Vec::new(),
            is_ending: false,
            owner,
        }
    }

    /// Counts a request that the block layer has finished; returns the answer for the guest, or `None` if the request is parked.
    fn finish(&mut self, done: Finished) -> Option<Answer> {
        let request = &done.request;
        let ok = done.result == 0;
        self.totals.now.finish(request.op(), request.length(), ok);
        let action = match ok {
            true => ErrorAction::Ignore,
            false => self.fail(request, -done.result),
        };
        if action == ErrorAction::Stop {
            self.parked.push(done);
            return None;
        }
        Some(self.answer(done.request, action == ErrorAction::Ignore))
    }

    /// The answer for the guest. The request is taken back.
    fn answer(&mut self, request: Box<Request>, ok: bool) -> Answer {
        let written = match (request.op(), ok) {
            (Op::Read, true) => request.length(),
            (Op::Read, false) => request.transferred(),
            _ => 0,
        };
        self.channel.recycle(request);
        Answer {
            written: u32::try_from(written).unwrap_or(u32::MAX),
            status: if ok { STATUS_OK } else { STATUS_IOERR },
        }
    }

    /// Carries out what the frame asks for. Returns the answer for the guest, or `None` if the request is on its way or parked,
    /// and finishes with the answer's next tag.
    fn carry_out(&mut self, frame: &Frame<'_, '_>, tag: Tag) -> Option<Answer> {
        let Some(header) = frame.header else {
            return Some(self.refuse(STATUS_IOERR));
        };
        if header.0 == RequestKind::GetId {
            return Some(Answer {
                written: distribute(&self.serial, frame.data_in()),
                status: STATUS_OK,
            });
        }
        match self.make_request(frame, header, tag) {
            Ok(request) => match self.channel.submit(request) {
                Submission::Queued => None,
                Submission::Done(done) => self.finish(done),
            },
            Err(status) => Some(self.refuse(status)),
        }
    }

    /// Counts a failed request, reports it to those who run the host, and says what is done about it. A request that asks for what
    /// the disk does not have is the guest's fault, so the guest gets an error.
    #[cold]
    fn fail(&self, request: &Request, errno: i32) -> ErrorAction {
        self.failures.count(errno);
        let is_guests = self.channel.refuses(request);
        let handle = &self.owner.0;
        let action = match self.error_rules.action(request.op(), errno) {
            _ if is_guests => ErrorAction::Report,
            ErrorAction::Stop if self.is_ending || !handle.may_park() => ErrorAction::Report,
            action => action,
        };
        handle.request_failed(|| {
            failures::describe(&FailedRequest {
                drive: &self.drive,
                node: self.channel.node(),
                request,
                errno,
                is_guests,
                action,
                may_stop: self.error_rules.may_stop(),
            })
        });
        action
    }

    /// Counts a request that makes no sense to the disk; returns the answer for the guest.
    #[cold]
    fn refuse(&mut self, status: u8) -> Answer {
        self.totals.now.errors += 1;
        self.failures.count(match status {
            STATUS_UNSUPP => libc::EOPNOTSUPP,
            _ => libc::EINVAL,
        });
        Answer { written: 0, status }
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
        match self.carry_out(&frame, answers.next_tag()) {
            Some(answer) => answers.finish_with_status(chain, answer.written, answer.status),
            None => {
                answers.keep(chain);
                answers.set_parked(self.parked.len());
            }
        }
        Ok(())
    }

    fn complete(&mut self, answers: &mut Answers) {
        let mut finished = std::mem::take(&mut self.finished);
        self.channel.reap(&mut finished);
        for done in finished.drain(..) {
            let tag = Tag::from(done.request.tag());
            if let Some(answer) = self.finish(done) {
                answers.complete_with_status(tag, answer.written, answer.status);
            }
        }
        answers.set_parked(self.parked.len());
        self.finished = finished;
    }

    fn repeat_parked(&mut self, answers: &mut Answers) {
        for failed in mem::take(&mut self.parked) {
            let tag = Tag::from(failed.request.tag());
            if let Submission::Done(done) = self.channel.repeat(failed.request)
                && let Some(answer) = self.finish(done)
            {
                answers.complete_with_status(tag, answer.written, answer.status);
            }
        }
        answers.set_parked(self.parked.len());
    }

    /// The driver gets an error: it still waits for an answer if the queue is stopped by its hypervisor, and does not look at it
    /// after a reset.
    fn give_up_parked(&mut self, answers: &mut Answers) {
        self.is_ending = true;
        for failed in mem::take(&mut self.parked) {
            let tag = Tag::from(failed.request.tag());
            let answer = self.answer(failed.request, false);
            answers.complete_with_status(tag, answer.written, answer.status);
        }
        answers.set_parked(0);
    }

    fn begin_iteration(&mut self) {
        self.channel.begin_batch();
    }

    fn hurry(&mut self, is_hurried: bool) {
        self.channel.set_hurried(is_hurried);
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
