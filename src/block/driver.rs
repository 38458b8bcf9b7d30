//! Block drivers: what a node is made of.
//!
//! A node has one [`BlockDriver`]. It is asked rarely: when the node is opened, when its length may have changed, and when
//! a queue opens its [`Way`] to the data. The way is what requests go through. A driver that changes nothing on the way
//! to its child, as `raw` does, hands out its child's way, so a raw image over a file costs a request no more than the
//! file alone.
//!
//! # Adding a driver
//! A format or a filter is another implementation of [`BlockDriver`] beside those here, with a line in [`open`]. If it
//! needs work for each request it brings another variant of [`Way`], whose parts carry a request on to its child's way.
#![deny(unsafe_code)] // children that need it say why

use std::fmt;
use std::sync::Arc;

use gsource::AioContext;

use super::channel::{Budget, Finished, Gate, Submission};
use super::graph::{Edge, NodeId, Parent};
use super::request::Request;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

pub(super) mod file;
pub(super) mod null;
pub(super) mod raw;

use file::FileWay;
use null::NullWay;

/// The unit of guest addresses.
pub(super) const SECTOR: u64 = 512;

/// What kind of node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A raw image over another node.
    Raw,
    /// A file or block device.
    File,
    /// A disk without anything behind it.
    NullCo,
}

impl Driver {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Raw => "raw",
            Driver::File => "file",
            Driver::NullCo => "null-co",
        }
    }
}

/// What a node is made of.
pub(super) trait BlockDriver: fmt::Debug + Send + Sync {
    /// Which driver it is.
    fn driver(&self) -> Driver;

    /// Opens the way of one queue to the data.
    fn open_way(&self, queue: &WayQueue<'_>) -> Way;

    /// The length in bytes as it is now, a multiple of the block size.
    ///
    /// # Errors
    /// `Os` if the host does not say.
    fn length(&self) -> Result<u64>;

    /// Makes the data longer, with zeroes, or shorter.
    ///
    /// # Errors
    /// `Os` if the host refuses, `Unsupported` if that is not possible.
    fn set_length(&self, length: u64) -> Result<()>;

    /// The unit of offsets and lengths.
    fn block_size(&self) -> u64;

    /// Whether nothing can be written.
    fn is_read_only(&self) -> bool;

    /// The image's path, if there is one.
    fn filename(&self) -> Option<&str>;

    /// How often the data was made durable so far.
    fn data_syncs(&self) -> u64;

    /// The nodes below.
    fn children(&self) -> &[Edge] {
        &[]
    }
}

/// The queue that opens a way.
#[derive(Debug)]
pub(super) struct WayQueue<'a> {
    /// The AioContext in whose callbacks requests are served.
    pub(super) aio: &'a AioContext,
    /// Takes the news that requests have finished.
    pub(super) gate: &'a Arc<Gate>,
}

/// A queue's way to the data of a node, open.
#[derive(Debug)]
pub(super) enum Way {
    Null(NullWay),
    File(Box<FileWay>),
}

impl Way {
    /// Starts a request or carries it out at once.
    #[inline]
    pub(super) fn submit(&mut self, request: Box<Request>, budget: &mut Budget) -> Submission {
        match self {
            Way::Null(null) => Submission::Done(null.run(request, budget)),
            Way::File(file) => file.submit(request, budget),
        }
    }

    /// Hands over what was submitted since the last time.
    #[inline]
    pub(super) fn flush_submissions(&mut self) {
        match self {
            Way::Null(_) => {}
            Way::File(file) => file.flush_submissions(),
        }
    }

    /// Appends the requests that have finished, and goes on with those that need more.
    pub(super) fn reap(&mut self, budget: &mut Budget, finished: &mut Vec<Finished>) {
        match self {
            Way::Null(_) => {}
            Way::File(file) => file.reap(budget, finished),
        }
    }
}

/// The node that a driver is opened for.
#[derive(Debug)]
pub(super) struct NewNode<'a> {
    pub(super) id: NodeId,
    pub(super) name: &'a str,
}

impl NewNode<'_> {
    /// The node as a user of its children.
    pub(super) fn as_parent(&self) -> Parent {
        Parent::node(self.id, self.name)
    }
}

/// Opens the driver that `driver=` names, with the options that belong to it.
pub(super) fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    match keys.need_str("driver")?.as_str() {
        "null-co" => null::open(keys),
        "file" | "host_device" => file::open(keys),
        "raw" => raw::open(keys, node),
        other => Err(unknown(other)),
    }
}

pub(super) fn unknown(driver: &str) -> Error {
    let message = format!("Unknown driver '{driver}': raw, file and null-co are supported");
    Error::new(ErrorKind::InvalidArgument, message)
}
