//! What users do with dirty bitmaps: all that is asked for, or nothing.
//!
//! Used by the commands `block-dirty-bitmap-*` and by `transaction`:
//!
//! 1. A [`BitmapChange`] collects what is to be done. Its [`nodes`](BitmapChange::nodes) are drained.
//! 2. [`BitmapChange::make`] does it, in order. If something fails, what was done before is undone.
//! 3. The answer, a [`MadeBitmaps`], is kept when everything else has worked, too. If it is dropped, all is undone.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dirty_bitmap::DirtyBitmap;
use super::dirty_bitmap::bits::DirtyBits;
use super::drain::DrainedNodes;
use super::node::Node;
use crate::{Error, ErrorKind, Result};

#[cfg(test)]
mod tests;

/// Held by the change that is being made.
static ONE_CHANGE: Mutex<()> = Mutex::new(());

/// The longest name is shorter than this.
const NAME_LEN: usize = 1024;

/// What is to be done with a bitmap.
#[derive(Clone, Debug)]
pub enum BitmapAction {
    /// It is made.
    Add {
        /// By default that of the image's clusters, from 4 KiB to 64 KiB, or 64 KiB if there are none.
        granularity: Option<u64>,
        /// It does not record yet.
        is_disabled: bool,
        /// The image keeps it.
        is_persistent: bool,
    },
    /// It goes.
    Remove,
    /// Nothing is dirty any more.
    Clear,
    /// It records from now on, or no longer.
    Record(bool),
    /// It gets what is dirty in others.
    Merge(Vec<BitmapRef>),
}

/// A bitmap of a node, by its name.
#[derive(Clone, Debug)]
pub struct BitmapRef {
    node: Arc<Node>,
    name: String,
}

impl BitmapRef {
    /// The bitmap `name` of the node `node`, which need not exist.
    ///
    /// # Errors
    /// `NotFound` if there is no such node.
    pub fn new(node: &str, name: String) -> Result<BitmapRef> {
        let known = Node::find(node);
        let node = known.map_err(|_| {
            let message = format!("Node '{node}' not found");
            Error::new(ErrorKind::NotFound, message)
        })?;
        Ok(BitmapRef { node, name })
    }

    /// The bitmap.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name.
    pub fn find(&self) -> Result<Arc<DirtyBitmap>> {
        let found = self.node.bitmaps().find(&self.name);
        found.ok_or_else(|| {
            let message = format!("Dirty bitmap '{}' not found", self.name);
            Error::new(ErrorKind::NotFound, message)
        })
    }
}

/// What is to be done; see the head of this file.
#[derive(Debug, Default)]
pub struct BitmapChange(Vec<(BitmapRef, BitmapAction)>);

/// What was done, until it is kept or undone.
#[derive(Debug)]
#[must_use = "it is undone when this is dropped"]
pub struct MadeBitmaps {
    /// From the first to the last.
    done: Vec<Done>,
    _only: MutexGuard<'static, ()>,
}

/// Something that can be undone.
#[derive(Debug)]
enum Done {
    Added(BitmapRef, Arc<DirtyBitmap>),
    /// It is busy, and goes with the rest.
    Removed(BitmapRef, Arc<DirtyBitmap>),
    /// What was dirty before.
    Changed(Arc<DirtyBitmap>, Box<DirtyBits>),
    /// Whether it recorded before.
    Recording(Arc<DirtyBitmap>, bool),
}

impl BitmapChange {
    /// Nothing is to be done.
    pub fn new() -> BitmapChange {
        BitmapChange::default()
    }

    /// Something is to be done after what is there already.
    pub fn push(&mut self, bitmap: BitmapRef, action: BitmapAction) {
        self.0.push((bitmap, action));
    }

    /// The nodes to be drained, also those whose bitmaps are only read.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        let mut nodes = Vec::new();
        for (bitmap, action) in &self.0 {
            nodes.push(Arc::clone(&bitmap.node));
            if let BitmapAction::Merge(sources) = action {
                nodes.extend(sources.iter().map(|source| Arc::clone(&source.node)));
            }
        }
        nodes
    }

    /// Does it.
    ///
    /// # Errors
    /// The first error of an action; `InvalidArgument` if a node is not drained. Nothing has changed then.
    pub fn make(self, drained: &DrainedNodes) -> Result<MadeBitmaps> {
        if !self.nodes().iter().all(|node| drained.contains(node)) {
            let message = "a node whose bitmaps are to change is not drained";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut made = MadeBitmaps {
            done: Vec::new(),
            _only: ONE_CHANGE.lock().unwrap_or_else(PoisonError::into_inner),
        };
        for (bitmap, action) in self.0 {
            made.done.push(carry_out(bitmap, action)?);
        }
        Ok(made)
    }
}

