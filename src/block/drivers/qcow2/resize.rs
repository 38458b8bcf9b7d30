//! A qcow2 image becomes longer or shorter while it is open.
//!
//! A resize has the whole range lock, so no request is under way meanwhile. When the image grows, imago moves the L1 table if it is too
//! small. When it shrinks, the clusters behind the new end are freed first, and the size in the header changes last; imago then opens
//! the image anew. A crash leaves the old size or the new one.
//!
//! # Threads
//! The thread that resizes waits for requests of others. So it may not be the home of a queue.
#![allow(unsafe_code)] // discards, which must not meet requests that use the same clusters

use std::cmp::Ordering;
use std::io;
use std::sync::Arc;

use imago::format::PreallocateMode;
use imago::{FormatAccess, ShallowMapping, StorageExt};

use super::image::{Qcow2Image, write_zeroes_as_data};
use super::scope::{Role, Scoped};
use super::storage::NodeStorage;
use crate::block::errand;
use crate::{Error, Result};

/// Where the header has the size of the disk.
const SIZE_OFFSET: u64 = 24;

impl Qcow2Image {
    /// Makes the disk longer, with zeroes, or shorter. Blocks the thread until the requests under way have ended.
    ///
    /// # Errors
    /// `Os`. The image has its old size then, or the new one if it should become shorter.
    pub(super) fn set_length(self: &Arc<Self>, length: u64) -> Result<()> {
        let image = Arc::clone(self);
        let nodes = self.nodes().clone();
        let resized = errand::run(|new| {
            let work = async move { image.resize(length).await };
            Scoped::new(nodes.open(new), work)
        })?;
        resized.map_err(|error| Error::os("Could not resize the image", error))
    }

    async fn resize(&self, length: u64) -> io::Result<()> {
        let mut whole = self.ranges().ticket(0..u64::MAX);
        (&mut whole).await;
        if self.is_broken() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let before = self.length();
        let work = async {
            match length.cmp(&before) {
                Ordering::Less => self.shrink(before, length).await,
                Ordering::Equal => Ok(()),
                Ordering::Greater => self.grow(before, length).await,
            }
        };
        self.without_panic(work).await?;
        self.note_length(length);
        drop(whole);
        Ok(())
    }

    async fn grow(&self, before: u64, length: u64) -> io::Result<()> {
        let access = self.access_or_open().await?;
        let backing = self.nodes().backing.as_ref();
        let backing_end = backing.map_or(0, |backing| backing.length());
        // What the backing file has behind the old end must not appear.
        let hidden_end = backing_end.clamp(before, length);
        let mut data_end = before;
        if hidden_end > before {
            let hidden = access.resize_grow(hidden_end, PreallocateMode::Zero).await;
            match hidden {
                // A cluster of an old image cannot be zero.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => data_end = hidden_end,
                result => result?,
            }
        }
        access.resize_grow(length, PreallocateMode::None).await?;
        let within = before.checked_next_multiple_of(self.cluster_size());
        data_end = data_end.max(within.map_or(length, |end| end.min(length)));
        if data_end > before && may_have_data(&access, before, backing_end).await? {
            write_zeroes_as_data(&access, before, data_end - before).await?;
        }
        Qcow2Image::write_back(&access).await
    }

    async fn shrink(&self, before: u64, length: u64) -> io::Result<()> {
        let access = self.access_or_open().await?;
        let first = length.next_multiple_of(self.cluster_size());
        free_clusters(&access, first, before).await?;
        Qcow2Image::write_back(&access).await?;
        let header = NodeStorage::new(&self.nodes().file, Role::File);
        header
            .write(length.to_be_bytes().as_slice(), SIZE_OFFSET)
            .await?;
        drop(access);
        // imago knows the old size, and would write it back. If anything fails from here on, the next request opens the image.
        self.replace_access(None);
        self.note_length(length);
        header.flush_below().await?;
        self.access_or_open().await?;
        match &self.nodes().data {
            Some(data) => data.set_length_for_parent(length).map_err(io_error),
            None => Ok(()),
        }
    }
}

fn io_error(error: Error) -> io::Error {
    match error.errno() {
        0 => io::Error::other(error.to_string()),
        errno => io::Error::from_raw_os_error(errno),
    }
}

/// Whether something other than zeroes may be read in the cluster at `offset`.
async fn may_have_data(
    access: &FormatAccess<NodeStorage>,
    offset: u64,
    backing_end: u64,
) -> io::Result<bool> {
    let (mapping, _) = access.get_shallow_mapping(offset, 1).await?;
    Ok(match mapping {
        ShallowMapping::Zero { .. } => false,
        ShallowMapping::Indirect { .. } => backing_end > offset,
        _ => true,
    })
}

/// Frees the clusters from `offset` on. Parts without clusters are left alone, for which imago would make tables.
async fn free_clusters(
    access: &FormatAccess<NodeStorage>,
    mut offset: u64,
    end: u64,
) -> io::Result<()> {
    while offset < end {
        let (mapping, count) = access.get_shallow_mapping(offset, end - offset).await?;
        let is_free = matches!(
            mapping,
            ShallowMapping::Indirect { .. }
                | ShallowMapping::Zero {
                    explicit: false,
                    ..
                }
        );
        if !is_free {
            // SAFETY: the caller has the whole range lock, so no other request uses these clusters.
            unsafe { access.discard_to_backing_unsafe(offset, count) }.await?;
        }
        offset += count.max(1);
    }
    Ok(())
}
