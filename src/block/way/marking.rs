//! The way to a node that has dirty bitmaps: what has changed the node is marked there when it comes back.
//!
//! Used by a channel whose node had bitmaps when it opened its way. Requests go on to the node's own way, and no request waits here.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Way;
use crate::block::budget::Budget;
use crate::block::dirty_bitmap::DirtyBitmap;
use crate::block::request::{Finished, Op, Request, Submission};

/// A queue's way to a node with bitmaps.
#[derive(Debug)]
pub(in crate::block) struct MarkingWay {
    way: Way,
    bitmaps: Vec<Arc<DirtyBitmap>>,
}

impl MarkingWay {
    pub(in crate::block) fn new(way: Way, bitmaps: Vec<Arc<DirtyBitmap>>) -> MarkingWay {
        MarkingWay { way, bitmaps }
    }

    pub(super) fn submit(&mut self, request: Box<Request>, budget: &mut Budget) -> Submission {
        let submission = self.way.submit(request, budget);
        if let Submission::Done(done) = &submission {
            self.mark(done);
        }
        submission
    }

    pub(super) fn takes_parts(&self) -> bool {
        self.way.takes_parts()
    }

    pub(super) fn flush_submissions(&mut self) {
        self.way.flush_submissions();
    }

    pub(super) fn reap(&mut self, budget: &mut Budget, finished: &mut Vec<Finished>) {
        let before = finished.len();
        self.way.reap(budget, finished);
        finished[before..].iter().for_each(|done| self.mark(done));
    }

    /// A request has ended. What it has changed is marked, and what a failed one may have changed.
    fn mark(&self, done: &Finished) {
        let request = &done.request;
        match request.op {
            Op::Write | Op::WriteZeroes { .. } | Op::Discard => {}
            Op::Read | Op::Flush | Op::BlockStatus | Op::Populate => return,
        }
        let end = request.offset.saturating_add(request.length);
        for bitmap in &self.bitmaps {
            let end = match done.result {
                0 => end,
                // It did not make the node longer.
                _ => end.min(bitmap.bits().length()),
            };
            bitmap.record(request.offset..end);
        }
    }
}
