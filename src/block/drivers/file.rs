//! `file` and `host_device`: a file or block device of the host.
#![forbid(unsafe_code)]

use std::sync::Arc;

use gsource::IoQueue;

use super::DriverType;
use crate::block::common::{CommonOptions, unsafe_cache};
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::found_file::FoundFile;
use crate::block::gate::Gate;
use crate::block::image::{Image, OpenImage};
use crate::block::image_info::{ImageInfo, ImageSpecific};
use crate::block::way::Way;
use crate::block::way::file::{Aio, FileWay};
use crate::object::Options;
use crate::object::options::boolean;
use crate::schema::{EnumType, Member, ValueType};
use crate::{Error, ErrorKind, Result};

pub(in crate::block) const NO_FILE_NAME: &str = "The 'file' block driver requires a file name";

/// How a file is to be opened and used.
#[derive(Debug)]
pub(in crate::block) struct FileOptions {
    pub(in crate::block) image: OpenImage,
    aio: Aio,
}

/// An open file.
#[derive(Debug)]
struct FileDriver {
    driver: Driver,
    path: String,
    image: Arc<Image>,
    aio: Aio,
}

const AIO: EnumType = EnumType::new("BlockdevAioOptions", &["threads", "native", "io_uring"]);
const LOCKING: EnumType = EnumType::new("OnOffAuto", &["auto", "on", "off"]);

const MEMBERS: &[Member] = &[
    Member::new("filename", ValueType::Str),
    Member::optional("aio", ValueType::Enum(AIO)),
    Member::optional("locking", ValueType::Enum(LOCKING)),
];

/// The driver `file`.
pub(super) const FILE: DriverType = DriverType {
    name: "file",
    members: MEMBERS,
    open: |keys, node| open(keys, node, Driver::File),
};

/// The driver `host_device`.
pub(super) const HOST_DEVICE: DriverType = DriverType {
    name: "host_device",
    members: MEMBERS,
    open: |keys, node| open(keys, node, Driver::HostDevice),
};

/// Opens a file as `-blockdev` describes it.
fn open(keys: &mut Options, node: &NewNode<'_>, driver: Driver) -> Result<Box<dyn BlockDriver>> {
    let path = keys.take_str("filename")?;
    let path = path.ok_or_else(|| Error::new(ErrorKind::MissingArgument, NO_FILE_NAME))?;
    FileOptions::take(keys, node.common, path)?.open(driver, node)
}

/// What `cache=` of `-drive` says.
#[derive(Clone, Copy, Debug)]
pub(in crate::block) struct CacheMode {
    /// Past the page cache.
    pub(in crate::block) direct: bool,
    /// Every write durable before it is acknowledged.
    pub(in crate::block) write_through: bool,
}

impl CacheMode {
    /// Reads the mode.
    pub(in crate::block) fn parse(mode: &str) -> Result<CacheMode> {
        let (direct, write_through) = match mode {
            "writeback" => (false, false),
            "none" | "off" => (true, false),
            "writethrough" => (false, true),
            "directsync" => (true, true),
            "unsafe" => return Err(unsafe_cache("cache=unsafe")),
            _ => return Err(invalid("invalid cache option")),
        };
        Ok(CacheMode {
            direct,
            write_through,
        })
    }
}

impl FileOptions {
    /// The options of a file that `-blockdev` and `-drive` share.
    pub(in crate::block) fn take(
        keys: &mut Options,
        common: &CommonOptions,
        path: String,
    ) -> Result<FileOptions> {
        let locking = take_locking(keys)?;
        let image = OpenImage {
            path,
            found: None,
            read_only: common.read_only.unwrap_or(false),
            auto_read_only: common.auto_read_only.unwrap_or(false),
            direct: common.direct.unwrap_or(false),
            write_through: false,
            discard: common.discard.unwrap_or(true),
            locking,
            force_share: common.force_share.unwrap_or(false),
        };
        let aio = take_aio(keys)?;
        Ok(FileOptions { image, aio })
    }

    /// Lets this file be opened, which is at the path.
    pub(in crate::block) fn for_found(mut self, found: FoundFile) -> FileOptions {
        self.image.found = Some(Arc::new(found));
        self
    }

    /// Opens and locks the file, for the node.
    pub(in crate::block) fn open(
        mut self,
        driver: Driver,
        node: &NewNode<'_>,
    ) -> Result<Box<dyn BlockDriver>> {
        let old = node.old.and_then(BlockDriver::image);
        // Only `-drive` has an option for it.
        self.image.write_through |= old.is_some_and(|old| old.write_through);
        Ok(Box::new(FileDriver {
            driver,
            image: Arc::new(self.image.open(old.map(|old| &**old))?),
            aio: self.aio,
            path: self.image.path,
        }))
    }
}

impl BlockDriver for FileDriver {
    fn driver(&self) -> Driver {
        self.driver
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        Way::File(Box::new(FileWay::open(&self.image, self.aio, gate)))
    }

    fn length(&self) -> Result<u64> {
        let length = self.image.measure();
        length.map_err(|error| {
            Error::os(
                format!("Could not get the length of '{}'", self.path),
                error,
            )
        })
    }

    fn set_length(&self, length: u64) -> Result<()> {
        let resized = self.image.set_length(length);
        resized.map_err(|error| Error::os(format!("Could not resize '{}'", self.path), error))
    }

    fn block_size(&self) -> u64 {
        self.image.unit()
    }

    fn is_read_only(&self) -> bool {
        self.image.read_only
    }

    fn filename(&self) -> Option<String> {
        Some(self.path.clone())
    }

    fn allocated(&self) -> Option<u64> {
        self.image.allocated().ok()
    }

    fn image_info(&self) -> ImageInfo {
        ImageInfo {
            knows_dirty: true,
            specific: Some(ImageSpecific::File),
            ..ImageInfo::default()
        }
    }

    fn data_syncs(&self) -> u64 {
        self.image.data_syncs()
    }

    fn restored(&self) {
        self.image.restore_locks();
    }

    fn image(&self) -> Option<&Arc<Image>> {
        Some(&self.image)
    }
}

/// `auto` locks as well, but goes on where the file system has no locks.
fn take_locking(keys: &mut Options) -> Result<bool> {
    match keys.take_str("locking")?.as_deref() {
        None | Some("auto") => Ok(true),
        Some(text) => boolean(text).ok_or_else(|| keys.bad("locking", "'on', 'off' or 'auto'")),
    }
}

fn take_aio(keys: &mut Options) -> Result<Aio> {
    match keys.take_str("aio")?.as_deref() {
        None if IoQueue::is_supported() => Ok(Aio::Uring),
        None | Some("threads") => Ok(Aio::Threads),
        Some("io_uring") if IoQueue::is_supported() => Ok(Aio::Uring),
        Some("io_uring") => {
            let message = "aio=io_uring is not allowed by this kernel: use aio=threads";
            Err(Error::new(ErrorKind::Unsupported, message))
        }
        Some("native") => {
            let message = "aio=native is not supported: use aio=io_uring";
            Err(Error::new(ErrorKind::Unsupported, message))
        }
        Some(_) => Err(invalid("invalid aio option")),
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
