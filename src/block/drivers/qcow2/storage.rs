//! A node below an image, as imago sees it.
//!
//! # Invariants
//! 1. A request's memory stays until the request is back. imago owns it, and awaits each of its requests to the end: it drops
//!    no future of a storage in flight (0.2.6; the version is pinned). If it does it nevertheless, as during a panic beside
//!    the request, the process aborts.
#![allow(unsafe_code)] // requests to memory that imago has lent

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;

use super::header::REFCOUNT_TABLE_BYTES_MAX;
use super::order::TableOrder;
use super::places::TableKind;
use super::scope::{Role, current};
use crate::block::io_buffer::IoBuffer;
use crate::block::node::Node;
use crate::block::request::{Op, Request, SECTOR};
use crate::block::way::below::Below;

/// A node below an image; see the head of this file.
#[derive(Debug)]
pub(super) struct NodeStorage {
    node: Arc<Node>,
    role: Role,
    /// Nothing was written behind this, so zeroes are there.
    written_end: AtomicU64,
    /// For the node with the image's tables.
    order: Option<Arc<TableOrder>>,
    helper: CommonStorageHelper,
}

impl NodeStorage {
    pub(super) fn new(node: &Arc<Node>, role: Role) -> NodeStorage {
        NodeStorage {
            node: Arc::clone(node),
            role,
            written_end: AtomicU64::new(node.length()),
            order: None,
            helper: CommonStorageHelper::default(),
        }
    }

    /// The same node, with an order of the writes to tables.
    pub(super) fn with_order(self, order: &Arc<TableOrder>) -> NodeStorage {
        NodeStorage {
            order: Some(Arc::clone(order)),
            ..self
        }
    }

    fn below(&self) -> io::Result<Arc<Below>> {
        current(self.role).ok_or_else(|| io::Error::other("used outside of a task of the image"))
    }

    /// An operation without memory.
    async fn change(&self, op: Op, offset: u64, length: u64) -> io::Result<()> {
        let below = self.below()?;
        let mut request = below.request(op, offset);
        request.set_length(length);
        below.finish(request).await
    }

    pub(super) async fn flush_below(&self) -> io::Result<()> {
        self.change(Op::Flush, 0, 0).await
    }

    /// If a write changes a table whose order matters: which one, and its bytes if they are of interest.
    fn table_write(
        &self,
        vector: &IoVector<'_>,
        offset: u64,
    ) -> Option<(&TableOrder, TableKind, Vec<u8>)> {
        let order = self.order.as_deref()?;
        let copy = || {
            let mut bytes = vec![0; usize::try_from(vector.len()).unwrap_or(0)];
            vector.copy_into_slice(&mut bytes);
            bytes
        };
        let start = if offset == 0 { copy() } else { Vec::new() };
        let table = order.table_at(offset, &start)?;
        let bytes = match table {
            TableKind::L1 | TableKind::RefcountTable => copy(),
            _ => start,
        };
        Some((order, table, bytes))
    }

    async fn read_refcount_table(&self, order: &TableOrder, place: Range<u64>) -> io::Result<()> {
        let below = self.below()?;
        let mut request = below.request(Op::Read, place.start);
        let len = place.end - place.start;
        if len > REFCOUNT_TABLE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let len = usize::try_from(len).map_err(io::Error::other)?;
        request.own(IoBuffer::zeroed(len));
        let finished = below.submit(request).await;
        let (mut back, result) = (finished.request, finished.result);
        if let Some(table) = back.take_buffer().filter(|_| result == 0) {
            order.learn_refcount_blocks(&table);
        }
        below.recycle(back);
        match result {
            0 => Ok(()),
            result => Err(io::Error::from_raw_os_error(-result)),
        }
    }

    async fn write_below(&self, vector: &IoVector<'_>, offset: u64) -> io::Result<()> {
        let below = self.below()?;
        self.note_written(offset, vector.len());
        let mut request = below.request(Op::Write, offset);
        // SAFETY: the caller keeps the vector to the end of this function, which awaits the request.
        let vectors = unsafe { vector.as_iovec() };
        // SAFETY: as above; `Below::finish` ends the process rather than leaving early (invariant 1).
        unsafe { lend(&mut request, vectors) };
        below.finish(request).await
    }

    fn note_written(&self, offset: u64, length: u64) {
        let end = offset.saturating_add(length);
        self.written_end.fetch_max(end, Ordering::Relaxed);
    }
}

/// Makes `vectors` the request's memory.
///
/// # Safety
/// The memory stays until the request is back.
unsafe fn lend(request: &mut Request, vectors: &[libc::iovec]) {
    for vector in vectors {
        // SAFETY: as promised.
        unsafe { request.push_segment(vector.iov_base.cast(), vector.iov_len) };
    }
}

impl Storage for NodeStorage {
    fn req_align(&self) -> usize {
        usize::try_from(self.node.block_size().max(SECTOR)).unwrap_or(4096)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.node.length())
    }

    async unsafe fn pure_readv(&self, vector: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let below = self.below()?;
        let mut request = below.request(Op::Read, offset);
        // SAFETY: the vector stays to the end of this function, which awaits the request.
        let vectors = unsafe { vector.as_iovec() };
        // SAFETY: as above; `Below::finish` ends the process rather than leaving early (invariant 1).
        unsafe { lend(&mut request, vectors) };
        below.finish(request).await
    }

    async unsafe fn pure_writev(&self, vector: IoVector<'_>, offset: u64) -> io::Result<()> {
        let Some((order, table, bytes)) = self.table_write(&vector, offset) else {
            return self.write_below(&vector, offset).await;
        };
        order.before_write(table, || self.flush_below()).await?;
        self.write_below(&vector, offset).await?;
        match order.after_write(table, offset, &bytes) {
            Some(place) => self.read_refcount_table(order, place).await,
            None => Ok(()),
        }
    }

    async unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let written_end = self.written_end.load(Ordering::Relaxed);
        let length = length.min(written_end.saturating_sub(offset));
        if length == 0 {
            return Ok(());
        }
        self.change(Op::WriteZeroes { unmap: true }, offset, length)
            .await
    }

    async unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.note_written(offset, length);
        self.change(Op::WriteZeroes { unmap: false }, offset, length)
            .await
    }

    async unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.change(Op::Discard, offset, length).await
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        let before = self.order.as_ref().map(|order| order.before_sync());
        self.flush_below().await?;
        if let (Some(order), Some(before)) = (&self.order, before) {
            order.after_sync(before);
        }
        Ok(())
    }

    /// Each write is awaited to its end, so there is none left.
    async fn settle_writes(&self) -> io::Result<()> {
        Ok(())
    }

    async unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    async fn resize(&self, length: u64, mode: PreallocateMode) -> io::Result<()> {
        if mode != PreallocateMode::None && mode != PreallocateMode::Zero {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.node
            .set_length_for_parent(length)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

impl fmt::Display for NodeStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.name().fmt(f)
    }
}
