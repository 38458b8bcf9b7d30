//! Copies what is dirty from the source of a mirror to its target, several ranges at once, and writes what it is handed.
//!
//! # Invariants
//! 1. No two flights touch the same granule. What comes later waits for what came earlier, and a copy reads the source after it has begun.
//!    So older data never gets over newer data in the target.
//! 2. A granule whose copy has failed is dirty again.
#![forbid(unsafe_code)]

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use gsource::Clock;

use super::state::{HandedWrite, MirrorContent, MirrorState, WriteAnswer};
use crate::Result;
use crate::block::backend::BlockBackend;
use crate::block::error_policy::{ErrorPolicy, OnError, REPEATED_AFTER_NS};
use crate::block::io_buffer::IoBuffer;
use crate::job::{JobIo, RunningJob};

/// How many requests are under way at most, besides those of guests that wait.
const FLIGHTS_MAX: usize = 16;

/// The most bytes copied by one request, if a granule is not larger.
const COPY_MAX: u64 = 1 << 20;

/// What a copier works with.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyOptions {
    /// The most bytes in flight.
    pub(super) memory: u64,
    /// Whether zeroes may become holes in the target.
    pub(super) unmap: bool,
    pub(super) on_source_error: OnError,
    pub(super) on_target_error: OnError,
}

/// See the head of this file.
pub(super) struct MirrorCopier {
    job: Arc<RunningJob>,
    state: Arc<MirrorState>,
    source: BlockBackend,
    target: BlockBackend,
    options: CopyOptions,
    /// How many bytes were copied so far.
    copied: u64,
    flights: Vec<MirrorFlight>,
    /// Handed over, and waiting for flights at the same place.
    waiting: Vec<HandedWrite>,
    /// Where the last copy ended.
    cursor: u64,
    /// No copy begins before it has ended.
    rest: Option<Rest>,
    failure: Option<crate::Error>,
    is_hurried: bool,
    /// The job is at its end: it has no pauses, no speed limit, and no second attempts.
    is_last: bool,
}

type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;
type GranuleCopy = Pin<Box<dyn Future<Output = std::result::Result<(), MirrorError>> + Send>>;
type MirrorError = (JobIo, io::Error);

/// A range on its way.
struct MirrorFlight {
    /// Whole granules.
    range: Range<u64>,
    copying: GranuleCopy,
    /// It makes a dirty range clean. Otherwise it is a write that was handed over.
    is_copy: bool,
    /// For a write that was handed over; dropped when the target has it.
    answer: Option<WriteAnswer>,
}

impl MirrorCopier {
    pub(super) fn new(
        job: &Arc<RunningJob>,
        state: &Arc<MirrorState>,
        (source, target): (BlockBackend, BlockBackend),
        options: CopyOptions,
    ) -> MirrorCopier {
        MirrorCopier {
            job: Arc::clone(job),
            state: Arc::clone(state),
            source,
            target,
            options,
            copied: 0,
            flights: Vec::new(),
            waiting: Vec::new(),
            cursor: 0,
            rest: None,
            failure: None,
            is_hurried: false,
            is_last: false,
        }
    }

    /// The same for the end of the job, when nobody can pause or resume it.
    pub(super) fn last(
        job: &Arc<RunningJob>,
        state: &Arc<MirrorState>,
        backends: (BlockBackend, BlockBackend),
        options: CopyOptions,
    ) -> MirrorCopier {
        let options = CopyOptions {
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            ..options
        };
        MirrorCopier {
            is_last: true,
            ..MirrorCopier::new(job, state, backends, options)
        }
    }

    /// How many bytes are to be copied, or are being copied. Writes that were handed over are not among them.
    pub(super) fn remaining(&self) -> u64 {
        self.state.dirty.count() + self.copies().map(len).sum::<u64>()
    }

    /// What is being copied.
    fn copies(&self) -> impl Iterator<Item = &Range<u64>> {
        let copies = self.flights.iter().filter(|flight| flight.is_copy);
        copies.map(|flight| &flight.range)
    }

    /// How many bytes were copied so far.
    pub(super) fn copied(&self) -> u64 {
        self.copied
    }

    /// Whether nothing is to be copied, and nothing is in flight.
    pub(super) fn is_clean(&self) -> bool {
        let is_idle = self.flights.is_empty() && self.waiting.is_empty();
        is_idle && self.state.dirty.next_dirty(0..u64::MAX).is_none()
    }

