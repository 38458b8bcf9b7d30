//! An open qcow2 image: requests to it, and what happens when it is closed.
//!
//! # Threads
//! All queues share it. imago locks its tables; a range lock keeps discards away from reads and writes of the same clusters.
#![allow(unsafe_code)] // discards, which must not meet requests that use the same clusters

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use imago::FormatAccess;
use imago::io_buffers::{IoVector, IoVectorMut};

use super::mapping;
use super::scope::{ImageNodes, Scoped};
use super::storage::NodeStorage;
use crate::block::errand;
use crate::block::range_lock::{RangeLock, RangeTicket};
use crate::block::request::{Op, Request};

/// Zeroes for images that cannot mark a cluster as zero (version 2).
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// An open image.
#[derive(Debug)]
pub(super) struct Qcow2Image {
    access: Option<FormatAccess<NodeStorage>>,
    nodes: ImageNodes,
    cluster_size: u64,
    read_only: bool,
    ranges: Arc<RangeLock>,
    /// Something went wrong in the middle of a change: nothing is written any more.
    is_broken: AtomicBool,
    has_warned: AtomicBool,
}

impl Qcow2Image {
    pub(super) fn new(
        access: FormatAccess<NodeStorage>,
        nodes: ImageNodes,
        cluster_size: u64,
        read_only: bool,
    ) -> Qcow2Image {
        Qcow2Image {
            access: Some(access),
            nodes,
            cluster_size,
            read_only,
            ranges: Arc::default(),
            is_broken: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
        }
    }

    pub(super) fn nodes(&self) -> &ImageNodes {
        &self.nodes
    }

    pub(super) fn length(&self) -> u64 {
        self.access.as_ref().map_or(0, FormatAccess::size)
    }

    /// Carries out a request. Returns 0 or a negative errno.
    pub(super) async fn carry_out(&self, request: &mut Request) -> i32 {
        let Some(access) = &self.access else {
            return -libc::ENOMEDIUM;
        };
        if self.is_broken.load(Ordering::Relaxed) {
            return -libc::EIO;
        }
        let work = async {
            let _range = self.lock(request).await;
            start(access, &self.nodes, request).await
        };
        let result = self.without_panic(work).await;
        match result {
            Ok(()) => 0,
            Err(error) => self.errno(request, &error),
        }
    }

    /// Keeps requests that free clusters away from those that use them.
    async fn lock(&self, request: &Request) -> Option<RangeTicket> {
        let start = request.offset / self.cluster_size * self.cluster_size;
        let end = request.offset.saturating_add(request.length);
        let range = start
            ..end
                .checked_next_multiple_of(self.cluster_size)
                .unwrap_or(end);
        let mut ticket = match request.op {
            Op::Flush => return None,
            Op::Read | Op::Write | Op::BlockStatus => self.ranges.shared_ticket(range),
            Op::Discard | Op::WriteZeroes { .. } => self.ranges.ticket(range),
        };
        (&mut ticket).await;
        Some(ticket)
    }

    /// A panic in imago ends the image and not the process.
    async fn without_panic(&self, work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
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
        match &self.access {
            Some(access) => access.flush().await,
            None => Ok(()),
        }
    }

    /// Writes everything back, durably, and blocks the thread.
    pub(super) fn write_back_now(self: &Arc<Self>) -> crate::Result<io::Result<()>> {
        if self.read_only || self.is_broken.load(Ordering::Relaxed) {
            return Ok(Ok(()));
        }
        let image = Arc::clone(self);
        errand::run(|new| {
            let ways = self.nodes.open(new);
            let work = async move {
                match &image.access {
                    Some(access) => Qcow2Image::write_back(access).await,
                    None => Ok(()),
                }
            };
            Scoped::new(ways, work)
        })
    }

    /// Nothing is written any more: the image was written back, and opened by another driver.
    pub(super) fn leave_alone(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    /// Writes everything back, durably.
    async fn write_back(access: &FormatAccess<NodeStorage>) -> io::Result<()> {
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
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    write_zeroes_as_data(access, offset, length).await
                }
                result => result,
            }
        }
    }
}

async fn write_zeroes_as_data(
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
        let Some(access) = self.access.take() else {
            return;
        };
        if self.read_only || self.is_broken.load(Ordering::Relaxed) {
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
