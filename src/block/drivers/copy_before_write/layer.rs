//! The way of those who change a node: what they change is copied before.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use super::copier::{Copier, CopyError, Look};
use super::{CopySettings, OnCopyError};
use crate::block::request::{Finished, Op, Request};
use crate::block::way::task::queue::TaskQueue;
use crate::block::way::task::{Layer, Task};

/// One queue's part.
#[derive(Debug)]
pub(super) struct CopyLayer {
    pub(super) settings: CopySettings,
    pub(super) queue: Arc<TaskQueue>,
    pub(super) copier: Arc<Copier>,
}

/// A copy under way.
type Copying = Pin<Box<dyn Future<Output = Result<(), CopyError>> + Send>>;

impl Layer for CopyLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move {
            match request.op {
                Op::Read | Op::Flush | Op::BlockStatus => self.copier.file.submit(request).await,
                Op::Write | Op::Discard | Op::WriteZeroes { .. } => {
                    match self.copy_before(range(&request)).await {
                        Ok(()) => self.copier.file.submit(request).await,
                        Err(result) => Finished { request, result },
                    }
                }
                Op::Populate => self.populate(request).await,
            }
        })
    }

    fn takes_parts(&self) -> bool {
        self.copier.file.takes_parts()
    }
}

impl CopyLayer {
    /// Copies what is going to change. Fails with a negative errno.
    async fn copy_before(&self, range: Range<u64>) -> Result<(), i32> {
        if self.copier.state.next_needed(&range).is_none() {
            return Ok(());
        }
        let copier = Arc::clone(&self.copier);
        let copying: Copying = Box::pin(async move { copier.copy(&range, Look::AtData).await });
        let copied = match self.settings.timeout_ns {
            None => copying.await.map_err(|error| error.result),
            Some(timeout_ns) => self.within(timeout_ns, copying).await,
        };
        match (copied, self.settings.on_error) {
            (Err(result), OnCopyError::BreakSnapshot) => {
                self.copier.state.break_with(result);
                Ok(())
            }
            (copied, _) => copied,
        }
    }

    /// Waits for a copy, but not longer than that. Then the copy goes on by itself.
    async fn within(&self, timeout_ns: i64, mut copying: Copying) -> Result<(), i32> {
        let mut sleep = pin!(self.queue.sleep_ns(timeout_ns));
        let copied = poll_fn(|context| match copying.as_mut().poll(context) {
            Poll::Ready(copied) => Poll::Ready(Some(copied)),
            Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
        });
        match copied.await {
            Some(copied) => copied.map_err(|error| error.result),
            None => {
                self.queue.leave_behind(Box::pin(async move {
                    // Who waits for the same clusters copies them, if this fails.
                    let _ = copying.await;
                }));
                Err(-libc::ETIMEDOUT)
            }
        }
    }

    async fn populate(&self, mut request: Box<Request>) -> Finished {
        let copied = self.copier.copy(&range(&request), Look::AtStatus).await;
        let result = match copied {
            Ok(()) => 0,
            Err(error) => {
                request.failed_at_target = error.is_of_target;
                error.result
            }
        };
        Finished { request, result }
    }
}

fn range(request: &Request) -> Range<u64> {
    request.offset..request.offset.saturating_add(request.length)
}
