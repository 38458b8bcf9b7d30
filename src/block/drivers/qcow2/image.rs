//! An open qcow2 image: requests to it, and what happens when it is closed.
//!
//! # Threads
//! All queues share it. imago locks its tables; a range lock keeps discards away from reads and writes of the same clusters, and a
//! resize away from everything.
#![allow(unsafe_code)] // discards, which must not meet requests that use the same clusters

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;

use imago::FormatAccess;
use imago::io_buffers::{IoVector, IoVectorMut};

use super::access::open_access;
use super::mapping;
use super::order::TableOrder;
use super::populate;
use super::scope::{ImageNodes, Scoped};
use super::storage::NodeStorage;
use crate::block::errand;
use crate::block::range_lock::{RangeLock, RangeTicket};
use crate::block::request::{Op, Request};

#[cfg(test)]
mod tests;

/// Zeroes for images that cannot mark a cluster as zero (version 2).
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// What a flush locks: no data is there.
const FLUSH: Range<u64> = u64::MAX - 1..u64::MAX;

/// An open image.
#[derive(Debug)]
pub(super) struct Qcow2Image {
    /// Absent while the image is opened anew, and if that failed.
    access: RwLock<Option<Arc<FormatAccess<NodeStorage>>>>,
    length: AtomicU64,
    order: Arc<TableOrder>,
    nodes: ImageNodes,
    cluster_size: u64,
    read_only: bool,
    ranges: Arc<RangeLock>,
    /// Lets one task at a time open the image anew.
    opening: Arc<RangeLock>,
    /// Something went wrong in the middle of a change: nothing is written any more.
    is_broken: AtomicBool,
    has_warned: AtomicBool,
}

impl Qcow2Image {
    pub(super) fn new(
        access: FormatAccess<NodeStorage>,
        nodes: ImageNodes,
        order: &Arc<TableOrder>,
        (cluster_size, read_only): (u64, bool),
    ) -> Qcow2Image {
        Qcow2Image {
            length: AtomicU64::new(access.size()),
            access: RwLock::new(Some(Arc::new(access))),
            order: Arc::clone(order),
            nodes,
            cluster_size,
            read_only,
            ranges: Arc::default(),
            opening: Arc::default(),
            is_broken: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
        }
    }

    pub(super) fn nodes(&self) -> &ImageNodes {
        &self.nodes
    }

    pub(super) fn ranges(&self) -> &Arc<RangeLock> {
        &self.ranges
    }

    pub(super) fn cluster_size(&self) -> u64 {
        self.cluster_size
    }

    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Notes that the image has been resized.
    pub(super) fn note_length(&self, length: u64) {
        self.length.store(length, Ordering::Relaxed);
    }

    /// What imago has opened.
    pub(super) fn access(&self) -> io::Result<Arc<FormatAccess<NodeStorage>>> {
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        access
            .clone()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEDIUM))
    }

    /// The same. Opens the image if a resize could not, in the scope of its nodes.
    pub(super) async fn access_or_open(&self) -> io::Result<Arc<FormatAccess<NodeStorage>>> {
        if let Ok(access) = self.access() {
            return Ok(access);
        }
        let mut turn = self.opening.ticket(0..1);
        (&mut turn).await;
        if let Ok(access) = self.access() {
            return Ok(access);
        }
        let opened = open_access(&self.nodes, &self.order, self.read_only).await?;
        let opened = Arc::new(opened);
        self.replace_access(Some(Arc::clone(&opened)));
        drop(turn);
        Ok(opened)
    }

    /// Whether nothing may be written any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Replaces what imago has opened. The caller has the whole range lock.
    pub(super) fn replace_access(&self, new: Option<Arc<FormatAccess<NodeStorage>>>) {
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *access, new);
        drop(access);
        drop(old);
    }

    /// Carries out a request. Returns 0 or a negative errno.
    pub(super) async fn carry_out(&self, request: &mut Request) -> i32 {
        if self.is_broken() {
            return -libc::EIO;
        }
        let work = async {
            let _range = self.lock(request).await;
            let access = self.access_or_open().await?;
            start(&access, &self.nodes, request).await
        };
        let result = self.without_panic(work).await;
        match result {
            Ok(()) => 0,
            Err(error) if request.is_fast && error.kind() == io::ErrorKind::Unsupported => {
                -libc::ENOTSUP
            }
            Err(error) => self.errno(request, &error),
        }
    }

    /// Keeps requests that free clusters away from those that use them.
    async fn lock(&self, request: &Request) -> RangeTicket {
        let start = request.offset / self.cluster_size * self.cluster_size;
        let end = request.offset.saturating_add(request.length);
        let range = start
            ..end
                .checked_next_multiple_of(self.cluster_size)
                .unwrap_or(end);
        let mut ticket = match request.op {
            // It waits for a resize only.
            Op::Flush => self.ranges.shared_ticket(FLUSH),
            Op::Read | Op::Write | Op::BlockStatus => self.ranges.shared_ticket(range),
            // A guest's write must not come between the two halves of a copy.
            Op::Discard | Op::WriteZeroes { .. } | Op::Populate => self.ranges.ticket(range),
        };
        (&mut ticket).await;
        ticket
    }

    /// A panic in imago ends the image and not the process.
    pub(super) async fn without_panic(
        &self,
        work: impl Future<Output = io::Result<()>>,
    ) -> io::Result<()> {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            let poll = || work.as_mut().poll(context);
            catch_unwind(AssertUnwindSafe(poll)).unwrap_or_else(|_| {
                self.is_broken.store(true, Ordering::Relaxed);
                Poll::Ready(Err(io::Error::other("the image cannot be understood")))
            })
        })
        .await
    }

    /// The errno of a failed request. The first one of an image is reported.
    fn errno(&self, request: &Request, error: &io::Error) -> i32 {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            let (op, offset, name) = (request.op, request.offset, self.nodes.file.name());
            glib::g_warning!(
                "qcontext",
                "qcow2 over node '{name}': {op:?} at {offset}: {error}"
            );
        }
        -errno(error)
    }

    /// Writes the tables to the node below, refcounts before what they count.
    pub(super) async fn write_tables_back(&self) -> io::Result<()> {
        self.access()?.flush().await
    }

    /// Writes everything back, durably, and blocks the thread.
    pub(super) fn write_back_now(self: &Arc<Self>) -> crate::Result<io::Result<()>> {
        if self.read_only || self.is_broken() {
            return Ok(Ok(()));
        }
        let Ok(access) = self.access() else {
            return Ok(Ok(()));
        };
        errand::run(|new| {
            let ways = self.nodes.open(new);
            Scoped::new(ways, async move { Qcow2Image::write_back(&access).await })
        })
    }

    /// Nothing is written any more: the image was written back, and opened by another driver.
    pub(super) fn leave_alone(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    /// Writes everything back, durably.
    pub(super) async fn write_back(access: &FormatAccess<NodeStorage>) -> io::Result<()> {
        access.flush().await?;
        access.sync().await
    }
}

