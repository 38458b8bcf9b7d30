//! What a block driver is.
//!
//! A node has one [`BlockDriver`]. It is asked rarely: when the node is opened, when its length may have changed, and when
//! a queue opens its [`Way`] to the data. The way is what requests go through. A driver that changes nothing on the way
//! to its child, as `raw` does, hands out its child's way, so a raw image over a file costs a request no more than the
//! file alone. The drivers themselves are in [`super::drivers`].
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use super::common::CommonOptions;
use super::dirty_bitmap::DirtyBitmap;
use super::gate::Gate;
use super::graph::{Edge, NodeId, Parent};
use super::image::Image;
use super::image_info::ImageInfo;
use super::node::Node;
use super::way::Way;
use crate::Result;

/// What kind of node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `raw`: a raw image over another node.
    Raw,
    /// `qcow2`: an image with clusters.
    Qcow2,
    /// `file`: a file.
    File,
    /// `host_device`: a block device of the host.
    HostDevice,
    /// `null-co`: a disk without anything behind it.
    NullCo,
    /// `nbd`: the export of an NBD server.
    Nbd,
    /// `blkdebug`: another node, with requests that fail or wait as rules say.
    Blkdebug,
    /// `copy-before-write`: another node, whose data is copied to a target before it changes.
    CopyBeforeWrite,
    /// `copy-on-read`: another node, which keeps what is read from its backing files.
    CopyOnRead,
    /// `snapshot-access`: the data of a `copy-before-write` node as they were.
    SnapshotAccess,
    /// `throttle`: another node, with requests that wait as a throttle group's limits say.
    Throttle,
    /// `vdi`: an image of VirtualBox.
    Vdi,
    /// `vhdx`: an image of Hyper-V.
    Vhdx,
    /// `vmdk`: an image of VMware.
    Vmdk,
}

impl Driver {
    /// The name in options.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Raw => "raw",
            Driver::Qcow2 => "qcow2",
            Driver::File => "file",
            Driver::HostDevice => "host_device",
            Driver::NullCo => "null-co",
            Driver::Nbd => "nbd",
            Driver::Blkdebug => "blkdebug",
            Driver::CopyBeforeWrite => "copy-before-write",
            Driver::CopyOnRead => "copy-on-read",
            Driver::SnapshotAccess => "snapshot-access",
            Driver::Throttle => "throttle",
            Driver::Vdi => "vdi",
            Driver::Vhdx => "vhdx",
            Driver::Vmdk => "vmdk",
        }
    }
}

/// What a node is made of.
pub(super) trait BlockDriver: fmt::Debug + Send + Sync {
    /// Which driver it is.
    fn driver(&self) -> Driver;

    /// Opens the way of one queue to the data.
    fn open_way(&self, gate: &Arc<Gate>) -> Way;

    /// Whether the data can be read as they were when the node was opened.
    fn keeps_old_data(&self) -> bool {
        false
    }

    /// Opens the way of one queue to the data as they were.
    fn open_old_way(&self, _: &Arc<Gate>) -> Way {
        Way::Absent
    }

    /// The length in bytes as it is now, a multiple of the block size and of 512.
    ///
    /// # Errors
    /// `Os` if the host does not say.
    fn length(&self) -> Result<u64>;

    /// Makes the data longer, with zeroes, or shorter. May wait for requests.
    ///
    /// # Errors
    /// `Os` if the host refuses.
    fn set_length(&self, length: u64) -> Result<()>;

    /// The unit of offsets and lengths.
    fn block_size(&self) -> u64;

    /// The unit in which the image has its data, if it has one.
    fn cluster_size(&self) -> Option<u64> {
        None
    }

    /// The child to which writes of parts of blocks go as they are. `None` if the node carries them out itself.
    fn passes_parts_to(&self) -> Option<&Edge> {
        None
    }

    /// Whether nothing can be written.
    fn is_read_only(&self) -> bool;

    /// The image's path, if there is one.
    fn filename(&self) -> Option<String> {
        self.children().first()?.node().filename()
    }

    /// How many bytes of storage the image takes, if there is one.
    fn allocated(&self) -> Option<u64> {
        self.children().first()?.node().allocated()
    }

    /// What it knows of its image.
    fn image_info(&self) -> ImageInfo {
        ImageInfo::default()
    }

    /// Whether it does something with requests to its first child and has no data of its own.
    fn is_filter(&self) -> bool {
        false
    }

    /// How often the data was made durable so far.
    fn data_syncs(&self) -> u64 {
        let data = self.children().first();
        data.map_or(0, |data| data.node().data_syncs())
    }

    /// The image is going to be opened anew while it is open here: what this has in memory must be in the nodes below.
    ///
    /// # Errors
    /// It cannot be written.
    fn write_back(&self) -> Result<()> {
        Ok(())
    }

    /// The node has a new driver. This one leaves the image alone from now on.
    fn superseded(&self) {}

    /// The driver that was opened beside this one does not take its place.
    fn restored(&self) {}

    /// The dirty bitmaps that the image has kept. They are the node's from now on.
    fn take_bitmaps(&self) -> Vec<Arc<DirtyBitmap>> {
        Vec::new()
    }

    /// Whether the image can keep dirty bitmaps.
    fn can_store_bitmaps(&self) -> bool {
        false
    }

    /// The image is closed: makes it keep these bitmaps. Nothing else is done with the driver after that.
    ///
    /// # Errors
    /// `Os` if they cannot be written.
    fn store_bitmaps(&self, bitmaps: &[Arc<DirtyBitmap>]) -> Result<()> {
        debug_assert!(bitmaps.is_empty(), "bitmaps of an image that keeps none");
        Ok(())
    }

    /// The open file, if the driver is of a file.
    fn image(&self) -> Option<&Arc<Image>> {
        None
    }

    /// The nodes below. The first one has the data.
    fn children(&self) -> &[Edge] {
        &[]
    }
}

/// The node that a driver is opened for.
#[derive(Debug)]
pub(super) struct NewNode<'a> {
    pub(super) id: NodeId,
    pub(super) name: &'a str,
    pub(super) common: &'a CommonOptions,
    /// The driver that the new one is to replace.
    pub(super) old: Option<&'a dyn BlockDriver>,
}

impl NewNode<'_> {
    /// Whether nothing can be written to the node, whose data is in `child`.
    pub(super) fn is_read_only_over(&self, child: &Node) -> bool {
        self.common.read_only.unwrap_or(false) || child.is_read_only()
    }

    /// The node as the user of a child that it calls `role`.
    pub(super) fn as_parent(&self, role: &'static str) -> Parent {
        let parent = Parent::node(self.id, self.name, role);
        match self.old {
            Some(_) => parent.renewed(),
            None => parent,
        }
    }

    /// The same for a node that leaves the child alone while nobody uses the node.
    pub(super) fn as_parent_when_used(&self, role: &'static str) -> Parent {
        self.as_parent(role).when_used()
    }

    /// The same for a child behind the node, which others may change if the node's users let others change the node.
    pub(super) fn as_parent_in_front(&self, role: &'static str) -> Parent {
        self.as_parent(role).in_front()
    }

    /// The same for a node that uses the child in its own way, whatever its own users do.
    pub(super) fn as_separate_parent(&self, role: &'static str) -> Parent {
        self.as_parent(role).separate()
    }
}
