//! Block nodes and their registry.
//!
//! Used by the command line and the monitor, which open nodes from options, and by devices, which find them by name,
//! [`attach`](Node::attach) to them and open channels. A `-drive` id and a `-blockdev` node-name are one name space
//! here. A node that is described within its parent's options is found by name, too, but goes with its parent. If the options
//! do not name it, its name is generated and begins with `#block`.
//!
//! # Threads
//! Everything may be called from any thread. Of an open node the length changes (`length`), and all of its state when it is opened anew
//! (`renewal`).
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::common::{CommonOptions, DetectZeroes};
use super::dirty_bitmap::DirtyBitmap;
use super::dirty_bitmap::list::NodeBitmaps;
use super::drain::Crossing;
use super::driver::{BlockDriver, Driver, NewNode};
use super::gate::Gate;
use super::graph::{self, Edge, NodeId, Parent};
use super::image_info::ImageInfo;
use super::job_use::check_unused;
use super::on_error::ErrorRules;
use super::partial_write::PartialWrites;
use super::permission::{Access, Permissions};
use super::resize_pass::ResizePass;
use super::tap::{TapSlot, WriteTap};
use super::watch::{self, WriteThreshold};
use super::way::Way;
use crate::object::Dict;
use crate::{Error, ErrorKind, Result};

mod bitmaps;
mod closing;
mod length;
mod names;
pub(super) mod renewal;
mod resizing;
#[cfg(test)]
mod tests;

/// A block device.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    name: String,
    state: Mutex<Arc<NodeState>>,
    block_size: AtomicU64,
    /// Those that it was opened with, without what it got from its parent. Empty if it was opened because an image names it.
    options: Mutex<Dict>,
    /// What a `-drive` says of errors. Its name is the id of the drive then.
    drive: OnceLock<ErrorRules>,
    length: AtomicU64,
    /// Held while the length is read and stored, so that the one that was read last counts.
    length_update: Mutex<()>,
    partial_writes: PartialWrites,
    crossing: Crossing,
    write_threshold: Arc<WriteThreshold>,
    bitmaps: NodeBitmaps,
    tap: TapSlot,
}

/// What becomes another one when the node is opened anew.
#[derive(Debug)]
pub(super) struct NodeState {
    driver: Box<dyn BlockDriver>,
    common: CommonOptions,
}

