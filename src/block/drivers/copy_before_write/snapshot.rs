//! The way of those who read a node's data as they were.
//!
//! Copied clusters are read from the target. Others are read from the node with their range locked, so that nothing is copied, or
//! written over them, meanwhile. A discard says that nobody wants to read a range any more: it is not copied, or the copy goes.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::copier::{Copier, status, transfer};
use super::state::DataPlace;
use crate::block::io_buffer::IoBuffer;
use crate::block::range_lock::RangeTicket;
use crate::block::request::{Finished, Op, Request};
use crate::block::status::BlockStatus;
use crate::block::way::below::Below;
use crate::block::way::task::{Layer, Task};

/// The most bytes read at once from one of several places.
const READ_MAX: u64 = 1 << 20;

/// One queue's part.
#[derive(Debug)]
pub(super) struct SnapshotLayer(pub(super) Arc<Copier>);

/// Where the beginning of a range is read.
struct SnapshotSource<'a> {
    below: &'a Below,
    end: u64,
    is_copied: bool,
    /// Held until it was read.
    ticket: Option<RangeTicket>,
}

impl Layer for SnapshotLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move {
            match request.op {
                Op::Read => self.read(request).await,
                Op::BlockStatus => self.block_status(request).await,
                Op::Discard => self.discard(request).await,
                Op::Flush => Finished { request, result: 0 },
                Op::Write | Op::WriteZeroes { .. } | Op::Populate => Finished {
                    request,
                    result: -libc::ENOTSUP,
                },
            }
        })
    }
}

impl SnapshotLayer {
    async fn read(&self, mut request: Box<Request>) -> Finished {
        let range = range(&request);
        match self.find(&range).await {
            Ok(found) if found.end == range.end => {
                let finished = found.below.submit(request).await;
                return match finished.result == 0 && self.is_lost_at(&found) {
                    true => Finished {
                        result: -libc::EACCES,
                        ..finished
                    },
                    false => finished,
                };
            }
            Ok(_) => {}
            Err(result) => return Finished { request, result },
        }
        let mut at = range.start;
        while at < range.end {
            match self.read_next(&(at..range.end)).await {
                Ok(data) => {
                    let skip = usize::try_from(at - range.start).unwrap_or(usize::MAX);
                    request.scatter_from(skip, &data);
                    at += data.len() as u64;
                }
                Err(result) => return Finished { request, result },
            }
        }
        request.advance(request.length);
        Finished { request, result: 0 }
    }

    /// Reads the beginning of a range.
    async fn read_next(&self, range: &Range<u64>) -> Result<IoBuffer, i32> {
        let found = self.find(range).await?;
        let count = (found.end - range.start).min(READ_MAX);
        let memory = IoBuffer::zeroed(usize::try_from(count).map_err(|_| -libc::EINVAL)?);
        let data = transfer(found.below, Op::Read, range.start, memory).await?;
        match self.is_lost_at(&found) {
            true => Err(-libc::EACCES),
            false => Ok(data),
        }
    }

    async fn block_status(&self, mut request: Box<Request>) -> Finished {
        let result = match self.status(&range(&request)).await {
            Ok(status) => {
                request.set_status(status);
                0
            }
            Err(result) => result,
        };
        Finished { request, result }
    }

    async fn status(&self, range: &Range<u64>) -> Result<BlockStatus, i32> {
        let found = self.find(range).await?;
        let known = status(found.below, &(range.start..found.end)).await?;
        match found.is_copied {
            // What the target has of it is not behind the target.
            true => Ok(BlockStatus { depth: 1, ..known }),
            false => Ok(known),
        }
    }

    async fn discard(&self, request: Box<Request>) -> Finished {
        let state = &self.0.state;
        let range = state.inside(&range(&request));
        if range.is_empty() {
            return Finished { request, result: 0 };
        }
        let mut ticket = state.ranges().ticket(range.clone());
        (&mut ticket).await;
        state.hide(&range);
        let target = &self.0.target;
        let mut discard = target.request(Op::Discard, range.start);
        discard.set_length(range.end - range.start);
        let finished = target.submit(discard).await;
        target.recycle(finished.request);
        Finished {
            request,
            result: finished.result,
        }
    }

    /// Finds the beginning of a range.
    async fn find(&self, range: &Range<u64>) -> Result<SnapshotSource<'_>, i32> {
        let state = &self.0.state;
        let (mut place, mut end) = state.place(range);
        let mut held = None;
        if place == DataPlace::File {
            let mut ticket = state
                .ranges()
                .shared_ticket(state.around(&(range.start..end)));
            (&mut ticket).await;
            // It may have been copied meanwhile.
            (place, end) = state.place(&(range.start..end));
            held = Some(ticket);
        }
        let is_copied = place == DataPlace::Target;
        match place {
            DataPlace::Nowhere => Err(-libc::EACCES),
            DataPlace::Target | DataPlace::File => Ok(SnapshotSource {
                below: if is_copied {
                    &self.0.target
                } else {
                    &self.0.file
                },
                end,
                is_copied,
                ticket: held.filter(|_| !is_copied),
            }),
        }
    }

    /// Whether the node may have been written while it was read: after a copy that has failed, writes do not wait any more.
    fn is_lost_at(&self, found: &SnapshotSource<'_>) -> bool {
        found.ticket.is_some() && self.0.state.is_lost()
    }
}

fn range(request: &Request) -> Range<u64> {
    request.offset..request.offset.saturating_add(request.length)
}
