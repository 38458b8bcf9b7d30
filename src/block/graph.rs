//! The edges of the block graph: which parent uses which node, with which permissions.
//!
//! Used by devices and by nodes on top of other nodes, which take a node with [`Node::attach`]. An edge says what its
//! parent needs of the node and what it lets others do. An edge that contradicts another one is refused, with an error
//! that names both parents and the permission. What the parents of a node need and share holds for the nodes below it
//! as well, unless the node uses these in a way of its own: a disk over a raw node over a file keeps other writers away from the file.
//!
//! # Threads
//! All edges are in one table behind one lock, which is taken to change the graph and never for I/O. No foreign code runs
//! under it, and no node is dropped under it, because a node's end removes its edges.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::node::Node;
use super::permission::{Access, Permissions};
use crate::{Error, ErrorKind, Result};

use frozen::Frozen;

pub(super) mod frozen;
pub(super) mod rewire;
#[cfg(test)]
mod tests;

static EDGES: Mutex<Vec<EdgeRecord>> = Mutex::new(Vec::new());

/// A number that no other node has or had. A name may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(u64);

impl NodeId {
    pub(super) fn fresh() -> NodeId {
        NodeId(fresh_number())
    }

    /// The number.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn fresh_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What the parents of a node mean for its use of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// They use the child through the node.
    Through,
    /// Nothing: the node uses the child in a way of its own.
    Separate,
    /// As `Through`. Without parents, the node does not use the child at all.
    WhenUsed,
    /// Nothing, but if they all let others write the node, the node lets others write the child, too.
    Backing,
}

/// A user of a node: a device, an export, a job, or a node above.
#[derive(Clone, Debug)]
pub struct Parent {
    kind: &'static str,
    name: String,
    /// What the child is for the parent: `root` for a parent outside of the graph.
    role: &'static str,
    /// Set if the parent is a node.
    node: Option<NodeId>,
    /// How much of its own parents' use of it reaches the child.
    reach: Reach,
    /// The node is being opened anew: its edges count with the whole change.
    is_new: bool,
}

impl Parent {
    /// A parent outside of the graph, for example the `device` with the name `disk0`.
    pub fn new(kind: &'static str, name: impl Into<String>) -> Parent {
        Parent {
            kind,
            name: name.into(),
            role: "root",
            node: None,
            reach: Reach::Through,
            is_new: false,
        }
    }

    /// The same parent, for which the child is `role`.
    #[must_use]
    pub(super) fn with_role(self, role: &'static str) -> Parent {
        Parent { role, ..self }
    }

    /// A node on top of another one, which is its child `role`.
    pub(super) fn node(id: NodeId, name: &str, role: &'static str) -> Parent {
        Parent {
            kind: "node",
            name: name.to_owned(),
            role,
            node: Some(id),
            reach: Reach::Through,
            is_new: false,
        }
    }

    /// The same parent, which uses the child in a way of its own.
    #[must_use]
    pub(super) fn separate(self) -> Parent {
        Parent {
            reach: Reach::Separate,
            ..self
        }
    }

    /// The same parent, which uses the child only while it is used itself.
    #[must_use]
    pub(super) fn when_used(self) -> Parent {
        Parent {
            reach: Reach::WhenUsed,
            ..self
        }
    }

    /// The same parent, whose child is behind it. Others may change the child as long as all parents of the node accept that the
    /// node changes.
    #[must_use]
    pub(super) fn in_front(self) -> Parent {
        Parent {
            reach: Reach::Backing,
            ..self
        }
    }

    /// The same parent, whose edges count when the change of the graph is made.
    #[must_use]
    pub(super) fn renewed(self) -> Parent {
        Parent {
            is_new: true,
            ..self
        }
    }

    /// `device`, `export`, `job` or `node`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The parent's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the child is for the parent.
    pub fn role(&self) -> &'static str {
        self.role
    }

    /// The parent, if it is a node.
    pub fn node_id(&self) -> Option<NodeId> {
        self.node
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.kind, self.name)
    }
}

/// Runs when the length of a node has changed; see [`Edge::on_resize`].
type ResizeCallback = Arc<dyn Fn() + Send + Sync>;

/// An edge, as the graph knows it.
#[derive(Clone)]
struct EdgeRecord {
    number: u64,
    parent: Parent,
    child: NodeId,
    child_name: Arc<str>,
    /// What the parent does itself.
    own: Access,
    /// What the parent and those who use the child through it do.
    total: Access,
    on_resize: Option<ResizeCallback>,
    target: Weak<EdgeTarget>,
    /// The job that needs the edge as it is.
    frozen: Option<Frozen>,
}

impl EdgeRecord {
    /// Whether the edge is a part of the graph already.
    fn counts(&self) -> bool {
        !self.parent.is_new
    }

