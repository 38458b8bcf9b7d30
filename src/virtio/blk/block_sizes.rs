//! What a disk announces of its blocks, as the options say: never what the host's file happens to prefer.
//!
//! Names, checks and error texts are QEMU's.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use crate::object::options::Form;
use crate::object::{Options, Value};
use crate::{Error, ErrorKind, Result};

/// What a block may have.
const BLOCK: RangeInclusive<u64> = 512..=2 << 20;

/// `min_io_size` is announced as so many logical blocks at most.
const MIN_IO_BLOCKS_MAX: u32 = 0xffff;

/// The sizes of a disk's blocks and requests, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// `logical_block_size`: requests that are not made of such blocks are refused.
    pub logical: u32,
    /// `physical_block_size`: smaller requests are slow.
    pub physical: u32,
    /// `min_io_size`: shorter requests are slow. 0 says nothing.
    pub min_io: u32,
    /// `opt_io_size`: requests of this length are the fastest. 0 says nothing.
    pub opt_io: u32,
    /// `discard_granularity`: discards of other ranges may have no effect. A logical block if absent.
    pub discard_granularity: Option<u32>,
}

impl Default for BlockSizes {
    fn default() -> Self {
        BlockSizes {
            logical: 512,
            physical: 512,
            min_io: 0,
            opt_io: 0,
            discard_granularity: None,
        }
    }
}

impl BlockSizes {
    /// Blocks of `size` bytes, and requests of at least one.
    pub(crate) fn of_blocks(size: u32) -> BlockSizes {
        BlockSizes {
            logical: size,
            physical: size,
            min_io: size,
            opt_io: size,
            discard_granularity: None,
        }
    }

    /// The same with blocks of at least `size` bytes: what a node demands that does not bounce requests.
    pub(super) fn at_least(self, size: u64) -> BlockSizes {
        match u32::try_from(size) {
            Ok(size) if size > self.logical => BlockSizes::of_blocks(size),
            _ => self,
        }
    }

    /// Takes the sizes out of the options of a device.
    ///
    /// # Errors
    /// `InvalidArgument` if a value is not a size, or out of range.
    pub(super) fn take(options: &mut Options) -> Result<BlockSizes> {
        let default = BlockSizes::default();
        let granularity = take_u32(options, "discard_granularity")?;
        Ok(BlockSizes {
            logical: take_block(options, "logical_block_size")?.unwrap_or(default.logical),
            physical: take_block(options, "physical_block_size")?.unwrap_or(default.physical),
            min_io: take_u32(options, "min_io_size")?.unwrap_or(default.min_io),
            opt_io: take_u32(options, "opt_io_size")?.unwrap_or(default.opt_io),
            // The largest number stands for the default, as in QEMU.
            discard_granularity: granularity.filter(|&size| size != u32::MAX),
        })
    }

    /// Checks the sizes by themselves, and against each other.
    ///
    /// # Errors
    /// `InvalidArgument` with what is wrong.
    pub(super) fn check(self) -> Result<()> {
        check_block("logical_block_size", self.logical.into())?;
        check_block("physical_block_size", self.physical.into())?;
        if self.logical > self.physical {
            let message = "logical_block_size > physical_block_size not supported";
            return Err(invalid(message.into()));
        }
        self.check_multiple("min_io_size", self.min_io)?;
        if self.min_io / self.logical > MIN_IO_BLOCKS_MAX {
            let message = format!("min_io_size must not exceed {MIN_IO_BLOCKS_MAX} logical blocks");
            return Err(invalid(message));
        }
        self.check_multiple("opt_io_size", self.opt_io)?;
        self.check_multiple("discard_granularity", self.granularity())
    }

    fn check_multiple(self, name: &str, size: u32) -> Result<()> {
        if size.is_multiple_of(self.logical) {
            return Ok(());
        }
        let message = format!("{name} must be a multiple of logical_block_size");
        Err(invalid(message))
    }

    /// The unit of discards that have an effect.
    pub(super) fn granularity(self) -> u32 {
        self.discard_granularity.unwrap_or(self.logical)
    }