fn carry_out(at: BitmapRef, action: BitmapAction) -> Result<Done> {
    if let BitmapAction::Add {
        granularity,
        is_disabled,
        is_persistent,
    } = action
    {
        let added = add(&at, granularity, is_persistent)?;
        added.set_recording(!is_disabled);
        return Ok(Done::Added(at, added));
    }
    let bitmap = at.find()?;
    if !matches!(action, BitmapAction::Record(_)) {
        check_writable(&at, &bitmap)?;
    }
    match action {
        BitmapAction::Remove => {
            bitmap.begin_use()?;
            Ok(Done::Removed(at, bitmap))
        }
        BitmapAction::Record(is_recording) => {
            bitmap.check_usable()?;
            let before = bitmap.is_recording();
            bitmap.set_recording(is_recording);
            Ok(Done::Recording(bitmap, before))
        }
        BitmapAction::Merge(sources) => {
            bitmap.check_usable()?;
            let merged = merged(&bitmap, &sources)?;
            let before = bitmap.bits().copy()?;
            bitmap.bits().merge(&merged);
            Ok(Done::Changed(bitmap, Box::new(before)))
        }
        BitmapAction::Clear | BitmapAction::Add { .. } => {
            bitmap.check_usable()?;
            let before = bitmap.bits().take_all()?;
            Ok(Done::Changed(bitmap, Box::new(before)))
        }
    }
}

/// A bitmap of an image that is only read is that of the image.
fn check_writable(at: &BitmapRef, bitmap: &DirtyBitmap) -> Result<()> {
    if !bitmap.is_persistent() || at.node.can_store_bitmaps() {
        return Ok(());
    }
    let message = format!("Bitmap '{}' is readonly and cannot be modified", at.name);
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

fn add(at: &BitmapRef, granularity: Option<u64>, is_persistent: bool) -> Result<Arc<DirtyBitmap>> {
    let (node, name) = (&at.node, &at.name);
    let invalid = |message| Err(Error::new(ErrorKind::InvalidArgument, message));
    if name.is_empty() {
        return invalid("Bitmap name cannot be empty".to_owned());
    }
    if is_persistent && !node.can_store_bitmaps() {
        let node = node.name();
        let message = format!("Can't store persistent bitmaps to {node}: Operation not supported");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    if node.bitmaps().find(name).is_some() {
        let message = format!("Bitmap already exists: {name}");
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    if name.len() >= NAME_LEN {
        return invalid(format!("Bitmap name too long: {name}"));
    }
    let granularity = granularity.unwrap_or_else(|| default_granularity(node));
    node.add_bitmap(|length| {
        let bits = DirtyBits::new(length, granularity)?;
        Ok(match is_persistent {
            true => DirtyBitmap::persistent(name, bits),
            false => DirtyBitmap::new(Some(name.clone()), bits),
        })
    })
}

/// That of the image's clusters, within bounds.
fn default_granularity(node: &Node) -> u64 {
    let clusters = node.image_info().cluster_size.filter(|&size| size > 0);
    clusters.map_or(1 << 16, |size| size.clamp(1 << 12, 1 << 16))
}

/// What is dirty in one of `sources`.
fn merged(target: &DirtyBitmap, sources: &[BitmapRef]) -> Result<DirtyBits> {
    let (length, granularity) = (target.bits().length(), target.bits().granularity());
    let merged = DirtyBits::new(length, granularity)?;
    for source in sources {
        let source = source.find()?;
        source.check_usable()?;
        let other = source.bits().length();
        if other != length {
            let message = format!(
                "Bitmaps are of different sizes (destination size is {length}, source size is {other}) and can't be merged"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        merged.merge(source.bits());
    }
    Ok(merged)
}

impl MadeBitmaps {
    /// It is done for good.
    pub fn keep(mut self) {
        for done in self.done.drain(..) {
            if let Done::Removed(at, bitmap) = done {
                at.node.bitmaps().remove(&bitmap);
            }
        }
    }
}

impl Drop for MadeBitmaps {
    fn drop(&mut self) {
        while let Some(done) = self.done.pop() {
            done.undo();
        }
    }
}

impl Done {
    fn undo(self) {
        match self {
            Done::Added(at, bitmap) => at.node.bitmaps().remove(&bitmap),
            Done::Removed(_, bitmap) => bitmap.end_use(),
            Done::Changed(bitmap, before) => {
                bitmap.bits().clear_all();
                bitmap.bits().merge(&before);
            }
            Done::Recording(bitmap, before) => bitmap.set_recording(before),
        }
    }
}
