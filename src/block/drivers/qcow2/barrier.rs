//! Refcounts reach the file before the L1 table refers to what they count.
//!
//! imago writes an entry of the L1 table at once, but keeps the refcount of the L2 table to which the entry refers in memory until
//! the next flush. If the program is killed in between, the image has a table that counts as free, and the next one who allocates
//! a cluster overwrites it. So before the L1 table is written, the image writes back its refcounts, and with them all tables.
//!
//! The image's L1 table stays where it is: it grows only with the image.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;
use std::sync::{OnceLock, Weak};

use super::image::Qcow2Image;

/// What a write to the L1 table waits for.
#[derive(Debug)]
pub(super) struct L1Barrier {
    table: Range<u64>,
    /// Set once the image is open.
    image: OnceLock<Weak<Qcow2Image>>,
}

impl L1Barrier {
    pub(super) fn new(table: Range<u64>) -> L1Barrier {
        L1Barrier {
            table,
            image: OnceLock::new(),
        }
    }

    pub(super) fn set_image(&self, image: Weak<Qcow2Image>) {
        // It is set once, by the driver that opens the image.
        let _ = self.image.set(image);
    }

    /// Writes the tables back if the L1 table is going to be written.
    pub(super) async fn before_write(&self, offset: u64) -> io::Result<()> {
        if !self.table.contains(&offset) {
            return Ok(());
        }
        match self.image.get().and_then(Weak::upgrade) {
            Some(image) => image.write_tables_back().await,
            None => Ok(()),
        }
    }
}