    /// What the parent and those above it do, if `edges` are all others.
    fn total_among(&self, edges: &[EdgeRecord]) -> Access {
        let Some(node) = self.parent.node else {
            return self.own;
        };
        if self.frozen.is_some_and(|frozen| frozen.is_loose) {
            return Access::NEUTRAL;
        }
        let above = edges
            .iter()
            .filter(|above| above.child == node && above.counts());
        let mut above = above.map(|above| above.total).peekable();
        let is_used = above.peek().is_some();
        let sum = above.fold(Access::NEUTRAL, Access::and);
        match self.parent.reach {
            Reach::Through => self.own.and(sum),
            Reach::Separate => self.own,
            Reach::WhenUsed if is_used => self.own.and(sum),
            Reach::WhenUsed => Access::NEUTRAL,
            Reach::Backing if sum.shares.contains(Permissions::WRITE) => Access {
                shares: Permissions::ALL,
                ..self.own
            },
            Reach::Backing => self.own,
        }
    }
}

/// A parent's use of a node. It ends when this is dropped.
#[derive(Debug)]
pub struct Edge {
    number: u64,
    role: &'static str,
    target: Arc<EdgeTarget>,
    access: Access,
}

/// The node to which an edge leads. It changes while the node is drained.
#[derive(Debug)]
pub(super) struct EdgeTarget(Mutex<Arc<Node>>);

impl EdgeTarget {
    pub(super) fn new(node: &Arc<Node>) -> Arc<EdgeTarget> {
        Arc::new(EdgeTarget(Mutex::new(Arc::clone(node))))
    }

    pub(super) fn node(&self) -> Arc<Node> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the node before.
    fn set(&self, node: Arc<Node>) -> Arc<Node> {
        let mut target = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mem::replace(&mut *target, node)
    }
}

impl Edge {
    /// The node in use, which may be another one after a drain.
    pub fn node(&self) -> Arc<Node> {
        self.target.node()
    }

    /// What the node is for the parent.
    pub(super) fn role(&self) -> &'static str {
        self.role
    }

    /// A number that no other edge has.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn target(&self) -> &Arc<EdgeTarget> {
        &self.target
    }

    /// What the parent may do.
    pub(super) fn permissions(&self) -> Permissions {
        self.access.needs
    }

    /// Makes the child longer or shorter, as a node does whose own length follows.
    ///
    /// # Errors
    /// As for [`Node::set_length`], whose caller has passed the node.
    pub(super) fn set_length(&self, length: u64) -> Result<()> {
        let node = self.node();
        check_shared(&node, Permissions::RESIZE, Some(self))?;
        node.set_length_for_parent(length)
    }

    /// Calls `changed` each time the length of the node has changed. It replaces an earlier callback. The thread that
    /// changed the length or noticed the change makes the call, with no lock held.
    pub fn on_resize(&self, changed: impl Fn() + Send + Sync + 'static) {
        let mut edges = lock();
        let record = edges.iter_mut().find(|edge| edge.number == self.number);
        let old = record.and_then(|edge| edge.on_resize.replace(Arc::new(changed)));
        drop(edges);
        drop(old);
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let mut edges = lock();
        let index = edges.iter().position(|edge| edge.number == self.number);
        let gone = index.map(|index| edges.remove(index));
        if let Some(gone) = &gone {
            // No permission was added, so there is no new conflict.
            let settled = settle(&mut edges, gone.child);
            debug_assert!(settled.is_ok(), "permissions that were given back conflict");
        }
        drop(edges);
        // Outside of the lock: its callback is foreign code.
        drop(gone);
    }
}

/// Makes `parent` a user of `node`.
///
/// # Errors
/// `Busy` if that contradicts what another parent needs or shares; `InvalidArgument` if the node is read-only and the
/// parent wants to write.
pub(super) fn attach(node: &Arc<Node>, parent: Parent, access: Access) -> Result<Edge> {
    let changes = Permissions::WRITE.and(Permissions::RESIZE);
    if node.is_read_only() && !access.needs.common(changes).is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "Block node is read-only",
        ));
    }
    let target = EdgeTarget::new(node);
    let record = EdgeRecord {
        number: fresh_number(),
        parent,
        child: node.id(),
        child_name: node.name().into(),
        own: access,
        total: access,
        on_resize: None,
        target: Arc::downgrade(&target),
        frozen: None,
    };
    let (number, role) = (record.number, record.parent.role);
    enter(record)?;
    Ok(Edge {
        number,
        role,
        target,
        access,
    })
}

