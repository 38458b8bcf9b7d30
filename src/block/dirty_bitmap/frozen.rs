//! What was dirty in a bitmap when a job began to copy it, as in an incremental backup.
//!
//! The bitmap goes on to record, from nothing, and is busy. When the copy is complete, what was dirty is forgotten. When it is not, it is
//! dirty again, together with what came after.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::DirtyBitmap;
use super::bits::DirtyBits;
use crate::Result;

/// What was dirty; see the head of this file. If this is dropped, it is dirty again.
#[derive(Debug)]
pub struct FrozenBits {
    bitmap: Arc<DirtyBitmap>,
    /// None once it was forgotten.
    bits: Option<Arc<DirtyBits>>,
}

impl DirtyBitmap {
    /// Takes what is dirty, until the answer is dropped. For a copy of one moment, the node is drained meanwhile.
    ///
    /// # Errors
    /// `Busy` if something else uses the bitmap; `LimitExceeded` if there is no memory.
    pub fn freeze(self: &Arc<DirtyBitmap>) -> Result<FrozenBits> {
        self.check_usable()?;
        self.begin_use()?;
        let taken = self.bits.take_all().inspect_err(|_| self.end_use())?;
        let bits = Arc::new(taken);
        self.state().frozen = Some(Arc::clone(&bits));
        Ok(FrozenBits {
            bitmap: Arc::clone(self),
            bits: Some(bits),
        })
    }
}

impl FrozenBits {
    /// What was dirty.
    pub fn bits(&self) -> &Arc<DirtyBits> {
        match &self.bits {
            Some(bits) => bits,
            None => unreachable!("only its end forgets them"),
        }
    }

    /// It has been copied: what was dirty is not any more.
    pub fn forget(mut self) {
        self.bits = None;
    }
}

impl Drop for FrozenBits {
    fn drop(&mut self) {
        if let Some(bits) = self.bits.take() {
            self.bitmap.bits.merge(&bits);
        }
        self.bitmap.end_use();
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // lists of runs
mod tests {
    use super::*;

    fn bitmap() -> Arc<DirtyBitmap> {
        let bits = DirtyBits::new(1 << 20, 512).unwrap();
        bits.set(0..512);
        Arc::new(DirtyBitmap::new(Some("b".into()), bits))
    }

    #[test]
    fn what_was_copied_is_clean_and_what_was_written_meanwhile_is_dirty() {
        let bitmap = bitmap();
        let frozen = bitmap.freeze().unwrap();
        bitmap.record(4096..4608);
        assert!(frozen.bits().runs().eq([0..512]));
        frozen.forget();
        assert!(bitmap.bits().runs().eq([4096..4608]));
        assert!(!bitmap.is_busy());
    }

    #[test]
    fn what_was_not_copied_is_dirty_again() {
        let bitmap = bitmap();
        let frozen = bitmap.freeze().unwrap();
        bitmap.record(4096..4608);
        let error = bitmap.freeze().unwrap_err();
        assert_eq!(
            error.to_string(),
            "Bitmap 'b' is currently in use by another operation and cannot be used"
        );
        drop(frozen);
        assert!(bitmap.bits().runs().eq([0..512, 4096..4608]));
        assert!(bitmap.freeze().is_ok());
    }
}
