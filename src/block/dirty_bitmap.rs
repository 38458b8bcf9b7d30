//! Dirty bitmaps: which ranges of a node were written since some moment.
//!
//! A bitmap belongs to a node, whatever its driver and whatever is below: it stays when the node is opened anew, and follows its length.
//! Users make bitmaps with names. A job makes one for itself, a
//! [`WriteRecord`](super::WriteRecord). Where things are:
//!
//! * [`bits`]: which ranges are dirty; [`tree`]: the bits, so that they are found fast; `words`: their memory
//! * [`list`]: the bitmaps of a node
//! * [`frozen`]: what was dirty, while it is copied; [`hold`]: a bitmap that others read
//! * [`change`](super::bitmap_change): what users do with bitmaps, all or nothing
//!
//! # What a bitmap records
//! Writes, writes of zeroes and discards, each when it has ended and before its submitter hears of it, also if it failed: it may have changed
//! something. So when nothing is in flight, as under a drain, the bitmap has all that was changed; otherwise it has at least all that was
//! acknowledged. Why not at the beginning, see [`bits`]. A copy from the backing file into the image changes nothing.
//!
//! A queue's way has a part for bitmaps ([`Way::Marking`](super::way::Way)) only if its node has bitmaps when the way is opened. So bitmaps
//! come under a drain of the node, and a node without any pays nothing. With one, a write costs one or two atomic operations.
#![deny(unsafe_code)] // children that need it say why

use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, ErrorKind, Result};

pub(super) mod bits;
pub(super) mod frozen;
pub(super) mod hold;
pub(super) mod list;
#[cfg(test)]
mod model;
mod tree;
mod words;

use bits::DirtyBits;

/// A bitmap of a node.
#[derive(Debug)]
pub struct DirtyBitmap {
    /// None for a job's own.
    name: Option<String>,
    bits: DirtyBits,
    is_recording: AtomicBool,
    /// The image keeps it when it is closed.
    is_persistent: bool,
    /// The image was not closed after it had been written.
    is_inconsistent: AtomicBool,
    state: Mutex<BitmapState>,
}

#[derive(Debug, Default)]
struct BitmapState {
    /// Something uses it, which must not be disturbed.
    is_busy: bool,
    /// What was dirty when the user began, while it is copied.
    frozen: Option<Arc<DirtyBits>>,
}

impl DirtyBitmap {
    pub(super) fn new(name: Option<String>, bits: DirtyBits) -> DirtyBitmap {
        DirtyBitmap {
            name,
            bits,
            is_recording: AtomicBool::new(true),
            is_persistent: false,
            is_inconsistent: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// A bitmap that the image keeps.
    pub(super) fn persistent(name: &str, bits: DirtyBits) -> DirtyBitmap {
        DirtyBitmap {
            is_persistent: true,
            ..DirtyBitmap::new(Some(name.to_owned()), bits)
        }
    }

    /// Whether the image keeps it.
    pub fn is_persistent(&self) -> bool {
        self.is_persistent
    }

    /// It lacks something.
    pub(super) fn set_inconsistent(&self) {
        self.is_inconsistent.store(true, Ordering::Relaxed);
    }

    /// Its name, unless it is a job's own.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What is dirty.
    pub fn bits(&self) -> &DirtyBits {
        &self.bits
    }

    /// Whether writes are recorded.
    pub fn is_recording(&self) -> bool {
        self.is_recording.load(Ordering::Relaxed)
    }

    /// Begins or ends to record writes.
    pub fn set_recording(&self, is_recording: bool) {
        self.is_recording.store(is_recording, Ordering::Relaxed);
    }

    /// How many bytes are dirty; while a job copies what was dirty, how many that were.
    pub fn count(&self) -> u64 {
        let frozen = self.state().frozen.clone();
        frozen.map_or_else(|| self.bits.count(), |bits| bits.count())
    }

    /// Whether it may lack something, so that it is of no use.
    pub fn is_inconsistent(&self) -> bool {
        self.is_inconsistent.load(Ordering::Relaxed) || self.bits.has_lost()
    }

    /// Whether something uses it.
    pub fn is_busy(&self) -> bool {
        self.state().is_busy
    }

    /// A write to the range has ended.
    #[inline]
    pub(super) fn record(&self, range: Range<u64>) {
        if self.is_recording() {
            self.bits.set(range);
        }
    }

    /// Checks that nothing uses it.
    pub(super) fn check_idle(&self) -> Result<()> {
        match self.is_busy() {
            true => Err(self.in_use()),
            false => Ok(()),
        }
    }

    /// Checks that nothing uses it and nothing is missing in it.
    pub(super) fn check_usable(&self) -> Result<()> {
        self.check_idle()?;
        if !self.is_inconsistent() {
            return Ok(());
        }
        let name = self.name().unwrap_or_default();
        let message = format!("Bitmap '{name}' is inconsistent and cannot be used");
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    fn in_use(&self) -> Error {
        let name = self.name().unwrap_or_default();
        let message =
            format!("Bitmap '{name}' is currently in use by another operation and cannot be used");
        Error::new(ErrorKind::Busy, message)
    }

    /// Only one user at a time.
    pub(super) fn begin_use(&self) -> Result<()> {
        let was_busy = mem::replace(&mut self.state().is_busy, true);
        match was_busy {
            true => Err(self.in_use()),
            false => Ok(()),
        }
    }

    pub(super) fn end_use(&self) {
        *self.state() = BitmapState::default();
    }

    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, BitmapState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
