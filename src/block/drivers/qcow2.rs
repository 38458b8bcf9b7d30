//! `qcow2`: images with clusters that are allocated when they are written, over another image if they have one.
//!
//! The crate imago maps clusters and changes the tables; this driver decides what it may see, and how it reaches the nodes:
//!
//! * [`header`]: reads the header itself and refuses what would be damaged or makes no sense
//! * [`storage`]: a node below, for imago; [`scope`]: whose way to it is used
//! * [`order`]: tables reach the storage in an order that survives a crash; [`places`]: where they are
//! * [`mapping`]: what the tables say about a range; [`populate`]: copies from the backing file
//! * [`bitmaps`]: dirty bitmaps that the image keeps
//! * [`resize`]: the image becomes longer or shorter; [`rename`]: it gets another backing file
//! * [`image`]: requests; [`layer`]: a queue's part; [`home`]: futures that stay on their thread
//!
//! The files that an image names are opened by [`super::backing`]. A backing file is a node of its own, of any driver, and read through it.
//!
//! What was flushed is in the image after a crash of this program. Without a flush, tables in memory may be newer than those in
//! the file; refcounts are written before references to clusters, so the file is a good image at any time.
#![deny(unsafe_code)] // children that need it say why

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use super::backing::{self, BackingChain};
use super::{BLOCKDEV_REF, BLOCKDEV_REF_OR_NULL, DriverType, child};
use crate::block::common::CommonOptions;
use crate::block::dirty_bitmap::DirtyBitmap;
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::image_info::ImageInfo;
use crate::block::node::Node;
use crate::block::permission::{Access, Permissions};
use crate::block::request::SECTOR;
use crate::block::way::Way;
use crate::object::{Options, Value};
use crate::schema::{Member, ValueType};
use crate::{Error, ErrorKind, Result};

mod access;
mod autoclear;
mod bitmaps;
mod header;
mod home;
mod image;
mod layer;
mod mapping;
mod metadata;
mod order;
mod places;
mod populate;
mod rename;
mod resize;
mod scope;
mod storage;
#[cfg(test)]
mod tests;

use access::open_image;
pub(in crate::block) use header::rewrite::BackingName;
use header::{Qcow2Header, unsupported};
use image::Qcow2Image;
use layer::Qcow2Layer;
use metadata::{read_header, read_places};
use order::TableOrder;
use places::TablePlaces;
pub(in crate::block) use rename::rewrite_backing;
use scope::ImageNodes;

/// The driver `qcow2`.
pub(super) const QCOW2: DriverType = DriverType {
    name: "qcow2",
    members: &[
        Member::new("file", ValueType::Alternate(&BLOCKDEV_REF)),
        Member::optional("backing", ValueType::Alternate(&BLOCKDEV_REF_OR_NULL)),
        Member::optional("data-file", ValueType::Alternate(&BLOCKDEV_REF)),
    ],
    open,
};

/// A qcow2 image.
#[derive(Debug)]
struct Qcow2Driver {
    /// Before the edges: it writes its tables back when it goes.
    image: Arc<Qcow2Image>,
    children: Vec<Edge>,
    read_only: bool,
    block_size: u64,
    /// As it was when the image was opened.
    header: Qcow2Header,
    info: ImageInfo,
    can_store: bool,
    /// There are bitmaps in the image.
    has_bitmaps: bool,
    /// Those that were read, until the node takes them.
    loaded: Mutex<Vec<Arc<DirtyBitmap>>>,
}

/// Which backing file an image gets.
#[derive(Debug)]
enum Backing {
    /// The one that it names.
    Own,
    None,
    Node(Arc<Node>),
}

/// What the options say about an image.
#[derive(Debug)]
pub(in crate::block) struct Qcow2Options {
    backing: Backing,
    data: Option<Arc<Node>>,
}

impl Qcow2Options {
    /// Those of an image that is taken as it is.
    pub(in crate::block) fn plain() -> Qcow2Options {
        Qcow2Options {
            backing: Backing::Own,
            data: None,
        }
    }

