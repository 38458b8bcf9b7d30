//! Compressed data of an image.
//!
//! A grain is unpacked as a whole. The last one is kept, because a guest reads the rest of it next.
//!
//! # Threads
//! All queues share the grain that is kept. The lock is not held while one is read or unpacked.
#![forbid(unsafe_code)]

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use miniz_oxide::inflate::decompress_slice_iter_to_slice;

use super::corrupt;
use super::file::ImageFile;

/// Where a compressed grain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::block::drivers) struct PackedGrain {
    pub(in crate::block::drivers) file: usize,
    /// Where its marker is, which says how long it is.
    pub(in crate::block::drivers) offset: u64,
    /// How many bytes it has unpacked. The driver limits them.
    pub(in crate::block::drivers) unpacked: usize,
}

/// The grain that was unpacked last.
#[derive(Debug, Default)]
pub(super) struct UnpackedGrain(Mutex<Option<(PackedGrain, Arc<[u8]>)>>);

/// A sector number, and the length of the data behind.
const MARKER_LEN: usize = 12;

impl UnpackedGrain {
    /// The bytes of a grain of `file`.
    pub(super) async fn read(
        &self,
        grain: &PackedGrain,
        file: &ImageFile,
    ) -> io::Result<Arc<[u8]>> {
        if let Some(bytes) = self.kept(grain) {
            return Ok(bytes);
        }
        let marker = file.read(grain.offset, MARKER_LEN).await?;
        let packed_len = marker
            .last_chunk()
            .map_or(0, |len| u32::from_le_bytes(*len));
        let packed_len = usize::try_from(packed_len).map_err(io::Error::other)?;
        // Data that does not shrink becomes a little longer.
        if packed_len == 0 || packed_len > grain.unpacked * 2 {
            return Err(corrupt("a compressed grain has no valid length"));
        }
        let packed = file.read(grain.offset, MARKER_LEN + packed_len).await?;
        let bytes: Arc<[u8]> = unpack(&packed[MARKER_LEN..], grain.unpacked)?.into();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((*grain, Arc::clone(&bytes)));
        Ok(bytes)
    }

    fn kept(&self, grain: &PackedGrain) -> Option<Arc<[u8]>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = kept.as_ref().filter(|(known, _)| known == grain);
        let bytes = same.map(|(_, bytes)| Arc::clone(bytes));
        drop(kept);
        bytes
    }
}

/// Unpacks a zlib stream of at most `limit` bytes.
fn unpack(packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; limit];
    let pieces = [packed].into_iter();
    let unpacked = decompress_slice_iter_to_slice(&mut bytes, pieces, true, false);
    let len = unpacked.map_err(|_| corrupt("compressed data is damaged"))?;
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// zlib's own output for 600 zero bytes.
    const PACKED: [u8; 15] = [
        0x78, 0x9c, 0x63, 0x60, 0x18, 0x05, 0xa3, 0x80, 0xfa, 0x00, 0x00, 0x02, 0x58, 0x00, 0x01,
    ];

    #[test]
    fn data_that_is_longer_than_a_grain_or_damaged_is_refused() {
        assert_eq!(unpack(&PACKED, 600).unwrap(), [0; 600]);
        assert!(unpack(&PACKED, 599).is_err());
        assert!(unpack(&PACKED[..10], 600).is_err());
        assert!(unpack(&[0xff; 20], 600).is_err());
    }
}