impl Node {
    /// A node that is not registered yet, made of the driver that `open` opens.
    pub(super) fn named(
        name: String,
        common: CommonOptions,
        open: impl FnOnce(&NewNode<'_>) -> Result<Box<dyn BlockDriver>>,
    ) -> Result<Arc<Node>> {
        Node::build(NodeId::fresh(), name, &common, open)
    }

    /// A node that the options of its parent describe. If they do not name it, it has a generated name.
    pub(super) fn child(
        name: Option<String>,
        common: CommonOptions,
        open: impl FnOnce(&NewNode<'_>) -> Result<Box<dyn BlockDriver>>,
    ) -> Result<Arc<Node>> {
        let id = NodeId::fresh();
        let name = name.unwrap_or_else(|| format!("#block{id:03}"));
        Node::build(id, name, &common, open)
    }

    fn build(
        id: NodeId,
        name: String,
        common: &CommonOptions,
        open: impl FnOnce(&NewNode<'_>) -> Result<Box<dyn BlockDriver>>,
    ) -> Result<Arc<Node>> {
        let driver = open(&NewNode {
            id,
            name: &name,
            common,
            old: None,
        })?;
        let node = Arc::new(Node {
            id,
            name,
            block_size: AtomicU64::new(driver.block_size()),
            options: Mutex::default(),
            drive: OnceLock::new(),
            length: AtomicU64::new(driver.length()?),
            length_update: Mutex::default(),
            partial_writes: PartialWrites::default(),
            crossing: Crossing::default(),
            write_threshold: Arc::default(),
            bitmaps: NodeBitmaps::default(),
            tap: TapSlot::default(),
            state: Mutex::new(Arc::new(NodeState {
                driver,
                common: common.clone(),
            })),
        });
        node.adopt_bitmaps();
        node.follow_children();
        Ok(node)
    }

    /// Takes the bitmaps that the image has kept.
    fn adopt_bitmaps(&self) {
        for bitmap in self.state().driver.take_bitmaps() {
            bitmap.bits().resize(self.length());
            self.bitmaps.add(&bitmap);
        }
    }

    fn follow_children(self: &Arc<Node>) {
        for child in self.state().driver.children() {
            let this = Arc::downgrade(self);
            child.on_resize(move || child_resized(&this));
        }
    }

    pub(super) fn state(&self) -> Arc<NodeState> {
        Arc::clone(&lock(&self.state))
    }

    /// Lets the node be found by its name for as long as it has users.
    ///
    /// # Errors
    /// `duplicate` if the name is taken.
    pub(super) fn enter(self: &Arc<Node>, duplicate: fn(&str) -> Error) -> Result<()> {
        names::enter(self, false, duplicate)
    }

    /// Lets the node be found by its name until it is removed.
    ///
    /// # Errors
    /// `duplicate` if the name is taken.
    pub(super) fn enter_owned(self: &Arc<Node>, duplicate: fn(&str) -> Error) -> Result<()> {
        names::enter(self, true, duplicate)
    }

    /// Refuses a taken name before anything is opened under it.
    pub(super) fn check_unused(name: &str, duplicate: fn(&str) -> Error) -> Result<()> {
        match names::find(name) {
            Some(_) => Err(duplicate(name)),
            None => Ok(()),
        }
    }

    /// Finds a node by its name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn find(name: &str) -> Result<Arc<Node>> {
        let message = || format!("Cannot find device='{name}' nor node-name='{name}'");
        names::find(name).ok_or_else(|| Error::new(ErrorKind::NotFound, message()))
    }

    /// The same for an argument that names nodes and no drives, with QEMU's text for that.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn find_by_node_name(name: &str) -> Result<Arc<Node>> {
        let message = || format!("Cannot find device='' nor node-name='{name}'");
        names::find(name).ok_or_else(|| Error::new(ErrorKind::NotFound, message()))
    }

    /// All nodes that can be found by name, in the order of their making.
    pub fn list() -> Vec<Arc<Node>> {
        names::list()
    }

    /// Takes a node out of the registry. The image closes with the last user.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Busy` if it has a parent or belongs to the node above it.
    pub fn remove(name: &str) -> Result<()> {
        let unknown = || {
            let message = format!("Failed to find node with node-name='{name}'");
            Error::new(ErrorKind::NotFound, message)
        };
        let node = names::find(name).ok_or_else(unknown)?;
        let busy = |message| Err(Error::new(ErrorKind::Busy, message));
        let parents = node.parents();
        let is_root = |parent: &&Parent| parent.node_id().is_none() && parent.role() == "root";
        if let Some(user) = parents.iter().find(is_root) {
            return busy(format!("Node {name} is in use by {user}"));
        }
        check_unused(&node)?;
        if !names::is_owned(&node) {
            return busy(format!("Node {name} is not owned by the monitor"));
        }
        if let Some(parent) = parents.first() {
            return busy(format!("Block device {name} is in use by {parent}"));
        }
        // Another thread may have removed it.
        names::leave(node.id.number())
            .then_some(())
            .ok_or_else(unknown)
    }

    /// Gives up the name of a node that is not kept. Queues may know the node for a moment longer.
    pub(super) fn withdraw(&self) {
        names::forget(self.id.number());
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
        self.state().driver.driver()
    }

    /// Its size in bytes, a multiple of the block size and of 512.
    #[inline]
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// The unit of requests: 1 for files in the page cache, otherwise 512, unless the driver demands more.
    #[inline]
    pub fn block_size(&self) -> u64 {
        self.block_size.load(Ordering::Relaxed)
    }

    /// The unit in which its image has the data, if it has one.
    pub(super) fn cluster_size(&self) -> Option<u64> {
        self.state().driver.cluster_size()
    }

    /// Whether its name is the id of a `-drive` and not a node-name.
    pub fn is_drive(&self) -> bool {
        self.drive.get().is_some()
    }

    /// What a `-drive` wants done about failed requests of its guest; the defaults for other nodes.
    pub fn error_rules(&self) -> ErrorRules {
        self.drive.get().copied().unwrap_or_default()
    }

    pub(super) fn set_drive(&self, rules: ErrorRules) {
        // Set once, before it is found by name.
        let _ = self.drive.set(rules);
    }

    /// Whether writing is refused.
    pub fn is_read_only(&self) -> bool {
        self.state().driver.is_read_only()
    }

    /// The image's path, if it has one.
    pub fn filename(&self) -> Option<String> {
        self.state().driver.filename()
    }

    /// How many bytes of storage the image takes, if it has one.
    pub fn allocated(&self) -> Option<u64> {
        self.state().driver.allocated()
    }

    /// What the driver knows of its image.
    #[doc(hidden)] // for the monitor's queries
    pub fn image_info(&self) -> ImageInfo {
        self.state().driver.image_info()
    }

    /// The node whose requests it filters, if it is a filter.
    #[doc(hidden)] // for the monitor's queries
    pub fn filtered(&self) -> Option<Arc<Node>> {
        let state = self.state();
        let child = state.driver.children().first()?;
        state.driver.is_filter().then(|| child.node())
    }

    /// The node below that has the data.
    #[doc(hidden)] // for the monitor's queries
    pub fn data_child(&self) -> Option<Arc<Node>> {
        let state = self.state();
        let children = state.driver.children();
        let data = children.iter().find(|edge| edge.role() == "data-file");
        data.or(children.first()).map(Edge::node)
    }

    /// The image behind this one.
    #[doc(hidden)] // for the monitor's queries
    pub fn backing(&self) -> Option<Arc<Node>> {
        self.child_of("backing")
    }

    /// Whether the options ask for I/O past the page cache.
    pub fn is_direct(&self) -> bool {
        self.state().common.direct.unwrap_or(false)
    }

    /// Whether discards do nothing.
    pub(super) fn ignores_discard(&self) -> bool {
        let state = self.state();
        let mut below = state.driver.children().iter();
        state.common.discard == Some(false) || below.any(|child| child.node().ignores_discard())
    }

    /// How often the image was made durable so far.
    pub fn data_syncs(&self) -> u64 {
        self.state().driver.data_syncs()
    }

    /// A number that no other node has.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The writes of parts of its blocks.
    pub(super) fn partial_writes(&self) -> &PartialWrites {
        &self.partial_writes
    }

    /// The node that carries out writes of parts of this one's blocks: the node itself, or one below.
    pub(super) fn of_partial_writes(self: &Arc<Node>) -> Arc<Node> {
        let mut node = Arc::clone(self);
        loop {
            let state = node.state();
            let Some(child) = state.driver.passes_parts_to() else {
                return node;
            };
            node = child.node();
        }
    }

    /// Opens the way of a channel to the data; none while the node is drained.
    pub(super) fn open_way(&self, gate: &Arc<Gate>) -> Way {
        match self.crossing.enter(gate) {
            true => {
                let state = self.state();
                let detect_zeroes = state.common.detect_zeroes;
                let unit = self.block_size();
                let way = self.tap.open_way(gate, |tapped| {
                    let open = |same: &Arc<Gate>| state.driver.open_way(same);
                    let watched = |same: &Arc<Gate>| {
                        watch::open_way(detect_zeroes, &self.write_threshold, same, open)
                    };
                    self.partial_writes.open_way(unit, tapped, watched)
                });
                self.bitmaps.mark(way)
            }
            false => Way::Absent,
        }
    }

    /// Lets `tap` look at what is written, or nothing. The node is drained.
    pub(super) fn set_tap(&self, tap: Option<Arc<dyn WriteTap>>) {
        self.tap.set(tap);
    }

    /// Whether the data can be read as they were when the node was opened.
    pub(super) fn keeps_old_data(&self) -> bool {
        self.state().driver.keeps_old_data()
    }

    /// Opens the way of a channel to the data as they were; none while the node is drained.
    pub(super) fn open_old_way(&self, gate: &Arc<Gate>) -> Way {
        match self.crossing.enter(gate) {
            true => self.state().driver.open_old_way(gate),
            false => Way::Absent,
        }
    }

    /// Calls `exceeded` when a write first goes beyond `offset`, with the number of bytes beyond and the offset. 0 stands for never. The
    /// node is drained, so that queues look at writes from now on.
    pub fn set_write_threshold(
        &self,
        offset: u64,
        exceeded: impl Fn(u64, u64) + Send + Sync + 'static,
    ) {
        self.write_threshold.set(offset, Arc::new(exceeded));
    }

    /// Its write threshold.
    #[doc(hidden)] // for the monitor
    pub fn write_threshold_offset(&self) -> u64 {
        self.write_threshold.get()
    }

    #[cfg(test)]
    pub(super) fn write_threshold(&self) -> &WriteThreshold {
        &self.write_threshold
    }

    /// What it does with writes that are all zeroes.
    pub fn detect_zeroes(&self) -> DetectZeroes {
        self.state().common.detect_zeroes
    }

    /// The channels that pass through the node.
    pub(super) fn crossing(&self) -> &Crossing {
        &self.crossing
    }
}

/// What is behind it is consistent after every single operation.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a node's length follow that of its child. On an error the node keeps its length.
fn child_resized(node: &Weak<Node>) {
    if let Some(node) = node.upgrade() {
        let _ = node.update_length();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.store_bitmaps();
        names::forget(self.id.number());
    }
}
