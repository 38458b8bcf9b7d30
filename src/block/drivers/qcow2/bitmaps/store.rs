//! Writes the bitmaps of an image that is being closed. Nothing else changes the image any more.
//!
//! 1. Bits, tables and the directory go into new clusters at the end of the file, and the refcounts of these are written.
//! 2. The header gets the place of the new directory. From here on the new bitmaps count.
//! 3. The clusters of the old ones are freed.
//!
//! A crash before 2 leaves the old bitmaps, which are in use, and one after it lost clusters. Bitmaps that lack something stay as they are.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::super::header::{Qcow2Header, rewrite::with_bitmaps};
use super::super::metadata::{read, read_header, sync, write};
use super::load::{ALL_SET, covered, read_directory, read_table};
use super::refcounts::Refcounts;
use super::{AUTO, BitmapsExtension, DirectoryEntry, encode_directory};
use crate::Result;
use crate::block::dirty_bitmap::DirtyBitmap;
use crate::block::dirty_bitmap::bits::DirtyBits;
use crate::block::node::Node;

/// Writes `bitmaps` into the image in `file`, in place of those that it has. It blocks the thread.
///
/// # Errors
/// The host's; the image has no place for them. It has the old ones then, which lack something.
pub(in super::super) fn store(file: &Arc<Node>, bitmaps: &[Arc<DirtyBitmap>]) -> Result<()> {
    let header = read_header(file, false)?;
    let old = header.bitmaps();
    let old_entries = match old {
        Some(extension) => read_directory(&header, extension, file)?,
        None => Vec::new(),
    };
    let mut refcounts = Refcounts::read(&header, file)?;
    let (mut entries, mut kept) = (Vec::new(), Vec::new());
    for bitmap in bitmaps {
        let name = bitmap.name().unwrap_or_default();
        if !bitmap.is_inconsistent() {
            entries.push(put_bitmap(&header, file, &mut refcounts, bitmap)?);
        } else if let Some(entry) = old_entries.iter().find(|entry| entry.name == name) {
            kept.push(name);
            entries.push(entry.clone());
        }
    }
    let new = put_directory(file, &mut refcounts, &entries)?;
    refcounts.save()?;
    put_header(&header, file, new)?;
    for entry in old_entries
        .iter()
        .filter(|entry| !kept.contains(&entry.name.as_str()))
    {
        for place in read_table(&header, entry, file)? {
            if place > ALL_SET {
                refcounts.free(place..place + header.cluster_size())?;
            }
        }
        refcounts.free(entry.table..entry.table + u64::from(entry.table_len) * 8)?;
    }
    if let Some(old) = old {
        refcounts.free(old.directory..old.directory + old.directory_len)?;
    }
    refcounts.save()
}

/// Writes a bitmap. Returns its entry.
fn put_bitmap(
    header: &Qcow2Header,
    file: &Arc<Node>,
    refcounts: &mut Refcounts<'_>,
    bitmap: &DirtyBitmap,
) -> Result<DirectoryEntry> {
    let bits = bitmap.bits();
    let step = covered(header, bits.granularity());
    let mut table = Vec::new();
    for index in 0..header.size().div_ceil(step) {
        let start = index * step;
        let Some(first) = bits.next_dirty(start..start.saturating_add(step)) else {
            table.push(0_u64);
            continue;
        };
        if first == (start..start.saturating_add(step)) {
            table.push(ALL_SET);
            continue;
        }
        let place = refcounts.take(1)?.start;
        let len = usize::try_from(header.cluster_size()).unwrap_or(0);
        write(file, place, bytes(bits, start, step, len))?;
        table.push(place);
    }
    let flags = if bitmap.is_recording() { AUTO } else { 0 };
    let mut entry =
        DirectoryEntry::new(bitmap.name().unwrap_or_default(), bits.granularity(), flags);
    entry.table_len = u32::try_from(table.len()).unwrap_or(u32::MAX);
    let bytes: Vec<u8> = table.iter().flat_map(|place| place.to_be_bytes()).collect();
    entry.table = refcounts.take_bytes(bytes.len() as u64)?.start;
    write(file, entry.table, bytes)?;
    Ok(entry)
}

/// The bits for `step` bytes of the disk.
fn bytes(bits: &DirtyBits, start: u64, step: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let (mut at, end) = (start, start.saturating_add(step));
    while let Some(run) = bits.next_dirty(at..end) {
        let granule = |place: u64| (place - start).div_ceil(bits.granularity());
        for bit in granule(run.start)..granule(run.end) {
            if let Some(byte) = bytes.get_mut(usize::try_from(bit / 8).unwrap_or(len)) {
                *byte |= 1 << (bit % 8);
            }
        }
        at = run.end;
    }
    bytes
}

/// Writes the directory, if there are bitmaps.
fn put_directory(
    file: &Arc<Node>,
    refcounts: &mut Refcounts<'_>,
    entries: &[DirectoryEntry],
) -> Result<Option<BitmapsExtension>> {
    if entries.is_empty() {
        return Ok(None);
    }
    let bytes = encode_directory(entries);
    let directory_len = bytes.len() as u64;
    let directory = refcounts.take_bytes(directory_len)?.start;
    write(file, directory, bytes)?;
    Ok(Some(BitmapsExtension {
        count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        directory_len,
        directory,
    }))
}

fn put_header(header: &Qcow2Header, file: &Arc<Node>, new: Option<BitmapsExtension>) -> Result<()> {
    let len = usize::try_from(header.cluster_size()).unwrap_or(0);
    let cluster = read(file, 0, len)?;
    let extension = new.map(BitmapsExtension::encode);
    write(file, 0, with_bitmaps(&cluster, extension.as_deref())?)?;
    sync(file)
}