    fn take(keys: &mut Options, node: &NewNode<'_>) -> Result<Qcow2Options> {
        let has_data = keys.remaining().any(|key| key.starts_with("data-file"));
        let data = has_data.then(|| child::take(keys, "data-file", node));
        Ok(Qcow2Options {
            backing: take_backing(keys)?,
            data: data.transpose()?,
        })
    }
}

/// Takes `backing`: a node, or null for none. QEMU's old spelling of null is an empty string. The image is only read, so a
/// node that is described in place is read-only.
fn take_backing(keys: &mut Options) -> Result<Backing> {
    let is_backing = |key: &str| key == "backing" || key.starts_with("backing.");
    if !keys.remaining().any(is_backing) {
        return Ok(Backing::Own);
    }
    if keys.peek("backing") == Some("") {
        keys.take("backing");
        return Ok(Backing::None);
    }
    match keys.take("backing") {
        Some(Value::Null) => Ok(Backing::None),
        Some(Value::Str(name)) => Ok(Backing::Node(Node::find(&name)?)),
        Some(_) => Err(keys.bad("backing", "a node name or null")),
        None => {
            let common = CommonOptions {
                read_only: Some(true),
                auto_read_only: Some(false),
                ..CommonOptions::default()
            };
            child::take_with(keys, "backing", &common).map(Backing::Node)
        }
    }
}

/// Opens what `-blockdev driver=qcow2` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let options = Qcow2Options::take(keys, node)?;
    let file = child::take(keys, "file", node)?;
    over(&file, options, node)
}

/// Opens the image in `file`.
pub(in crate::block) fn over(
    file: &Arc<Node>,
    options: Qcow2Options,
    node: &NewNode<'_>,
) -> Result<Box<dyn BlockDriver>> {
    open_in_chain(file, options, node, &BackingChain::new(file)?)
}

/// Opens the image in `file` at the end of a chain.
pub(super) fn open_in_chain(
    file: &Arc<Node>,
    options: Qcow2Options,
    node: &NewNode<'_>,
    chain: &BackingChain,
) -> Result<Box<dyn BlockDriver>> {
    let name = file.filename().unwrap_or_else(|| file.name().into());
    let failed = |error: Error| {
        let message = format!("Could not open '{name}': {error}");
        Error::new(error.kind(), message)
    };
    let read_only = node.is_read_only_over(file);
    let header = Box::new(read_header(file, read_only).map_err(failed)?);
    let data = data_node(&header, options.data, file, read_only).map_err(failed)?;
    let backing = match options.backing {
        Backing::Own => own_backing(&header, file, chain).map_err(failed)?,
        Backing::None => None,
        Backing::Node(backing) => Some(backing),
    };
    let nodes = ImageNodes {
        file: Arc::clone(file),
        data,
        backing,
    };
    open_over(nodes, header, node, &failed)
}

/// The rest, when the nodes below are open. A function of its own, so that a long chain needs little stack.
fn open_over(
    nodes: ImageNodes,
    header: Box<Qcow2Header>,
    node: &NewNode<'_>,
    failed: &dyn Fn(Error) -> Error,
) -> Result<Box<dyn BlockDriver>> {
    let file = Arc::clone(&nodes.file);
    let read_only = node.is_read_only_over(&file);
    let info = header.image_info(&file);
    let children = attach(&nodes, node, read_only)?;
    let bitmaps = load_bitmaps(&header, &file, node).map_err(failed)?;
    let places = match read_only {
        true => TablePlaces::new(&header, &[], &[]),
        false => read_places(&header, &file).map_err(failed)?,
    };
    let order = Arc::new(TableOrder::new(places));
    if !read_only && node.old.is_none() {
        bitmaps::load::mark_in_use(&header, &file).map_err(failed)?;
    }
    let access = open_image(&nodes, &order, read_only).map_err(failed)?;
    let block_size = file.block_size().max(SECTOR);
    let image = Qcow2Image::new(access, nodes, &order, (header.cluster_size(), read_only));
    let image = Arc::new(image);
    order.set_image(Arc::downgrade(&image));
    Ok(Box::new(Qcow2Driver {
        image,
        children,
        read_only,
        block_size,
        info,
        can_store: header.can_have_bitmaps() && !read_only,
        has_bitmaps: header.bitmaps().is_some(),
        loaded: Mutex::new(bitmaps),
        header: *header,
    }))
}

