//! Many edges change at once, or none.
//!
//! Used by a change of the graph ([`crate::block::change`]), whose nodes are drained. Nodes that were opened anew bring new edges
//! beside their old ones; parents outside of the graph, such as devices, get another node. The permissions of the whole graph are
//! checked as they are after the change.
#![forbid(unsafe_code)]

use super::frozen::FreezeNumber;
use super::*;

/// What changes.
#[derive(Debug, Default)]
pub(in crate::block) struct Rewiring {
    /// Nodes that were opened anew: their new edges take the place of the old ones.
    pub(in crate::block) renewed: Vec<Arc<Node>>,
    /// The devices and exports of the first node use the second one instead. Jobs stay.
    pub(in crate::block) moved: Vec<(Arc<Node>, Arc<Node>)>,
    /// The numbers of edges whose parents need nothing any more and share everything.
    pub(in crate::block) released: Vec<u64>,
    /// The job's use of a chain that ends with the change.
    pub(in crate::block) thawed: Option<FreezeNumber>,
}

impl Rewiring {
    /// Makes the change.
    ///
    /// # Errors
    /// `Busy` if permissions contradict each other after it; `InvalidArgument` if a node that cannot be written has a parent that
    /// writes, or a frozen link would change. Then nothing changes.
    pub(in crate::block) fn make(&self) -> Result<()> {
        let mut edges = lock();
        let mut changed = edges.clone();
        if let Some(number) = self.thawed {
            frozen::thaw(&mut changed, number);
        }
        self.renew(&mut changed)?;
        let targets = self.move_parents(&mut changed);
        let released = |edge: &&mut EdgeRecord| self.released.contains(&edge.number);
        changed
            .iter_mut()
            .filter(released)
            .for_each(|edge| edge.own = Access::NEUTRAL);
        settle_all(&mut changed)?;
        self.check_writers(&changed)?;
        let before = mem::replace(&mut *edges, changed);
        drop(edges);
        drop(before);
        for (target, node) in targets {
            // The node before goes outside of the lock.
            drop(target.set(node));
        }
        Ok(())
    }

    /// Tells the parents of nodes that are longer or shorter than before.
    pub(in crate::block) fn tell_lengths(&self) {
        for node in &self.renewed {
            // The driver has been asked for its length before.
            let _ = node.update_length();
        }
        for (_, to) in self
            .moved
            .iter()
            .filter(|(from, to)| from.length() != to.length())
        {
            tell_resized(to.id());
        }
    }

    fn is_renewed(&self, edge: &EdgeRecord) -> bool {
        let parent = edge.parent.node;
        parent.is_some_and(|parent| self.renewed.iter().any(|node| node.id() == parent))
    }

    fn renew(&self, edges: &mut Vec<EdgeRecord>) -> Result<()> {
        frozen::check_kept(edges, |edge| self.is_renewed(edge))?;
        edges.retain(|edge| !edge.counts() || !self.is_renewed(edge));
        for edge in edges.iter_mut().filter(|edge| self.is_renewed(edge)) {
            edge.parent.is_new = false;
        }
        Ok(())
    }

    /// Returns the targets to be set.
    fn move_parents(&self, edges: &mut [EdgeRecord]) -> Vec<(Arc<EdgeTarget>, Arc<Node>)> {
        let mut targets = Vec::new();
        let is_user = |edge: &EdgeRecord| edge.parent.node.is_none() && edge.parent.kind != "job";
        for edge in edges.iter_mut().filter(|edge| is_user(edge)) {
            let to = self.moved.iter().find(|(from, _)| from.id() == edge.child);
            if let Some((_, to)) = to {
                edge.child = to.id();
                edge.child_name = to.name().into();
                let target = edge.target.upgrade();
                targets.extend(target.map(|target| (target, Arc::clone(to))));
            }
        }
        targets
    }

    fn check_writers(&self, edges: &[EdgeRecord]) -> Result<()> {
        let moved = self.moved.iter().map(|(_, to)| to);
        for node in self.renewed.iter().chain(moved) {
            let writes = |edge: &EdgeRecord| edge.child == node.id() && edge.total.changes();
            if node.is_read_only() && edges.iter().any(writes) {
                let message = "Block node is read-only";
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        Ok(())
    }
}

impl Access {
    /// Whether what the node has changes.
    fn changes(self) -> bool {
        let changes = Permissions::WRITE.and(Permissions::RESIZE);
        !self.needs.common(changes).is_empty()
    }
}

/// Computes what all parents do and share, those above before those below, and checks them against each other.
pub(super) fn settle_all(edges: &mut [EdgeRecord]) -> Result<()> {
    for edge in edges.iter_mut() {
        edge.total = edge.own;
    }
    // A parent that is a node passes on the sum of its own parents. A chain is no longer than there are edges.
    for _ in 0..edges.len() {
        let before: Vec<Access> = edges.iter().map(|edge| edge.total).collect();
        for index in 0..edges.len() {
            edges[index].total = edges[index].total_among(edges);
        }
        if edges.iter().map(|edge| edge.total).eq(before) {
            break;
        }
    }
    for (index, edge) in edges.iter().enumerate().filter(|(_, edge)| edge.counts()) {
        for other in &edges[..index] {
            if other.child == edge.child && other.counts() {
                check_pair(edge, other)?;
                check_pair(other, edge)?;
            }
        }
    }
    Ok(())
}