    /// Copies until `is_over`, whatever is in flight then, or until the job is cancelled and nothing is in flight.
    ///
    /// # Errors
    /// That of a request, if the job is to fail. Then nothing is in flight.
    pub(super) async fn copy_until(
        &mut self,
        mut is_over: impl FnMut(&MirrorCopier) -> bool,
    ) -> Result<()> {
        let copied = poll_fn(|context| {
            self.job.watch(context);
            loop {
                if !self.is_stopped() && is_over(self) {
                    return Poll::Ready(());
                }
                let has_moved = self.advance(context, false);
                if self.flights.is_empty() && self.is_stopped() {
                    return Poll::Ready(());
                }
                if !has_moved {
                    break;
                }
            }
            if self.rest.is_none() && self.flights.is_empty() {
                self.job.set_idle(true);
                // It is dirty already if a write was faster.
                let dirtied = pin!(self.state.dirty.dirtied());
                if dirtied.poll(context).is_ready() {
                    context.waker().wake_by_ref();
                }
            }
            Poll::Pending
        });
        copied.await;
        self.job.set_idle(false);
        self.tell_progress();
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Lets guests go on, for good, and waits until nothing is in flight. No copy begins.
    ///
    /// # Errors
    /// As for [`MirrorCopier::copy_until`].
    pub(super) async fn settle(&mut self) -> Result<()> {
        self.state.end_handing();
        let settled = poll_fn(|context| {
            self.job.watch(context);
            while self.advance(context, true) {}
            match self.flights.is_empty() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        settled.await;
        self.tell_progress();
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Whether nothing new begins, because the job is to end.
    fn is_stopped(&self) -> bool {
        self.failure.is_some() || self.job.is_cancelled()
    }

    /// Goes on with everything, as far as it goes at once. False if nothing has moved.
    fn advance(&mut self, context: &mut Context<'_>, is_ending: bool) -> bool {
        let mut has_moved = self.end_flights(context);
        let handed = self.state.take_handed(context);
        self.waiting.extend(handed);
        if self.is_stopped() {
            return self.let_go() || has_moved;
        }
        has_moved |= self.start_handed();
        if let Some(rest) = &mut self.rest {
            if rest.as_mut().poll(context).is_pending() {
                return has_moved;
            }
            self.rest = None;
            has_moved = true;
        }
        if is_ending {
            return has_moved;
        }
        if !self.is_last && self.job.is_pausing() {
            // With no copy in its hands. Guests go on.
            if self.copies().next().is_none() {
                let job = Arc::clone(&self.job);
                self.rest = Some(Box::pin(async move { job.pause_point().await }));
                return true;
            }
            return has_moved;
        }
        self.start_copy() || has_moved
    }

    /// The job is to end: guests do not wait for the target any more, and what is in flight hurries.
    fn let_go(&mut self) -> bool {
        self.state.end_handing();
        for write in self.waiting.drain(..) {
            self.state.dirty.set(write.range);
        }
        for flight in self.flights.iter_mut() {
            if let Some(answer) = flight.answer.take() {
                self.state.dirty.set(flight.range.clone());
                drop(answer);
            }
        }
        if self.job.is_cancelled() && !std::mem::replace(&mut self.is_hurried, true) {
            self.source.hurry();
            self.target.hurry();
        }
        false
    }

    /// Takes what has ended. True if something has.
    fn end_flights(&mut self, context: &mut Context<'_>) -> bool {
        let (mut index, mut has_moved) = (0, false);
        while let Some(next) = self.flights.get_mut(index) {
            match next.copying.as_mut().poll(context) {
                Poll::Pending => index += 1,
                Poll::Ready(outcome) => {
                    has_moved = true;
                    let flight = self.flights.swap_remove(index);
                    self.end_flight(flight, outcome);
                }
            }
        }
        if has_moved {
            self.tell_progress();
        }
        has_moved
    }

    fn end_flight(&mut self, flight: MirrorFlight, outcome: std::result::Result<(), MirrorError>) {
        match outcome {
            Ok(()) if !flight.is_copy => {}
            Ok(()) => {
                self.job.add_done(len(&flight.range));
                self.copied += len(&flight.range);
            }
            Err((io, error)) => {
                self.state.dirty.set(flight.range.clone());
                if !self.is_stopped() {
                    self.fail(io, error);
                }
            }
        }
        drop(flight);
    }

    fn fail(&mut self, io: JobIo, error: io::Error) {
        let on_error = match io {
            JobIo::Read => self.options.on_source_error,
            JobIo::Write => self.options.on_target_error,
        };
        match ErrorPolicy::new(on_error).apply(&self.job, io, error) {
            Ok(_) if self.job.is_pausing() => {}
            // It goes on, but not at once.
            Ok(_) => {
                let rest = REPEATED_AFTER_NS.cast_signed();
                let sleep = self.job.aio().sleep_ns(Clock::Realtime, rest);
                self.rest = Some(Box::pin(sleep));
            }
            Err(error) => self.failure = Some(error),
        }
    }

    /// Starts writes to the target for guests that wait. True if one has begun.
    fn start_handed(&mut self) -> bool {
        let mut blocked: Vec<Range<u64>> = Vec::new();
        let mut has_moved = false;
        for write in std::mem::take(&mut self.waiting) {
            let range = self.state.granules(&write.range);
            let is_blocked =
                self.is_in_flight(&range) || blocked.iter().any(|other| overlap(other, &range));
            if is_blocked {
                blocked.push(range);
                self.waiting.push(write);
                continue;
            }
            has_moved = true;
            if !self.is_dirty(&range) {
                self.start_write(range, write);
            }
            // What is dirty is copied later anyway.
        }
        has_moved
    }

    fn start_write(&mut self, range: Range<u64>, write: HandedWrite) {
        let HandedWrite {
            range: exact,
            content,
            answer,
        } = write;
        self.job.set_idle(false);
        self.flights.push(MirrorFlight {
            range,
            copying: Box::pin(write_content(self.target.clone(), exact, content)),
            is_copy: false,
            answer: Some(answer),
        });
    }

    /// Whether all of the range is dirty.
    fn is_dirty(&self, range: &Range<u64>) -> bool {
        let dirty = self.state.dirty.next_dirty(range.clone());
        let end = range.end.min(self.state.dirty.length());
        dirty.is_some_and(|dirty| dirty.start <= range.start && dirty.end >= end)
    }

    fn is_in_flight(&self, range: &Range<u64>) -> bool {
        let mut flights = self.flights.iter();
        flights.any(|flight| overlap(&flight.range, range))
    }

    /// Starts to copy the next dirty range, if there is room for it.
    fn start_copy(&mut self) -> bool {
        let Some(range) = self.next_range() else {
            return false;
        };
        let in_flight: u64 = self.copies().map(len).sum();
        let is_full = in_flight > 0 && in_flight + len(&range) > self.options.memory;
        if is_full || self.copies().count() >= FLIGHTS_MAX {
            return false;
        }
        let Some(range) = self.state.dirty.take_run(range.start, len(&range)) else {
            return false;
        };
        self.job.set_idle(false);
        self.cursor = range.end;
        if !self.is_last {
            let (job, count) = (Arc::clone(&self.job), len(&range));
            self.rest = Some(Box::pin(async move { job.keep_speed(count).await }));
        }
        let backends = (self.source.clone(), self.target.clone());
        self.flights.push(MirrorFlight {
            range: self.state.granules(&range),
            copying: Box::pin(copy(backends, range, self.options.unmap)),
            is_copy: true,
            answer: None,
        });
        true
    }

    /// The next dirty range that is not in flight: behind the last one, then from the start.
    fn next_range(&self) -> Option<Range<u64>> {
        let length = self.state.dirty.length();
        let behind = self.next_range_in(self.cursor..length);
        behind.or_else(|| self.next_range_in(0..self.cursor.min(length)))
    }

    fn next_range_in(&self, mut within: Range<u64>) -> Option<Range<u64>> {
        let unit = self.state.dirty.granularity();
        let most = COPY_MAX.min(self.options.memory / unit * unit).max(unit);
        while !within.is_empty() {
            let dirty = self.state.dirty.next_dirty(within.clone())?;
            let start = dirty.start / unit * unit;
            let mut range = start..dirty.end.min(start + most);
            let touched = self
                .flights
                .iter()
                .filter(|flight| overlap(&flight.range, &range));
            match touched.min_by_key(|flight| flight.range.start) {
                None => return Some(range),
                Some(first) if first.range.start > range.start => {
                    range.end = first.range.start;
                    return Some(range);
                }
                Some(first) => within.start = first.range.end,
            }
        }
        None
    }

    fn tell_progress(&self) {
        self.job.set_remaining(self.remaining());
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// Copies a range, whatever it is in the source.
async fn copy(
    (source, target): (BlockBackend, BlockBackend),
    range: Range<u64>,
    unmap: bool,
) -> std::result::Result<(), MirrorError> {
    let read = |error| (JobIo::Read, error);
    let write = |error| (JobIo::Write, error);
    let mut at = range.start;
    while at < range.end {
        let left = range.end - at;
        let status = source.block_status(at, left).await.map_err(read)?;
        let count = status.length.clamp(1, left);
        if status.is_zero {
            let zeroed = target.write_zeroes(at, count, unmap, false).await;
            zeroed.map_err(write)?;
        } else {
            let buffer = IoBuffer::zeroed(usize::try_from(count).unwrap_or(usize::MAX));
            let (has_read, buffer) = source.read(at, buffer).await;
            has_read.map_err(read)?;
            let (has_written, _) = target.write(at, buffer, false).await;
            has_written.map_err(write)?;
        }
        at += count;
    }
    Ok(())
}

/// Writes what a guest has written to the source.
async fn write_content(
    target: BlockBackend,
    range: Range<u64>,
    content: MirrorContent,
) -> std::result::Result<(), MirrorError> {
    let outcome = match content {
        MirrorContent::Data(data) => target.write(range.start, data, false).await.0,
        MirrorContent::Zeroes { unmap } => {
            let zeroed = target.write_zeroes(range.start, len(&range), unmap, false);
            zeroed.await
        }
    };
    outcome.map_err(|error| (JobIo::Write, error))
}

impl fmt::Debug for MirrorCopier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorCopier")
            .field("flights", &self.flights.len())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}