/// Reads the bitmaps of an image that is opened for the first time. One that is opened anew has them already.
fn load_bitmaps(
    header: &Qcow2Header,
    file: &Arc<Node>,
    node: &NewNode<'_>,
) -> Result<Vec<Arc<DirtyBitmap>>> {
    match node.old {
        Some(_) => Ok(Vec::new()),
        None => bitmaps::load::load(header, file),
    }
}

/// Takes the nodes below. What an image does with them is its own matter: its parents' needs end here.
fn attach(nodes: &ImageNodes, node: &NewNode<'_>, read_only: bool) -> Result<Vec<Edge>> {
    let read = Permissions::CONSISTENT_READ;
    let change = Permissions::WRITE.and(Permissions::RESIZE);
    let reader = Access {
        needs: read,
        shares: Permissions::ALL.without(change),
    };
    let writer = Access {
        needs: read.and(change),
        ..reader
    };
    let own = if read_only { reader } else { writer };
    let parent = |role| node.as_separate_parent(role);
    let mut edges = vec![nodes.file.attach(parent("file"), own)?];
    if let Some(data) = &nodes.data {
        edges.push(data.attach(parent("data-file"), own)?);
    }
    if let Some(backing) = &nodes.backing {
        edges.push(backing.attach(node.as_parent_in_front("backing"), reader)?);
    }
    Ok(edges)
}

/// Opens the backing file that the image names, if it names one.
fn own_backing(
    header: &Qcow2Header,
    file: &Arc<Node>,
    chain: &BackingChain,
) -> Result<Option<Arc<Node>>> {
    let name = header.backing_file.as_deref();
    let format = header.backing_format.as_deref();
    name.map(|name| chain.open(name, format, file)).transpose()
}

/// The node with the guest's data, if the image keeps that elsewhere.
fn data_node(
    header: &Qcow2Header,
    given: Option<Arc<Node>>,
    file: &Arc<Node>,
    read_only: bool,
) -> Result<Option<Arc<Node>>> {
    match (header.has_data_file(), given) {
        (false, None) => Ok(None),
        (false, Some(_)) => {
            let message = "'data-file' can only be set for images with an external data file";
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
        (true, Some(data)) => Ok(Some(data)),
        (true, None) => {
            let Some(name) = &header.data_file else {
                return Err(unsupported("'data-file' is required for this image"));
            };
            backing::open_file(name, file, read_only).map(Some)
        }
    }
}

impl BlockDriver for Qcow2Driver {
    fn driver(&self) -> Driver {
        Driver::Qcow2
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        Qcow2Layer::open(&self.image, gate)
    }

    fn length(&self) -> Result<u64> {
        Ok(self.image.length() / self.block_size * self.block_size)
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.header.check_resizable()?;
        self.image.set_length(length)
    }

    fn block_size(&self) -> u64 {
        self.block_size
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.image.cluster_size())
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn image_info(&self) -> ImageInfo {
        self.info.clone()
    }

    fn allocated(&self) -> Option<u64> {
        let own = |edge: &&Edge| matches!(edge.role(), "file" | "data-file");
        let parts = self.children.iter().filter(own);
        parts.map(|edge| edge.node().allocated()).sum()
    }

    fn write_back(&self) -> Result<()> {
        let written = self.image.write_back_now()?;
        written.map_err(|error| Error::os("Could not flush the image", error))
    }

    fn superseded(&self) {
        self.image.leave_alone();
    }

    fn take_bitmaps(&self) -> Vec<Arc<DirtyBitmap>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *loaded)
    }

    fn can_store_bitmaps(&self) -> bool {
        self.can_store
    }

    fn store_bitmaps(&self, bitmaps: &[Arc<DirtyBitmap>]) -> Result<()> {
        if !self.can_store || (bitmaps.is_empty() && !self.has_bitmaps) || self.image.is_broken() {
            return Ok(());
        }
        self.write_back()?;
        self.superseded();
        bitmaps::store::store(&self.image.nodes().file, bitmaps)
    }

    fn children(&self) -> &[Edge] {
        &self.children
    }
}
