//! The work of one iteration of a disk queue.
//!
//! Used by [`super::queue`], under its lock:
//!
//! 1. finished requests get their status and go into the used ring;
//! 2. new chains are taken, submitted, and if that finished them treated likewise;
//! 3. the used index is published, one store for all, and the guest is called at most once.
//!
//! The batch is limited in chains and in bytes moved on this thread; what is left waits for the next iteration, in
//! which the neighbours on the same context have their turn first.
#![allow(unsafe_code)] // hands guest memory to the block layer

use std::sync::Arc;

use super::Shared;
use super::config::SECTOR;
use super::request::{Frame, Kind, STATUS_IOERR, STATUS_OK, STATUS_UNSUPP, distribute};
use super::stats::Totals;
use crate::block::{Channel, Finished, Op, Request, Submission};
use crate::virtio::memory::Span;
use crate::virtio::notify::Signal;
use crate::virtio::queue::{Broken, Chain, Popped, Virtqueue};

/// The most chains taken in one iteration.
const CHAINS_MAX: u32 = 256;

/// What the queue wants after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A kick or a completion.
    Wait,
    /// Another batch soon: there is more to do.
    Again,
    /// No more kicks: the guest broke the queue.
    Broken,
    /// Its end: it is to stop and nothing is in flight.
    Quiet,
}

/// A started queue.
#[derive(Debug)]
pub(super) struct Running {
    virtqueue: Virtqueue,
    channel: Option<Channel>,
    call: Option<Arc<dyn Signal>>,
    err: Option<Arc<dyn Signal>>,
    broken: Option<Broken>,
    /// Where the answers to requests in flight go, by tag.
    answers: Vec<Answer>,
    free: Vec<usize>,
    /// Reused from batch to batch.
    chain: Chain,
    finished: Vec<Finished>,
    wants_call: bool,
    /// The home looks at the ring by itself: kicks stay off.
    polling: bool,
}

/// Where the answer to a request goes.
#[derive(Clone, Copy, Debug)]
struct Answer {
    head: u16,
    status: Span,
    written: u32,
}

impl Running {
    pub(super) fn new(
        virtqueue: Virtqueue,
        call: Option<Arc<dyn Signal>>,
        err: Option<Arc<dyn Signal>>,
    ) -> Self {
        Running {
            virtqueue,
            channel: None,
            call,
            err,
            broken: None,
            answers: Vec::new(),
            free: Vec::new(),
            chain: Chain::default(),
            finished: Vec::new(),
            wants_call: false,
            polling: false,
        }
    }

    /// Takes the channel; an earlier one stays, as requests may be under way in it.
    pub(super) fn set_channel(&mut self, channel: Channel) {
        self.channel.get_or_insert(channel);
    }

    /// Replaces the call and signals the new one: a call to the old one may have been lost.
    pub(super) fn set_call(&mut self, call: Option<Arc<dyn Signal>>) {
        if let Some(call) = &call {
            call.signal();
        }
        self.call = call;
    }

    pub(super) fn next_avail(&self) -> u16 {
        self.virtqueue.next_avail()
    }

    pub(super) fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Whether a batch would take a chain.
    pub(super) fn has_work(&self) -> bool {
        self.broken.is_none()
            && self.virtqueue.in_flight() < self.virtqueue.size()
            && self.virtqueue.has_available()
    }

    /// Begins or ends the time in which the home looks at the ring without kicks. Afterwards it looks once more.
    pub(super) fn set_polling(&mut self, polling: bool) {
        self.polling = polling;
        if polling {
            self.virtqueue.disable_notifications();
        } else {
            self.virtqueue.enable_notifications();
        }
    }

    /// Stops serving for good.
    pub(super) fn break_down(&mut self, broken: Broken) {
        if self.broken.is_none() {
            self.broken = Some(broken);
            if let Some(err) = &self.err {
                err.signal();
            }
        }
    }

    /// One batch. `fresh` says that it begins an iteration's work of this queue and gets a new budget.
    pub(super) fn batch(
        &mut self,
        shared: &Shared,
        totals: &mut Totals,
        stopping: bool,
        fresh: bool,
    ) -> Next {
        let Some(mut channel) = self.channel.take() else {
            return match self.broken {
                _ if stopping => Next::Quiet,
                Some(_) => Next::Broken,
                None => Next::Wait,
            };
        };
        let was_broken = self.broken.is_some();
        if fresh {
            channel.begin_batch();
        }
        self.take_finished(&mut channel, totals);
        let mut more = false;
        if !stopping && !was_broken {
            let mut chain = std::mem::take(&mut self.chain);
            match self.take_chains(shared, &mut channel, totals, &mut chain) {
                Ok(left) => more = left,
                Err(broken) => self.break_down(broken),
            }
            self.chain = chain;
        }
        channel.flush_submissions();
        self.publish(totals);
        let quiet = channel.in_flight() == 0;
        self.channel = Some(channel);
        match self.broken {
            _ if stopping && quiet => Next::Quiet,
            Some(_) if !was_broken => Next::Broken,
            None if more => Next::Again,
            _ => Next::Wait,
        }
    }

    fn take_finished(&mut self, channel: &mut Channel, totals: &mut Totals) {
        let mut finished = std::mem::take(&mut self.finished);
        channel.reap(&mut finished);
        for done in finished.drain(..) {
            self.finish(channel, totals, done);
        }
        self.finished = finished;
    }

