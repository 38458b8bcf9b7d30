//! The order in which an image's tables reach the storage, so that a crash at any moment, of the program or of the host, leaves
//! no reference to a cluster that counts as free.
//!
//! imago writes refcounts before the references to what they count, and references that go before refcounts that sink. The storage may
//! turn that round until it is flushed. So a flush is put between the two where it is missing:
//!
//! * before an L2 table is written, what was written to refcount blocks is durable, and the other way round
//! * before the L1 table, the refcount table or the header is written, everything is
//!
//! Besides, imago writes an entry of the L1 table at once, but keeps the refcount of the L2 table to which the entry refers in memory
//! until the next flush. So before the L1 table or its place is written, the image writes its tables back.
//!
//! Which table a write belongs to is known from the tables above it: their entries are read when the image is opened, and whenever
//! they are written.
//!
//! # Threads
//! All queues share it. No lock is held while something is written.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use super::image::Qcow2Image;
use super::places::{TableKind, TablePlaces};
use crate::block::range_lock::RangeLock;

#[cfg(test)]
mod tests;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct TableOrder {
    places: RwLock<TablePlaces>,
    refcounts: Unsynced,
    references: Unsynced,
    /// One flush at a time is enough.
    turn: Arc<RangeLock>,
    /// Set once the image is open.
    image: OnceLock<Weak<Qcow2Image>>,
}

/// Writes that may not be durable.
#[derive(Debug, Default)]
struct Unsynced {
    written: AtomicU64,
    synced: AtomicU64,
}

/// How many writes there were before a flush.
#[derive(Clone, Copy, Debug)]
pub(super) struct BeforeSync {
    refcounts: u64,
    references: u64,
}

impl Unsynced {
    fn is_there(&self) -> bool {
        self.synced.load(Ordering::SeqCst) < self.written.load(Ordering::SeqCst)
    }

    fn note_written(&self) {
        self.written.fetch_add(1, Ordering::SeqCst);
    }
}

impl TableOrder {
    pub(super) fn new(places: TablePlaces) -> TableOrder {
        TableOrder {
            places: RwLock::new(places),
            refcounts: Unsynced::default(),
            references: Unsynced::default(),
            turn: Arc::default(),
            image: OnceLock::new(),
        }
    }

    pub(super) fn set_image(&self, image: Weak<Qcow2Image>) {
        // It is set once, by the driver that opens the image.
        let _ = self.image.set(image);
    }

    /// The table that a write to `offset` changes. For a write to the header, `start` has its first bytes.
    pub(super) fn table_at(&self, offset: u64, start: &[u8]) -> Option<TableKind> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.table_at(offset, start)
    }

    /// Waits until `table` may be written. `sync` flushes the storage.
    pub(super) async fn before_write<F: Future<Output = io::Result<()>>>(
        &self,
        table: TableKind,
        sync: impl Fn() -> F,
    ) -> io::Result<()> {
        match table {
            TableKind::L1 | TableKind::HeaderWithL1 => {
                if let Some(image) = self.image.get().and_then(Weak::upgrade) {
                    image.write_tables_back().await?;
                }
                self.sync(&sync).await
            }
            TableKind::RefcountTable | TableKind::Header => self.sync(&sync).await,
            TableKind::L2 => self.sync_if(&self.refcounts, &sync).await,
            TableKind::RefcountBlock => self.sync_if(&self.references, &sync).await,
        }
    }

    /// Notes that `bytes` of `table` were written at `offset`. Returns where the refcount table is if it has moved: its new entries are
    /// unknown then.
    pub(super) fn after_write(
        &self,
        table: TableKind,
        offset: u64,
        bytes: &[u8],
    ) -> Option<Range<u64>> {
        let class = match table {
            TableKind::RefcountBlock | TableKind::RefcountTable => &self.refcounts,
            TableKind::L1 | TableKind::L2 | TableKind::Header | TableKind::HeaderWithL1 => {
                &self.references
            }
        };
        class.note_written();
        if table == TableKind::L2 || table == TableKind::RefcountBlock {
            return None;
        }
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        places.learn(table, offset, bytes)
    }

    /// Takes in the entries of the refcount table.
    pub(super) fn learn_refcount_blocks(&self, table: &[u8]) {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        places.learn(TableKind::RefcountTable, 0, table);
    }

    /// To be asked before a flush of the storage begins.
    pub(super) fn before_sync(&self) -> BeforeSync {
        BeforeSync {
            refcounts: self.refcounts.written.load(Ordering::SeqCst),
            references: self.references.written.load(Ordering::SeqCst),
        }
    }

    /// Notes that a flush was done.
    pub(super) fn after_sync(&self, before: BeforeSync) {
        let note = |class: &Unsynced, count| class.synced.fetch_max(count, Ordering::SeqCst);
        note(&self.refcounts, before.refcounts);
        note(&self.references, before.references);
    }

    async fn sync<F: Future<Output = io::Result<()>>>(
        &self,
        sync: &impl Fn() -> F,
    ) -> io::Result<()> {
        let before = self.before_sync();
        sync().await?;
        self.after_sync(before);
        Ok(())
    }

    /// Flushes if there are writes of the class that may not be durable.
    async fn sync_if<F: Future<Output = io::Result<()>>>(
        &self,
        class: &Unsynced,
        sync: &impl Fn() -> F,
    ) -> io::Result<()> {
        if !class.is_there() {
            return Ok(());
        }
        let mut turn = self.turn.ticket(0..1);
        (&mut turn).await;
        // Another task may have done it meanwhile.
        match class.is_there() {
            true => self.sync(sync).await,
            false => Ok(()),
        }
    }
}
