//! A bitmap that clients of an export read. Nobody else may change it or take it away meanwhile.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::DirtyBitmap;
use crate::Result;

/// A bitmap that is busy until this is dropped.
#[derive(Debug)]
#[must_use = "the bitmap is let go when this is dropped"]
pub struct HeldBitmap(Arc<DirtyBitmap>);

impl DirtyBitmap {
    /// Makes it busy.
    ///
    /// # Errors
    /// `Busy` if something else uses the bitmap; `InvalidArgument` if it lacks something.
    pub fn hold(self: &Arc<DirtyBitmap>) -> Result<HeldBitmap> {
        self.check_usable()?;
        self.begin_use()?;
        Ok(HeldBitmap(Arc::clone(self)))
    }
}

impl HeldBitmap {
    /// The bitmap.
    pub fn bitmap(&self) -> &Arc<DirtyBitmap> {
        &self.0
    }
}

impl Drop for HeldBitmap {
    fn drop(&mut self) {
        self.0.end_use();
    }
}
