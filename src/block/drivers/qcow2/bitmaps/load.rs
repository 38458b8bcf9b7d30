//! Reads the bitmaps of an image that is being opened, and marks them as in use if it can be written.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::super::header::{Qcow2Header, invalid, u64_at};
use super::super::metadata::{read, sync, write};
use super::{AUTO, BitmapsExtension, DirectoryEntry, IN_USE, encode_directory, parse_directory};
use crate::Result;
use crate::block::dirty_bitmap::DirtyBitmap;
use crate::block::dirty_bitmap::bits::DirtyBits;
use crate::block::node::Node;

/// A table entry for a cluster whose bits are all set.
pub(super) const ALL_SET: u64 = 1;

/// Reads the bitmaps of the image in `file`. Those that are in use lack something.
///
/// # Errors
/// They cannot be understood, or not read.
pub(in super::super) fn load(
    header: &Qcow2Header,
    file: &Arc<Node>,
) -> Result<Vec<Arc<DirtyBitmap>>> {
    let Some(extension) = header.bitmaps() else {
        return Ok(Vec::new());
    };
    let entries = read_directory(header, extension, file)?;
    let one = |entry: &DirectoryEntry| {
        let bits = DirtyBits::new(header.size(), entry.granularity())?;
        let is_in_use = entry.flags & IN_USE != 0;
        if !is_in_use {
            read_bits(header, entry, file, &bits)?;
        }
        let bitmap = DirtyBitmap::persistent(&entry.name, bits);
        bitmap.set_recording(entry.flags & AUTO != 0 && !is_in_use);
        if is_in_use {
            bitmap.set_inconsistent();
        }
        Ok(Arc::new(bitmap))
    };
    entries.iter().map(one).collect()
}

/// Marks the bitmaps as in use, durably.
///
/// # Errors
/// As above, or they cannot be written.
pub(in super::super) fn mark_in_use(header: &Qcow2Header, file: &Arc<Node>) -> Result<()> {
    let Some(extension) = header.bitmaps() else {
        return Ok(());
    };
    let mut entries = read_directory(header, extension, file)?;
    entries.iter_mut().for_each(|entry| entry.flags |= IN_USE);
    write(file, extension.directory, encode_directory(&entries))?;
    sync(file)
}

/// The directory of an image.
pub(super) fn read_directory(
    header: &Qcow2Header,
    extension: BitmapsExtension,
    file: &Arc<Node>,
) -> Result<Vec<DirectoryEntry>> {
    let (offset, len) = (extension.directory, extension.directory_len);
    header.check_range(offset, len, file.length(), "Bitmap directory")?;
    let bytes = read(file, offset, usize::try_from(len).unwrap_or(0))?;
    parse_directory(&bytes, extension.count)
}

/// The table of a bitmap: where its clusters are, or what is in them.
pub(super) fn read_table(
    header: &Qcow2Header,
    entry: &DirectoryEntry,
    file: &Arc<Node>,
) -> Result<Vec<u64>> {
    let len = u64::from(entry.table_len) * 8;
    header.check_range(entry.table, len, file.length(), "Bitmap table")?;
    let bytes = read(file, entry.table, usize::try_from(len).unwrap_or(0))?;
    let entries = (0..bytes.len() / 8).map(|index| u64_at(&bytes, index * 8));
    let places = entries.map(|place| match place {
        0 | ALL_SET => Ok(place),
        _ if place & ALL_SET != 0 => Err(invalid("Bitmap table entry is malformed")),
        _ => header
            .check_range(
                place,
                header.cluster_size(),
                file.length(),
                "Bitmap cluster",
            )
            .map(|()| place),
    });
    places.collect()
}

/// The bytes of the disk for which one cluster of bits stands.
pub(super) fn covered(header: &Qcow2Header, granularity: u64) -> u64 {
    (header.cluster_size() * 8).saturating_mul(granularity)
}

fn read_bits(
    header: &Qcow2Header,
    entry: &DirectoryEntry,
    file: &Arc<Node>,
    bits: &DirtyBits,
) -> Result<()> {
    let step = covered(header, entry.granularity());
    if u64::from(entry.table_len) != header.size().div_ceil(step) {
        let name = &entry.name;
        return Err(invalid(format!(
            "Bitmap '{name}' has another size than the disk"
        )));
    }
    for (index, place) in (0..).zip(read_table(header, entry, file)?) {
        let start = index * step;
        match place {
            0 => {}
            ALL_SET => bits.set(start..(start + step).min(header.size())),
            _ => {
                let len = usize::try_from(header.cluster_size()).unwrap_or(0);
                let bytes = read(file, place, len)?;
                for run in runs(&bytes) {
                    let granularity = entry.granularity();
                    let end = start + run.end * granularity;
                    bits.set(start + run.start * granularity..end.min(header.size()));
                }
            }
        }
    }
    Ok(())
}

/// The runs of set bits.
fn runs(bytes: &[u8]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (index, byte) in (0_u64..).zip(bytes).filter(|(_, byte)| **byte != 0) {
        for bit in (0..8).filter(|bit| byte >> bit & 1 != 0) {
            let at = index * 8 + bit;
            match runs.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
    }
    runs
}