    /// Takes chains until there are none or the budget is spent; whether there may be more.
    fn take_chains(
        &mut self,
        shared: &Shared,
        channel: &mut Channel,
        totals: &mut Totals,
        chain: &mut Chain,
    ) -> Result<bool, Broken> {
        self.virtqueue.check_memory()?;
        let mut budget = CHAINS_MAX;
        loop {
            self.virtqueue.disable_notifications();
            loop {
                if budget == 0 || channel.is_spent() {
                    return Ok(true);
                }
                budget -= 1;
                match self.virtqueue.pop(chain)? {
                    Popped::Chain => self.serve(shared, channel, totals, chain)?,
                    Popped::Empty => break,
                    // The next completion goes on.
                    Popped::Full => return Ok(false),
                }
            }
            self.show_used(totals);
            let more = if self.polling {
                self.virtqueue.has_available()
            } else {
                self.virtqueue.enable_notifications()
            };
            if !more {
                return self.virtqueue.check_memory().map(|()| false);
            }
        }
    }

    /// Serves one chain.
    fn serve(
        &mut self,
        shared: &Shared,
        channel: &mut Channel,
        totals: &mut Totals,
        chain: &Chain,
    ) -> Result<(), Broken> {
        let frame = Frame::new(chain)?;
        let answer = Answer {
            head: chain.head(),
            status: frame.status,
            written: u32::try_from(frame.writable).unwrap_or(u32::MAX),
        };
        let Some((kind, sector)) = frame.header else {
            self.refuse(answer, totals, STATUS_IOERR);
            return Ok(());
        };
        let tag = self.keep(answer);
        match make_request(channel, &frame, kind, sector, tag) {
            Ok(request) => match channel.submit(request) {
                Submission::Queued => {}
                Submission::Done(done) => self.finish(channel, totals, done),
            },
            Err(status) => {
                self.free.push(tag);
                if kind == Kind::GetId {
                    distribute(&shared.serial, frame.data_in());
                    self.answer(answer, STATUS_OK);
                } else {
                    self.refuse(answer, totals, status);
                }
            }
        }
        Ok(())
    }

    /// Remembers where an answer goes; returns the tag.
    fn keep(&mut self, answer: Answer) -> usize {
        if let Some(tag) = self.free.pop() {
            self.answers[tag] = answer;
            return tag;
        }
        self.answers.push(answer);
        self.answers.len() - 1
    }

    /// Answers a request that the block layer has finished.
    fn finish(&mut self, channel: &mut Channel, totals: &mut Totals, done: Finished) {
        let tag = usize::try_from(done.request.tag()).unwrap_or(usize::MAX);
        let ok = done.result == 0;
        totals
            .now
            .finish(done.request.op(), done.request.length(), ok);
        channel.recycle(done.request);
        let Some(&answer) = self.answers.get(tag) else {
            return;
        };
        self.free.push(tag);
        self.answer(answer, if ok { STATUS_OK } else { STATUS_IOERR });
    }

    fn refuse(&mut self, answer: Answer, totals: &mut Totals, status: u8) {
        totals.now.errors += 1;
        self.answer(answer, status);
    }

    fn answer(&mut self, answer: Answer, status: u8) {
        answer.status.write(&[status]);
        self.virtqueue.push_used(answer.head, answer.written);
    }

    /// Shows the guest what is finished; whoever has heard that from the guest finds it counted.
    fn show_used(&mut self, totals: &Totals) {
        if self.virtqueue.has_finished() {
            totals.show();
            self.wants_call |= self.virtqueue.publish();
        }
    }

    /// Shows the guest what is finished and calls it if it wants to be called.
    fn publish(&mut self, totals: &mut Totals) {
        self.show_used(totals);
        if std::mem::take(&mut self.wants_call)
            && let Some(call) = &self.call
        {
            totals.now.calls += 1;
            totals.show();
            call.signal();
        }
    }
}

/// The block request for a frame, or the status that refuses it.
fn make_request(
    channel: &mut Channel,
    frame: &Frame<'_>,
    kind: Kind,
    sector: u64,
    tag: usize,
) -> Result<Box<Request>, u8> {
    let tag = tag as u64;
    let offset = sector.checked_mul(SECTOR).ok_or(STATUS_IOERR);
    match kind {
        Kind::Read => {
            let request = channel.request(Op::Read, offset?, tag);
            Ok(with_memory(request, frame.data_in()))
        }
        Kind::Write => {
            let request = channel.request(Op::Write, offset?, tag);
            Ok(with_memory(request, frame.data_out()))
        }
        Kind::Flush => Ok(channel.request(Op::Flush, 0, tag)),
        Kind::Discard | Kind::WriteZeroes => {
            let range = frame.range(kind)?;
            let mut request = channel.request(range.op, range.offset, tag);
            request.set_length(range.length);
            Ok(request)
        }
        Kind::GetId | Kind::Unsupported => Err(STATUS_UNSUPP),
    }
}

fn with_memory(mut request: Box<Request>, spans: impl Iterator<Item = Span>) -> Box<Request> {
    for span in spans {
        // SAFETY: the queue holds the snapshot that the span was translated with until it is quiet (invariant 1 of
        // `queue`), and this request is in flight until then.
        unsafe { request.push_segment(span.start, span.len) };
    }
    request
}
