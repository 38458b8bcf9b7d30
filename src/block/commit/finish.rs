//! The end of a commit: the images above get the base as their backing file, or everything is as before.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::CommitWork;
use crate::Result;
use crate::block::chain::{overlays, users};
use crate::block::change::GraphChange;
use crate::block::drain::{DrainedNodes, drain};
use crate::block::drivers::qcow2::{BackingName, rewrite_backing};
use crate::block::graph::frozen::FrozenLinks;
use crate::block::node::Node;
use crate::job::RunningJob;

/// What is done when the nodes are drained.
#[derive(Debug)]
pub(super) struct ChainEnd {
    /// Images that are only read, for the time in which their headers are written.
    opening: GraphChange,
    closing: GraphChange,
    /// The images whose headers name the top.
    overlays: Vec<Arc<Node>>,
    last: GraphChange,
}

/// How the images above `top` get `base` instead.
///
/// # Errors
/// The options of a node that is to change are not known.
pub(super) fn end_of_chain(top: &Arc<Node>, base: &Arc<Node>) -> Result<ChainEnd> {
    let mut end = ChainEnd {
        opening: GraphChange::new(),
        closing: GraphChange::new(),
        overlays: overlays(top),
        last: GraphChange::new(),
    };
    for overlay in &end.overlays {
        if overlay.is_read_only() {
            end.opening.set_read_only(overlay, false)?;
            for change in [&mut end.closing, &mut end.last] {
                change.set_read_only(overlay, true)?;
            }
        }
        // An image that is over a filter is opened anew as well, because its header changes.
        let behind = overlay.child_of("backing");
        end.last.set_child(overlay, "backing", behind.as_ref())?;
    }
    for (user, role) in users(top) {
        end.last.set_child(&user, role, Some(base))?;
    }
    Ok(end)
}

impl ChainEnd {
    /// Makes the changes. If one fails, images that were only read are so again.
    fn make(self, name: &BackingName, drained: &DrainedNodes) -> Result<()> {
        self.opening.make(drained)?;
        let mut overlays = self.overlays.iter();
        // A name that is there without the rest does no harm: the base has all data.
        let named = overlays.try_for_each(|overlay| rewrite_backing(overlay, Some(name)));
        let made = named.and_then(|()| self.last.make(drained));
        made.or_else(|error| {
            self.closing.make(drained)?;
            Err(error)
        })
    }
}

impl CommitWork {
    /// The images above have the base as their backing file from now on.
    pub(super) async fn finish(&self, job: &RunningJob) -> Result<()> {
        let mut end = end_of_chain(&self.plan.top, &self.plan.base)?;
        if self.plan.was_read_only {
            end.last.set_read_only(&self.plan.base, true)?;
        }
        let links = self.links().as_ref().map(FrozenLinks::number);
        links.into_iter().for_each(|links| end.last.thaw(links));
        let name = self.name.clone();
        let drained = drain(&end.last.nodes()).await;
        if !job.begin_final() {
            return Ok(());
        }
        let made = job.aio().run_in_pool(move || end.make(&name, &drained));
        made.await??;
        drop(self.take_links());
        Ok(())
    }

    /// The chain stays as it was.
    pub(super) async fn give_up(&self, job: &RunningJob) -> Result<()> {
        let Some(links) = self.take_links() else {
            return Ok(());
        };
        if !self.plan.was_read_only {
            return Ok(());
        }
        let mut change = GraphChange::new();
        change.set_read_only(&self.plan.base, true)?;
        change.thaw(links.number());
        let drained = drain(&change.nodes()).await;
        let made = job.aio().run_in_pool(move || change.make(&drained));
        let made = made.await;
        drop(links);
        made?
    }

    fn take_links(&self) -> Option<FrozenLinks> {
        self.links().take()
    }
}
