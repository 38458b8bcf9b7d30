//! Block nodes and their registry.
//!
//! Used by the command line and the monitor, which open nodes from options, and by devices, which find them by name
//! and open channels to them. A `-drive` id and a `-blockdev` node-name are one name space here.
//!
//! # Threads
//! Everything may be called from any thread; a node does not change after it was opened.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::{ImageFile, SECTOR};
use super::null::Null;
use super::options;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

static REGISTRY: Mutex<BTreeMap<String, Arc<Node>>> = Mutex::new(BTreeMap::new());

/// What kind of node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A raw image over a file node, or a `-drive` with `format=raw`.
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

/// Which engine was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Aio {
    #[default]
    Uring,
    Threads,
}

/// What is behind a node; layered nodes share it.
#[derive(Clone, Debug)]
pub(super) enum Backend {
    Null(Null),
    File(Arc<ImageFile>),
}

/// What an opened backend brings into a node.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) backend: Backend,
    pub(super) length: u64,
    pub(super) aio: Aio,
    pub(super) read_only: bool,
    pub(super) filename: Option<String>,
    claimed: Arc<AtomicBool>,
}

/// A named block device.
#[derive(Debug)]
pub struct Node {
    name: String,
    driver: Driver,
    content: Content,
}

/// A device's exclusive use of a node; ends when dropped.
#[derive(Debug)]
pub struct Claim(Arc<AtomicBool>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Content {
    pub(super) fn null(null: Null, length: u64, read_only: bool) -> Content {
        Content {
            backend: Backend::Null(null),
            length: length / SECTOR * SECTOR,
            aio: Aio::default(),
            read_only,
            filename: None,
            claimed: Arc::default(),
        }
    }

    pub(super) fn file(file: ImageFile, aio: Aio, filename: String) -> Content {
        Content {
            length: file.length,
            read_only: file.read_only,
            backend: Backend::File(Arc::new(file)),
            aio,
            filename: Some(filename),
            claimed: Arc::default(),
        }
    }
}

impl Node {
    /// Opens what a `-drive` option describes and registers it under its `id`.
    ///
    /// # Errors
    /// As the option's fault is: `InvalidArgument`, `MissingArgument`, `AlreadyExists`, `Unsupported`, `Busy` (the
    /// image is locked) or `Os` (it cannot be opened). Nothing is registered then.
    pub fn open_drive(options: Options) -> Result<Arc<Node>> {
        Node::register(options::drive(options)?, duplicate_drive)
    }

    /// Opens what a `-blockdev` option describes and registers it under its `node-name`.
    ///
    /// # Errors
    /// As for [`open_drive`](Node::open_drive).
    pub fn open_blockdev(options: Options) -> Result<Arc<Node>> {
        Node::register(options::blockdev(options)?, duplicate_node)
    }

    fn register(
        (name, driver, content): (String, Driver, Content),
        duplicate: fn(&str) -> Error,
    ) -> Result<Arc<Node>> {
        let node = Arc::new(Node {
            name,
            driver,
            content,
        });
        match registry().entry(node.name.clone()) {
            Entry::Occupied(_) => return Err(duplicate(&node.name)),
            Entry::Vacant(free) => free.insert(Arc::clone(&node)),
        };
        Ok(node)
    }

    /// Refuses a taken name, before anything is opened under it.
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

    /// All nodes, by name.
    pub fn list() -> Vec<Arc<Node>> {
        registry().values().cloned().collect()
    }

    /// Takes a node out of the registry. The image closes with the last user.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Busy` if a device uses it.
    pub fn remove(name: &str) -> Result<()> {
        let unknown = || {
            let message = format!("Failed to find node with node-name='{name}'");
            Error::new(ErrorKind::NotFound, message)
        };
        let node = registry().get(name).cloned().ok_or_else(unknown)?;
        // Claimed for a moment, so that no device takes it meanwhile.
        let _claim = node.claim().map_err(|_| {
            let message = format!("Node {name} is in use");
            Error::new(ErrorKind::Busy, message)
        })?;
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

    /// Takes the node for one device. A file under several nodes counts as one.
    ///
    /// # Errors
    /// `Busy` if another device has it.
    pub fn claim(&self) -> Result<Claim> {
        if self.content.claimed.swap(true, Ordering::AcqRel) {
            let name = &self.name;
            let message = format!("Drive '{name}' is already in use by another block device");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        Ok(Claim(Arc::clone(&self.content.claimed)))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its driver.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Its size in bytes, a multiple of the block size.
    pub fn length(&self) -> u64 {
        self.content.length
    }

    /// The unit of requests: 512, or what direct I/O on the device demands.
    pub fn block_size(&self) -> u64 {
        match &self.content.backend {
            Backend::File(file) => file.alignment.map_or(SECTOR, |alignment| alignment.offset),
            Backend::Null(_) => SECTOR,
        }
    }

    /// Whether writing is refused.
    pub fn is_read_only(&self) -> bool {
        self.content.read_only
    }

    /// The image's path, if it has one.
    pub fn filename(&self) -> Option<&str> {
        self.content.filename.as_deref()
    }

    /// How often the image was made durable so far.
    pub fn data_syncs(&self) -> u64 {
        match &self.content.backend {
            Backend::File(file) => file.data_syncs(),
            Backend::Null(_) => 0,
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.content.backend
    }

    pub(super) fn aio(&self) -> Aio {
        self.content.aio
    }

    /// The same content for a node on top of this one.
    pub(super) fn content(&self) -> Content {
        self.content.clone()
    }
}

pub(super) fn duplicate_drive(name: &str) -> Error {
    let message = format!("Duplicate ID '{name}' for drive");
    Error::new(ErrorKind::AlreadyExists, message)
}

pub(super) fn duplicate_node(name: &str) -> Error {
    let message = format!("Duplicate nodes with node-name='{name}'");
    Error::new(ErrorKind::AlreadyExists, message)
}

/// The map is consistent after every single operation on it.
fn registry() -> MutexGuard<'static, BTreeMap<String, Arc<Node>>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}