/// Adds an edge, if the others allow it.
fn enter(mut record: EdgeRecord) -> Result<()> {
    let (counts, child) = (record.counts(), record.child);
    let mut edges = lock();
    if !counts {
        record.frozen = frozen::of_same_link(&edges, &record);
    }
    let mut changed = edges.clone();
    record.total = record.total_among(&changed);
    changed.push(record);
    if counts {
        settle(&mut changed, child)?;
    }
    let before = mem::replace(&mut *edges, changed);
    drop(edges);
    drop(before);
    Ok(())
}

/// An edge, as `x-debug-query-block-graph` shows it.
#[derive(Clone, Debug)]
pub struct EdgeInfo {
    /// A number that no other edge and no node has.
    pub number: u64,
    /// Who uses the node.
    pub parent: Parent,
    /// The node.
    pub child: NodeId,
    /// What the parent and those above it do, and what they let others do.
    pub access: Access,
}

/// All edges, in the order of their making.
pub fn edges() -> Vec<EdgeInfo> {
    let edges = lock();
    let info = |edge: &EdgeRecord| EdgeInfo {
        number: edge.number,
        parent: edge.parent.clone(),
        child: edge.child,
        access: edge.total,
    };
    edges
        .iter()
        .filter(|edge| edge.counts())
        .map(info)
        .collect()
}

/// Who uses the node.
pub(super) fn parents(node: NodeId) -> Vec<Parent> {
    let edges = edges_to(node).into_iter();
    edges.map(|edge| edge.parent).collect()
}

/// Checks that all parents of the node, but that of `except`, let others do `permission`.
///
/// # Errors
/// `Busy` if one does not.
pub(super) fn check_shared(
    node: &Node,
    permission: Permissions,
    except: Option<&Edge>,
) -> Result<()> {
    let edges = edges_to(node.id());
    let except = except.map(|edge| edge.number);
    let refuses =
        |edge: &&EdgeRecord| !edge.total.shares.contains(permission) && Some(edge.number) != except;
    match edges.iter().find(refuses) {
        Some(edge) => Err(conflict(
            permission,
            "an unnamed block device",
            "root",
            edge,
        )),
        None => Ok(()),
    }
}

/// Tells all parents of the node that its length has changed.
pub(super) fn tell_resized(node: NodeId) {
    let callbacks = edges_to(node).into_iter();
    for callback in callbacks.filter_map(|edge| edge.on_resize) {
        callback();
    }
}

/// A copy of the edges to the node.
fn edges_to(node: NodeId) -> Vec<EdgeRecord> {
    let edges = lock();
    let to_node = |edge: &&EdgeRecord| edge.child == node && edge.counts();
    edges.iter().filter(to_node).cloned().collect()
}

/// Checks the edges to `node` against each other, and carries their sum on to the edges below it.
fn settle(edges: &mut [EdgeRecord], node: NodeId) -> Result<()> {
    for (index, edge) in edges.iter().enumerate() {
        if edge.child != node || !edge.counts() {
            continue;
        }
        let others = edges[..index].iter();
        let others = others.filter(|other| other.child == node && other.counts());
        for other in others {
            check_pair(edge, other)?;
            check_pair(other, edge)?;
        }
    }
    let below = |edge: &EdgeRecord| {
        edge.parent.node == Some(node) && edge.parent.reach != Reach::Separate && edge.counts()
    };
    for index in 0..edges.len() {
        if below(&edges[index]) {
            edges[index].total = edges[index].total_among(edges);
            let child = edges[index].child;
            settle(edges, child)?;
        }
    }
    Ok(())
}

fn check_pair(edge: &EdgeRecord, other: &EdgeRecord) -> Result<()> {
    let unshared = edge.total.unshared_by(other.total);
    if unshared.is_empty() {
        return Ok(());
    }
    if edge.parent.kind == "device" && other.parent.kind == "device" {
        let name = &edge.child_name;
        let message = format!("Drive '{name}' is already in use by another block device");
        return Err(Error::new(ErrorKind::Busy, message));
    }
    let needs = edge.parent.to_string();
    Err(conflict(unshared, &needs, edge.parent.role, other))
}

/// The error that `needs`, whose child `role` the node is, needs what `other` does not share.
fn conflict(permission: Permissions, needs: &str, role: &str, other: &EdgeRecord) -> Error {
    let (name, other_role) = (&other.child_name, other.parent.role);
    let other = &other.parent;
    let message = format!(
        "Permission conflict on node '{name}': permissions '{permission}' are both required by {needs} (uses node \
         '{name}' as '{role}' child) and unshared by {other} (uses node '{name}' as '{other_role}' child)."
    );
    Error::new(ErrorKind::Busy, message)
}

/// The table is consistent after every single operation on it.
fn lock() -> MutexGuard<'static, Vec<EdgeRecord>> {
    EDGES.lock().unwrap_or_else(PoisonError::into_inner)
}
