//! What is known about a range of a node without reading it.
//!
//! The answer to a request [`Op::BlockStatus`](super::Op): QEMU's `bdrv_block_status` and `bdrv_is_allocated_above` in one.
#![forbid(unsafe_code)]

/// See the head of this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStatus {
    /// For how many bytes from the offset that was asked about the answer holds; it is not 0.
    pub length: u64,
    /// The bytes have storage and are read from it. They may be zero.
    pub has_data: bool,
    /// The bytes read as zeroes.
    pub is_zero: bool,
    /// Which image decides what the bytes are: 1 for the node itself, 2 for its backing file, and so on; 0 if none of them
    /// does, so nothing was ever written there. Filters count as one with the node below.
    pub depth: u32,
}

impl BlockStatus {
    /// Data that the node itself has: what is true of all nodes that do not know better.
    pub(super) fn data(length: u64) -> BlockStatus {
        BlockStatus {
            length,
            has_data: true,
            is_zero: false,
            depth: 1,
        }
    }

    /// Zeroes that the node itself has.
    pub(super) fn zeroes(length: u64) -> BlockStatus {
        BlockStatus {
            has_data: false,
            is_zero: true,
            ..BlockStatus::data(length)
        }
    }

    /// The same for whole units. A unit that begins with zeroes counts as data, because it may have other bytes behind them.
    #[must_use]
    pub(super) fn in_units(self, unit: u64) -> BlockStatus {
        let length = self.length / unit * unit;
        match length {
            0 => BlockStatus {
                depth: self.depth,
                ..BlockStatus::data(unit)
            },
            length => BlockStatus { length, ..self },
        }
    }

    /// What an image says for which its backing file answers this.
    #[must_use]
    pub(super) fn one_deeper(self) -> BlockStatus {
        let depth = match self.depth {
            0 => 0,
            depth => depth.saturating_add(1),
        };
        BlockStatus { depth, ..self }
    }

    /// Whether the next bytes with the status `next` belong to the same range.
    pub(super) fn goes_on(self, next: BlockStatus) -> bool {
        self == BlockStatus {
            length: self.length,
            ..next
        }
    }

    /// Whether the node itself has the bytes, and not a backing file.
    pub fn is_allocated(self) -> bool {
        self.depth == 1
    }
}
