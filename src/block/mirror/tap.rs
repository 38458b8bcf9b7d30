//! A mirror's look at the writes to its source: they are marked dirty when they are done, or handed to the job, which writes them to the
//! target before they are answered.
//!
//! A guest can change its memory while a write is under way. So what is handed over is a copy, and the source gets the same copy.
//! Writes to the same place are handed over in the order in which the source gets them. A discard is always marked, because nobody
//! knows what is there after it.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::state::{HandoverEnd, MirrorContent, MirrorState, WriteHandover};
use crate::block::gate::Gate;
use crate::block::io_buffer::IoBuffer;
use crate::block::request::{Finished, Op, Request};
use crate::block::tap::WriteTap;
use crate::block::way::Way;
use crate::block::way::below::Below;
use crate::block::way::task::queue::TaskQueue;
use crate::block::way::task::{Layer, NewLayer, Task};

/// See the head of this file.
#[derive(Debug)]
pub(super) struct MirrorTap(pub(super) Arc<MirrorState>);

/// One queue's part.
#[derive(Debug)]
struct TapLayer {
    state: Arc<MirrorState>,
    queue: Arc<TaskQueue>,
    below: Arc<Below>,
    /// What its requests wait for.
    waits: Mutex<Vec<Weak<WriteHandover>>>,
}

impl WriteTap for MirrorTap {
    fn layer(&self, new: &mut NewLayer, open: &mut dyn FnMut(&Arc<Gate>) -> Way) -> Arc<dyn Layer> {
        Arc::new(TapLayer {
            state: Arc::clone(&self.0),
            queue: Arc::clone(new.queue()),
            below: new.open(open),
            waits: Mutex::default(),
        })
    }
}

impl Layer for TapLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move {
            match request.op {
                Op::Read | Op::Flush | Op::BlockStatus | Op::Populate => {
                    self.below.submit(request).await
                }
                Op::Write | Op::WriteZeroes { .. } if self.state.is_handing() => {
                    self.hand_over(request).await
                }
                Op::Write | Op::WriteZeroes { .. } | Op::Discard => {
                    let range = range(&request);
                    let finished = self.below.submit(request).await;
                    // Also after an error: nobody knows what is there.
                    self.state.dirty.set(range);
                    finished
                }
            }
        })
    }

    fn hurry(&self) {
        let waits = std::mem::take(&mut *self.waits.lock().unwrap_or_else(PoisonError::into_inner));
        let waits = waits.iter().filter_map(Weak::upgrade);
        waits.for_each(|handover| handover.release());
    }
}

impl TapLayer {
    async fn hand_over(&self, request: Box<Request>) -> Finished {
        let range = range(&request);
        let mut ticket = self.state.order.ticket(range.clone());
        (&mut ticket).await;
        let (finished, content) = self.write(request).await;
        if finished.result != 0 || self.queue.is_hurried() {
            self.state.dirty.set(range);
            return finished;
        }
        let Some(handover) = self.state.hand(range.clone(), content) else {
            return finished;
        };
        self.remember(&handover);
        if handover.ended().await == HandoverEnd::Released {
            // It is copied again.
            self.state.dirty.set(range);
        }
        finished
    }

    /// Writes to the source. Returns what is there then.
    async fn write(&self, mut request: Box<Request>) -> (Finished, MirrorContent) {
        if let Op::WriteZeroes { unmap } = request.op {
            let finished = self.below.submit(request).await;
            return (finished, MirrorContent::Zeroes { unmap });
        }
        let len = usize::try_from(request.length).unwrap_or(usize::MAX);
        let mut buffer = IoBuffer::zeroed(len);
        request.copy_out(&mut buffer);
        let mut own = self.below.request(Op::Write, request.offset);
        own.own(buffer);
        let mut written = self.below.submit(own).await;
        let copy = written.request.take_buffer();
        self.below.recycle(written.request);
        if written.result == 0 {
            request.advance(request.length);
        }
        let finished = Finished {
            request,
            result: written.result,
        };
        let copy = copy.unwrap_or_else(|| unreachable!("a request keeps its buffer"));
        (finished, MirrorContent::Data(copy))
    }

    fn remember(&self, handover: &Arc<WriteHandover>) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.retain(|known| known.strong_count() > 0);
        waits.push(Arc::downgrade(handover));
    }
}

fn range(request: &Request) -> Range<u64> {
    request.offset..request.offset.saturating_add(request.length)
}