async fn start(
    access: &FormatAccess<NodeStorage>,
    nodes: &ImageNodes,
    request: &mut Request,
) -> io::Result<()> {
    let (offset, length) = (request.offset, request.length);
    match request.op {
        Op::Read => {
            let pieces = request.pieces();
            let (vector, _guard) = IoVectorMut::from_volatile_slice(&pieces);
            access.readv(vector, offset).await
        }
        Op::Write => {
            let pieces = request.pieces();
            let (vector, _guard) = IoVector::from_volatile_slice(&pieces);
            access.writev(vector, offset).await
        }
        Op::BlockStatus => {
            let backing = nodes.backing.as_ref();
            let status = mapping::status(access, backing, offset, length).await?;
            request.set_status(status);
            Ok(())
        }
        Op::Flush => Qcow2Image::write_back(access).await,
        Op::Discard => {
            // SAFETY: the caller has the range alone, so no other request uses these clusters.
            let discarded = unsafe { access.discard_to_any_unsafe(offset, length) };
            match discarded.await {
                // A hint, which an old image cannot take.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
                result => result,
            }
        }
        Op::WriteZeroes { unmap } => {
            let zeroed = if unmap {
                // SAFETY: as above.
                unsafe { access.discard_to_zero_unsafe(offset, length) }.await
            } else {
                access.write_zeroes(offset, length).await
            };
            match zeroed {
                Err(error) if error.kind() == io::ErrorKind::Unsupported && !request.is_fast => {
                    write_zeroes_as_data(access, offset, length).await
                }
                result => result,
            }
        }
        Op::Populate => match &nodes.backing {
            Some(backing) => populate::populate(access, backing, offset, length).await,
            None => Ok(()),
        },
    }
}

/// Makes a range read as zeroes, whose clusters may stay.
pub(super) async fn write_zeroes(
    access: &FormatAccess<NodeStorage>,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    match access.write_zeroes(offset, length).await {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            write_zeroes_as_data(access, offset, length).await
        }
        result => result,
    }
}

/// Writes zeroes to a range.
pub(super) async fn write_zeroes_as_data(
    access: &FormatAccess<NodeStorage>,
    mut offset: u64,
    length: u64,
) -> io::Result<()> {
    let end = offset + length;
    while offset < end {
        let count = (end - offset).min(ZEROES.len() as u64);
        let zeroes = &ZEROES[..usize::try_from(count).unwrap_or(0)];
        access.write(zeroes, offset).await?;
        offset += count;
    }
    Ok(())
}

/// The errno of an error that imago made or passed on.
pub(super) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(match error.kind() {
        io::ErrorKind::Unsupported => libc::ENOTSUP,
        io::ErrorKind::OutOfMemory => libc::ENOMEM,
        io::ErrorKind::StorageFull => libc::ENOSPC,
        _ => libc::EIO,
    })
}

impl Drop for Qcow2Image {
    /// Writes the tables back. A device flushes its node before it goes, so little is left.
    fn drop(&mut self) {
        let Ok(access) = self.access() else {
            return;
        };
        self.replace_access(None);
        if self.read_only || self.is_broken() {
            return;
        }
        let nodes = self.nodes.clone();
        let written = errand::run(|new| {
            let work = async move { Qcow2Image::write_back(&access).await };
            Scoped::new(nodes.open(new), work)
        });
        let failed = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let name = self.nodes.file.name();
        glib::g_warning!("qcontext", "closing the image on node '{name}': {failed}");
    }
}
