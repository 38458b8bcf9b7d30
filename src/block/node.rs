//! Block nodes and their registry.
//!
//! Used by the command line and the monitor, which open nodes from options, and by devices, which find them by name,
//! [`attach`](Node::attach) to them and open channels. A `-drive` id and a `-blockdev` node-name are one name space
//! here. A node that is described within its parent's options has no name that could be found.
//!
//! # Threads
//! Everything may be called from any thread. Of an open node only the length changes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::driver::{BlockDriver, Driver, NewNode};
use super::gate::Gate;
use super::graph::{self, Edge, NodeId, Parent};
use super::permission::{Access, Permissions};
use super::way::Way;
use crate::{Error, ErrorKind, Result};

#[cfg(test)]
mod tests;

static REGISTRY: Mutex<BTreeMap<String, Arc<Node>>> = Mutex::new(BTreeMap::new());

/// A block device.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    name: String,
    driver: Box<dyn BlockDriver>,
    block_size: u64,
    read_only: bool,
    length: AtomicU64,
}

impl Node {
    /// A node that is not registered yet, made of the driver that `open` opens.
    pub(super) fn named(
        name: String,
        open: impl FnOnce(&NewNode<'_>) -> Result<Box<dyn BlockDriver>>,
    ) -> Result<Arc<Node>> {
        Node::build(NodeId::fresh(), name, open)
    }

    /// A node without a name that could be found, described by the options of its parent.
    pub(super) fn unnamed(
        open: impl FnOnce(&NewNode<'_>) -> Result<Box<dyn BlockDriver>>,
    ) -> Result<Arc<Node>> {
        let id = NodeId::fresh();
        Node::build(id, format!("#block{id}"), open)
    }

    fn build(
        id: NodeId,
        name: String,
        open: impl FnOnce(&NewNode<'_>) -> Result<Box<dyn BlockDriver>>,
    ) -> Result<Arc<Node>> {
        let driver = open(&NewNode { id, name: &name })?;
        let node = Arc::new(Node {
            id,
            name,
            block_size: driver.block_size(),
            read_only: driver.is_read_only(),
            length: AtomicU64::new(driver.length()?),
            driver,
        });
        for child in node.driver.children() {
            let this = Arc::downgrade(&node);
            child.on_resize(move || child_resized(&this));
        }
        Ok(node)
    }

    /// Lets the node be found by its name.
    ///
    /// # Errors
    /// `duplicate` if the name is taken.
    pub(super) fn register(self: Arc<Node>, duplicate: fn(&str) -> Error) -> Result<Arc<Node>> {
        match registry().entry(self.name.clone()) {
            Entry::Occupied(_) => return Err(duplicate(&self.name)),
            Entry::Vacant(free) => free.insert(Arc::clone(&self)),
        };
        Ok(self)
    }

    /// Refuses a taken name before anything is opened under it.
    pub(super) fn check_unused(name: &str, duplicate: fn(&str) -> Error) -> Result<()> {
        if registry().contains_key(name) {
            return Err(duplicate(name));
        }
        Ok(())
    }

    /// Finds a node by its name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn find(name: &str) -> Result<Arc<Node>> {
        let message = || format!("Cannot find device='{name}' nor node-name='{name}'");
        registry()
            .get(name)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, message()))
    }

    /// Takes a node out of the registry. The image closes with the last user.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Busy` if it has a parent.
    pub fn remove(name: &str) -> Result<()> {
        let unknown = || {
            let message = format!("Failed to find node with node-name='{name}'");
            Error::new(ErrorKind::NotFound, message)
        };
        let node = registry().get(name).cloned().ok_or_else(unknown)?;
        if let Some(parent) = node.parents().first() {
            let message = format!("Node '{name}' is in use by {parent}");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let mut nodes = registry();
        let removed = match nodes.get(name) {
            Some(found) if Arc::ptr_eq(found, &node) => nodes.remove(name),
            // Another thread has removed it, and the name may be a new node's.
            _ => None,
        };
        drop(nodes);
        // Dropped without the lock: it may be the last reference, which closes the image.
        removed.map(drop).ok_or_else(unknown)
    }

    /// Makes `parent` a user of this node, until the edge is dropped.
    ///
    /// # Errors
    /// `Busy` if another parent does not share what this one needs, or needs what this one does not share, here or in a
    /// node below; `InvalidArgument` if the parent wants to change a read-only node.
    pub fn attach(self: &Arc<Node>, parent: Parent, access: Access) -> Result<Edge> {
        graph::attach(self, parent, access)
    }

    /// The users of the node.
    pub fn parents(&self) -> Vec<Parent> {
        graph::parents(self.id)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its driver.
    pub fn driver(&self) -> Driver {
        self.driver.driver()
    }

    /// Its size in bytes, a multiple of the block size.
    #[inline]
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Makes the node longer, with zeroes, or shorter, and calls all parents that want to know; see [`Edge::on_resize`].
    ///
    /// # Errors
    /// `Busy` if a parent does not let others resize the node, `InvalidArgument` if it is read-only or `length` is not
    /// a multiple of the block size; `Os` or `Unsupported` if the host cannot do it.
    pub fn set_length(&self, length: u64) -> Result<()> {
        let (name, unit) = (&self.name, self.block_size);
        if self.read_only {
            let message = format!("Node '{name}' is read-only and cannot be resized");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if !length.is_multiple_of(unit) {
            let message = format!("Node '{name}': length {length} is not a multiple of {unit}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        graph::check_shared(self, Permissions::RESIZE)?;
        self.driver.set_length(length)?;
        self.update_length()
    }

    /// Looks whether the file below has another length, and calls the parents as above if it has.
    ///
    /// # Errors
    /// `Os` if the host does not say how long it is.
    pub fn refresh_length(&self) -> Result<()> {
        for child in self.driver.children() {
            child.node().refresh_length()?;
        }
        self.update_length()
    }

    fn update_length(&self) -> Result<()> {
        let length = self.driver.length()?;
        if self.length.swap(length, Ordering::Relaxed) != length {
            graph::tell_resized(self.id);
        }
        Ok(())
    }

    /// The unit of requests: 512, or what direct I/O on the device demands.
    #[inline]
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// Whether writing is refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The image's path, if it has one.
    pub fn filename(&self) -> Option<&str> {
        self.driver.filename()
    }

    /// How often the image was made durable so far.
    pub fn data_syncs(&self) -> u64 {
        self.driver.data_syncs()
    }

    pub(super) fn id(&self) -> NodeId {
        self.id
    }

    pub(super) fn open_way(&self, gate: &Arc<Gate>) -> Way {
        self.driver.open_way(gate)
    }
}

/// Makes a node's length follow that of its child. On an error the node keeps its length.
fn child_resized(node: &Weak<Node>) {
    if let Some(node) = node.upgrade() {
        let _ = node.update_length();
    }
}

/// The map is consistent after every single operation on it.
fn registry() -> MutexGuard<'static, BTreeMap<String, Arc<Node>>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}