    /// The property of that name.
    pub(super) fn property(self, name: &str) -> Option<Value> {
        let size = match name {
            "discard_granularity" => self.discard_granularity.unwrap_or(u32::MAX),
            "logical_block_size" => self.logical,
            "min_io_size" => self.min_io,
            "opt_io_size" => self.opt_io,
            "physical_block_size" => self.physical,
            _ => return None,
        };
        Some(i64::from(size).into())
    }
}

/// A size of blocks; 0 stands for the default.
fn take_block(options: &mut Options, name: &str) -> Result<Option<u32>> {
    let Some(size) = take(options, name)?.filter(|&size| size != 0) else {
        return Ok(None);
    };
    check_block(name, size)?;
    Ok(u32::try_from(size).ok())
}

fn check_block(name: &str, size: u64) -> Result<()> {
    if size.is_power_of_two() && BLOCK.contains(&size) {
        return Ok(());
    }
    let (least, most) = (BLOCK.start(), BLOCK.end());
    let message = format!("parameter {name} must be a power of 2 between {least} and {most}");
    Err(invalid(message))
}

fn take_u32(options: &mut Options, name: &str) -> Result<Option<u32>> {
    let Some(size) = take(options, name)? else {
        return Ok(None);
    };
    let too_large = |_| {
        let most = u32::MAX;
        let message = format!(
            "Property virtio-blk-device.{name} doesn't take value {size} (maximum: {most})"
        );
        invalid(message)
    };
    u32::try_from(size).map(Some).map_err(too_large)
}

/// A size. QEMU's devices report another value in words of their own.
fn take(options: &mut Options, name: &str) -> Result<Option<u64>> {
    let expects = match options.form() {
        Form::Json => "uint64",
        Form::Opts | Form::Keyval => "size",
    };
    let size = options.take_size(name);
    size.map_err(|_| options.bad(name, expects))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::options;

    fn sizes(text: &str) -> Result<BlockSizes> {
        let mut options = options::parse(Some("driver"), &format!("x,{text}")).unwrap();
        let sizes = BlockSizes::take(&mut options)?;
        sizes.check().map(|()| sizes)
    }

    #[test]
    fn sizes_default_and_take_suffixes() {
        let text = "logical_block_size=1K,physical_block_size=4k,min_io_size=8192,opt_io_size=1M,\
                    discard_granularity=64k";
        let expected = BlockSizes {
            logical: 1024,
            physical: 4096,
            min_io: 8192,
            opt_io: 1 << 20,
            discard_granularity: Some(65536),
        };
        assert_eq!(sizes(text).unwrap(), expected);
        for default in [
            "logical_block_size=0,physical_block_size=0",
            "discard_granularity=4294967295",
        ] {
            assert_eq!(sizes(default).unwrap(), BlockSizes::default(), "{default}");
        }
    }

    #[test]
    fn what_is_wrong_with_sizes_is_said_in_the_words_of_qemu() {
        let block = |name| format!("parameter {name} must be a power of 2 between 512 and 2097152");
        let maximum = |name, value| {
            format!(
                "Property virtio-blk-device.{name} doesn't take value {value} (maximum: 4294967295)"
            )
        };
        let multiple = |name| format!("{name} must be a multiple of logical_block_size");
        let cases = [
            ("logical_block_size=513", block("logical_block_size")),
            ("logical_block_size=256", block("logical_block_size")),
            ("logical_block_size=4M", block("logical_block_size")),
            ("physical_block_size=3000", block("physical_block_size")),
            (
                "logical_block_size=x",
                "Parameter 'logical_block_size' expects size".into(),
            ),
            (
                "opt_io_size=-1",
                "Parameter 'opt_io_size' expects size".into(),
            ),
            ("opt_io_size=8G", maximum("opt_io_size", 8_u64 << 30)),
            (
                "discard_granularity=5G",
                maximum("discard_granularity", 5 << 30),
            ),
            (
                "logical_block_size=4096",
                "logical_block_size > physical_block_size not supported".into(),
            ),
            ("min_io_size=100", multiple("min_io_size")),
            (
                "min_io_size=64M",
                "min_io_size must not exceed 65535 logical blocks".into(),
            ),
            ("opt_io_size=100", multiple("opt_io_size")),
            ("discard_granularity=100", multiple("discard_granularity")),
        ];
        for (text, expected) in cases {
            assert_eq!(sizes(text).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
