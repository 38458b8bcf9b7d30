//! Images of foreign formats, which are only read.
//!
//! Used by `vdi`, `vhdx` and `vmdk`. Each checks the metadata of its images when they are opened, and brings a [`BlockMap`], which
//! says where the data of a place of the disk is. What is the same for all is here:
//!
//! * [`layer`]: requests, a task each
//! * [`fields`]: the fields of a header
//! * [`file`](mod@file): a file of an image, read within its length
//! * [`tables`]: tables that are read a page at a time, and kept up to a limit
//! * [`packed`]: compressed data
//!
//! # Threads
//! All queues share a map. It has no lock that is held while something is read.
#![deny(unsafe_code)] // children that need it say why

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::image_info::ImageInfo;
use crate::block::node::Node;
use crate::block::permission::{Access, Permissions};
use crate::block::request::{Request, SECTOR};
use crate::block::way::Way;
use crate::{Error, ErrorKind, Result};

mod fields;
mod file;
mod layer;
mod packed;
mod tables;

pub(super) use fields::HeaderFields;
pub(super) use file::read_node;
use layer::MappedLayer;
pub(super) use packed::PackedGrain;
use packed::UnpackedGrain;
pub(super) use tables::ImageTables;
use tables::TableCache;

/// Where the data of an image is.
pub(super) trait BlockMap: fmt::Debug + Send + Sync + 'static {
    /// What is at `offset` of the disk.
    ///
    /// # Errors
    /// The metadata cannot be read, or makes no sense.
    fn find(
        &self,
        tables: &ImageTables<'_>,
        offset: u64,
    ) -> impl Future<Output = io::Result<DiskExtent>> + Send;
}

/// A piece of the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskExtent {
    /// How many bytes from the place that was asked for.
    pub(super) length: u64,
    pub(super) content: Content,
}

/// What is in a piece of the disk. A `file` is one of the image's, by its index.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Zeroes,
    Plain {
        file: usize,
        offset: u64,
    },
    /// From byte `skip` of the grain on.
    Packed {
        grain: PackedGrain,
        skip: u64,
    },
}

impl DiskExtent {
    /// Bytes of a file, as they are.
    pub(super) fn plain(length: u64, file: usize, offset: u64) -> DiskExtent {
        let content = Content::Plain { file, offset };
        DiskExtent { length, content }
    }

    pub(super) fn zeroes(length: u64) -> DiskExtent {
        let content = Content::Zeroes;
        DiskExtent { length, content }
    }
}

/// What the queues of an image share.
#[derive(Debug)]
struct MappedImage<M> {
    map: M,
    files: Vec<Arc<Node>>,
    tables: TableCache,
    unpacked: UnpackedGrain,
    has_warned: AtomicBool,
}

impl<M> MappedImage<M> {
    /// Reports the first failed request.
    fn report(&self, request: &Request, error: &io::Error) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            let name = self.files.first().map_or("", |file| file.name());
            let (op, offset) = (request.op, request.offset);
            glib::g_warning!(
                "qcontext",
                "image on node '{name}': {op:?} at {offset}: {error}"
            );
        }
    }
}

/// A node with such an image.
#[derive(Debug)]
struct MappedDriver<M> {
    driver: Driver,
    image: Arc<MappedImage<M>>,
    edges: Vec<Edge>,
    length: u64,
    info: ImageInfo,
}

/// Checks that the options do not ask to write to the image.
///
/// # Errors
/// `InvalidArgument` if the options do not say that it is only read.
pub(super) fn check_read_only(driver: Driver, node: &NewNode<'_>) -> Result<()> {
    let common = node.common;
    if common.read_only == Some(true) || common.auto_read_only == Some(true) {
        return Ok(());
    }
    let name = driver.name();
    let message = format!("{name} images can only be read: give read-only=on or auto-read-only=on");
    Err(invalid(message))
}

/// The driver of an image of `length` bytes whose data is in `files`, the first of which names the image.
pub(super) fn driver<M: BlockMap>(
    (driver, info): (Driver, ImageInfo),
    node: &NewNode<'_>,
    files: Vec<Arc<Node>>,
    map: M,
    length: u64,
) -> Result<Box<dyn BlockDriver>> {
    Ok(Box::new(MappedDriver {
        driver,
        edges: attach(&files, node)?,
        length: length / SECTOR * SECTOR,
        info,
        image: Arc::new(MappedImage {
            map,
            files,
            tables: TableCache::default(),
            unpacked: UnpackedGrain::default(),
            has_warned: AtomicBool::new(false),
        }),
    }))
}

fn attach(files: &[Arc<Node>], node: &NewNode<'_>) -> Result<Vec<Edge>> {
    let changes = Permissions::WRITE.and(Permissions::RESIZE);
    let reader = Access {
        needs: Permissions::CONSISTENT_READ,
        shares: Permissions::ALL.without(changes),
    };
    let roles = ["file"].into_iter().chain(std::iter::repeat("extents"));
    let pairs = files.iter().zip(roles);
    pairs
        .map(|(file, role)| file.attach(node.as_separate_parent(role), reader))
        .collect()
}

impl<M: BlockMap> BlockDriver for MappedDriver<M> {
    fn driver(&self) -> Driver {
        self.driver
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        MappedLayer::open(&self.image, gate)
    }

    fn length(&self) -> Result<u64> {
        Ok(self.length)
    }

    fn set_length(&self, _length: u64) -> Result<()> {
        Err(unsupported("Image is read-only"))
    }

    fn block_size(&self) -> u64 {
        // Files with larger blocks are read through a copy.
        SECTOR
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn allocated(&self) -> Option<u64> {
        self.edges.iter().map(|edge| edge.node().allocated()).sum()
    }

    fn image_info(&self) -> ImageInfo {
        self.info.clone()
    }

    fn children(&self) -> &[Edge] {
        &self.edges
    }
}

/// Says which image an error is about.
pub(super) fn could_not_open(file: &Node, error: &Error) -> Error {
    let name = file.filename().unwrap_or_else(|| file.name().to_owned());
    Error::new(error.kind(), format!("Could not open '{name}': {error}"))
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message.into())
}

pub(super) fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message.into())
}

/// The error of a request that meets metadata without sense.
pub(super) fn corrupt(message: &'static str) -> io::Error {
    io::Error::other(message)
}
