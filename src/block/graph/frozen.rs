//! Links of a chain that a job needs as they are.
//!
//! Used by jobs that copy within a chain of images. While a link is frozen, its parent keeps its child: `blockdev-reopen`, snapshots
//! and other jobs are refused. A job that writes into the chain makes the links loose as well. Then the images there neither read
//! consistently nor keep writers away: the job does that, with edges of its own to each of them.
//!
//! # Invariants
//! 1. The job's edges go together with what its links are excused from, under one lock. So nobody comes in between.
#![forbid(unsafe_code)]

use super::*;

#[cfg(test)]
mod tests;

/// A number that no other job's links have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::block) struct FreezeNumber(u64);

/// What an edge has to do with a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frozen {
    by: FreezeNumber,
    pub(super) is_loose: bool,
}

/// The nodes of a chain, as one job uses them. The links are free again when this is dropped.
#[derive(Debug)]
pub(in crate::block) struct FrozenLinks {
    number: FreezeNumber,
    users: Vec<Edge>,
}

impl FrozenLinks {
    /// Freezes links, given by their parents and children, and makes them loose if that `is_loose`.
    ///
    /// # Errors
    /// `Busy` if another job needs one of them.
    pub(in crate::block) fn freeze(
        links: &[(Arc<Node>, Arc<Node>)],
        is_loose: bool,
    ) -> Result<FrozenLinks> {
        let by = FreezeNumber(fresh_number());
        let is_link = |edge: &EdgeRecord| {
            let mut links = links.iter();
            links.any(|(parent, child)| {
                edge.parent.node == Some(parent.id()) && edge.child == child.id()
            })
        };
        let mut edges = lock();
        let mut changed = edges.clone();
        for edge in changed.iter_mut().filter(|edge| is_link(edge)) {
            if edge.frozen.is_some() {
                return Err(frozen_link("", edge));
            }
            edge.frozen = Some(Frozen { by, is_loose });
        }
        rewire::settle_all(&mut changed)?;
        let before = mem::replace(&mut *edges, changed);
        drop(edges);
        drop(before);
        Ok(FrozenLinks {
            number: by,
            users: Vec::new(),
        })
    }

    /// The job takes a node, until the links are free again.
    ///
    /// # Errors
    /// As for [`Node::attach`].
    pub(in crate::block) fn attach(
        &mut self,
        node: &Arc<Node>,
        parent: Parent,
        access: Access,
    ) -> Result<()> {
        let edge = node.attach(parent, access)?;
        let mut edges = lock();
        let record = edges.iter_mut().find(|record| record.number == edge.number);
        if let Some(record) = record {
            record.frozen = Some(Frozen {
                by: self.number,
                is_loose: false,
            });
        }
        drop(edges);
        self.users.push(edge);
        Ok(())
    }

    /// The job's edge to a node that it has taken.
    pub(in crate::block) fn edge_to(&self, node: &Node) -> Option<&Edge> {
        self.users.iter().find(|edge| edge.node().id() == node.id())
    }

    pub(in crate::block) fn number(&self) -> FreezeNumber {
        self.number
    }
}

impl Drop for FrozenLinks {
    fn drop(&mut self) {
        let mut edges = lock();
        let mut changed = edges.clone();
        thaw(&mut changed, self.number);
        let settled = rewire::settle_all(&mut changed);
        debug_assert!(settled.is_ok(), "a chain conflicts without its job");
        let before = mem::replace(&mut *edges, changed);
        drop(edges);
        // Outside of the lock: their callbacks are foreign code.
        drop(before);
    }
}

/// Frees the links of a job and gives up its edges.
pub(super) fn thaw(edges: &mut Vec<EdgeRecord>, number: FreezeNumber) {
    let is_of = |edge: &EdgeRecord| edge.frozen.is_some_and(|frozen| frozen.by == number);
    edges.retain(|edge| !is_of(edge) || edge.parent.node.is_some());
    for edge in edges.iter_mut().filter(|edge| is_of(edge)) {
        edge.frozen = None;
    }
}

/// What the edge of a node that is opened anew inherits from the one that it replaces.
pub(super) fn of_same_link(edges: &[EdgeRecord], new: &EdgeRecord) -> Option<Frozen> {
    let mut before = edges.iter().filter(|edge| edge.counts());
    before.find(|edge| is_same_link(edge, new))?.frozen
}

/// Checks that nodes that were opened anew keep the children of frozen links.
///
/// # Errors
/// `Busy` if one does not.
pub(super) fn check_kept(
    edges: &[EdgeRecord],
    is_renewed: impl Fn(&EdgeRecord) -> bool,
) -> Result<()> {
    let of_renewed = || edges.iter().filter(|edge| is_renewed(edge));
    let mut going = of_renewed().filter(|edge| edge.counts() && edge.frozen.is_some());
    let is_kept = |old: &EdgeRecord| {
        let mut new = of_renewed().filter(|edge| !edge.counts());
        new.any(|edge| is_same_link(old, edge))
    };
    match going.find(|edge| !is_kept(edge)) {
        Some(edge) => Err(frozen_link("frozen ", edge)),
        None => Ok(()),
    }
}

fn is_same_link(one: &EdgeRecord, other: &EdgeRecord) -> bool {
    let key = |edge: &EdgeRecord| (edge.parent.node, edge.parent.role, edge.child);
    key(one) == key(other)
}

fn frozen_link(frozen: &str, edge: &EdgeRecord) -> Error {
    let (role, parent, child) = (edge.parent.role, edge.parent.name(), &edge.child_name);
    let message = format!("Cannot change {frozen}'{role}' link from '{parent}' to '{child}'");
    Error::new(ErrorKind::Busy, message)
}
