//! What `-device virtio-blk` takes besides the options of every device.
#![forbid(unsafe_code)]

use super::BlockSizes;
use crate::block::OnError;
use crate::object::Options;
use crate::virtio::pluggable::Named;
use crate::{Error, ErrorKind, Result};

/// The most queues that `num-queues` asks for.
const NUM_QUEUES_MAX: u16 = 64;

/// The options with their types.
pub(super) const OPTIONS: [Named; 10] = [
    ("discard_granularity", "size"),
    ("drive", "string"),
    ("logical_block_size", "size"),
    ("min_io_size", "size"),
    ("num-queues", "int"),
    ("opt_io_size", "size"),
    ("physical_block_size", "size"),
    ("rerror", "BlockdevOnError"),
    ("serial", "string"),
    ("werror", "BlockdevOnError"),
];

/// A disk to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkOptions {
    /// The node name or `-drive` id of the node behind the disk.
    pub drive: String,
    /// How many queues a guest may use.
    pub num_queues: u16,
    /// The serial number that the guest reads; the id of the drive if absent.
    pub serial: Option<String>,
    /// Nothing can be written, whatever the node allows.
    pub read_only: bool,
    /// Others may write the node meanwhile, as other exports do in QEMU.
    pub shares_writes: bool,
    /// What the node's errors call the disk: `device` or `export`.
    pub kind: &'static str,
    /// What the guest is told about blocks.
    pub sizes: BlockSizes,
    /// `rerror`: what is done about failed reads; what the drive says if absent.
    pub read_errors: Option<OnError>,
    /// `werror`: the same about all other requests.
    pub write_errors: Option<OnError>,
}

impl BlkOptions {
    /// A disk with default settings.
    pub fn new(drive: impl Into<String>) -> BlkOptions {
        BlkOptions {
            drive: drive.into(),
            num_queues: 1,
            serial: None,
            read_only: false,
            shares_writes: false,
            kind: "device",
            sizes: BlockSizes::default(),
            read_errors: None,
            write_errors: None,
        }
    }

    /// Takes the disk's options out of those of the device `id`.
    ///
    /// # Errors
    /// There is no drive, or a value is not what is expected.
    pub fn from_options(id: &str, options: &mut Options) -> Result<BlkOptions> {
        let drive = options.take_str("drive")?.filter(|drive| !drive.is_empty());
        let mut disk = BlkOptions::new(drive.ok_or_else(|| {
            let message = format!("device '{id}' has no drive, expected drive=ID");
            Error::new(ErrorKind::MissingArgument, message)
        })?);
        disk.serial = options.take_str("serial")?;
        disk.sizes = BlockSizes::take(options)?;
        disk.read_errors = OnError::take_of_device(options, "rerror")?;
        disk.write_errors = OnError::take_of_device(options, "werror")?;
        if let Some(count) = options.take_uint("num-queues", 1..=NUM_QUEUES_MAX.into())? {
            disk.num_queues = u16::try_from(count).unwrap_or(NUM_QUEUES_MAX);
        }
        Ok(disk)
    }

    /// Checks the numbers of the device `id`.
    ///
    /// # Errors
    /// A number is out of range, or the sizes of blocks contradict each other.
    pub(super) fn check_numbers(&self, id: &str) -> Result<()> {
        let count = self.num_queues;
        if (1..=NUM_QUEUES_MAX).contains(&count) {
            return self.sizes.check();
        }
        let message = format!("device '{id}': num-queues={count} is not in 1..={NUM_QUEUES_MAX}");
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }
}
