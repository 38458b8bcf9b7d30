//! What is committed into which base.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::Result;
use crate::block::chain::nodes_below;
use crate::block::drain::drain;
use crate::block::node::Node;
use crate::block::on_error::OnError;
use crate::block::permission::{Access, Permissions};
use crate::job::RunningJob;

/// What is committed.
#[derive(Debug)]
pub(in crate::block) struct CommitPlan {
    pub(in crate::block) top: Arc<Node>,
    pub(in crate::block) base: Arc<Node>,
    /// How many images go: those above the base.
    pub(in crate::block) depth: u32,
    pub(in crate::block) on_error: OnError,
    /// The base is only read otherwise.
    pub(in crate::block) was_read_only: bool,
}

impl CommitPlan {
    /// Nobody else writes to the base.
    pub(in crate::block) fn writer(&self) -> Access {
        let read = Permissions::CONSISTENT_READ;
        let write = read.and(Permissions::WRITE);
        Access {
            needs: match self.has_to_grow() {
                true => write.and(Permissions::RESIZE),
                false => write,
            },
            shares: read.and(Permissions::WRITE_UNCHANGED),
        }
    }

    fn has_to_grow(&self) -> bool {
        self.base.length() < self.top.length()
    }

    /// Makes the base as long as the top, if it is shorter.
    pub(in crate::block) async fn grow(&self, job: &RunningJob) -> Result<()> {
        if !self.has_to_grow() {
            return Ok(());
        }
        let base = Arc::clone(&self.base);
        let length = self.top.length().next_multiple_of(base.block_size());
        let mut nodes = nodes_below(&base);
        nodes.push(Arc::clone(&base));
        let drained = drain(&nodes).await;
        let grown = job.aio().run_in_pool(move || {
            let grown = base.set_length_for_parent(length);
            drop(drained);
            grown
        });
        grown.await?
    }
}
