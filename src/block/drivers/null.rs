//! `null-co`: a disk without anything behind it, for measuring.
//!
//! Writes vanish. Reads leave the memory as it is, or zero it with `read-zeroes=on`.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::DriverType;
use crate::Result;
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::request::SECTOR;
use crate::block::way::Way;
use crate::block::way::null::NullWay;
use crate::object::Options;
use crate::schema::{Member, ValueType};

/// The size of a null disk when none is given.
const DEFAULT_SIZE: u64 = 1 << 30;

/// A null disk.
#[derive(Debug)]
struct NullDriver {
    length: AtomicU64,
    read_only: bool,
    way: NullWay,
}

/// The driver `null-co`.
pub(super) const NULL_CO: DriverType = DriverType {
    name: "null-co",
    members: &[
        Member::optional("size", ValueType::Size),
        Member::optional("read-zeroes", ValueType::Bool),
    ],
    open,
};

/// Opens a null disk as `-drive` and `-blockdev` describe it.
pub(in crate::block) fn open(
    keys: &mut Options,
    node: &NewNode<'_>,
) -> Result<Box<dyn BlockDriver>> {
    let size = keys.take_size("size")?.unwrap_or(DEFAULT_SIZE);
    let read_zeroes = keys.take_bool("read-zeroes")?.unwrap_or(false);
    Ok(Box::new(NullDriver {
        length: AtomicU64::new(size / SECTOR * SECTOR),
        read_only: node.common.read_only.unwrap_or(false),
        way: NullWay { read_zeroes },
    }))
}

impl BlockDriver for NullDriver {
    fn driver(&self) -> Driver {
        Driver::NullCo
    }

    fn open_way(&self, _gate: &Arc<Gate>) -> Way {
        Way::Null(self.way)
    }

    fn length(&self) -> Result<u64> {
        Ok(self.length.load(Ordering::Relaxed))
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.length.store(length, Ordering::Relaxed);
        Ok(())
    }

    fn block_size(&self) -> u64 {
        SECTOR
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn allocated(&self) -> Option<u64> {
        Some(0)
    }
}
