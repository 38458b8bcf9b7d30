//! `file` and `host_device`: a file or block device of the host.
#![forbid(unsafe_code)]

use std::sync::Arc;

use gsource::IoQueue;

use crate::block::driver::{BlockDriver, Driver};
use crate::block::gate::Gate;
use crate::block::image::{Image, OpenImage};
use crate::block::request::SECTOR;
use crate::block::way::Way;
use crate::block::way::file::{Aio, FileWay};
use crate::object::Options;
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
    path: String,
    image: Arc<Image>,
    aio: Aio,
}

/// Opens a file as `-blockdev` describes it.
pub(super) fn open(keys: &mut Options) -> Result<Box<dyn BlockDriver>> {
    let path = keys.take_str("filename")?;
    let path = path.ok_or_else(|| Error::new(ErrorKind::MissingArgument, NO_FILE_NAME))?;
    FileOptions::take(keys, path)?.open()
}

impl FileOptions {
    /// The options of a file that `-blockdev` and `-drive` share.
    pub(in crate::block) fn take(keys: &mut Options, path: String) -> Result<FileOptions> {
        if keys.take_bool("cache.no-flush")?.unwrap_or(false) {
            return Err(unsafe_cache("cache.no-flush=on"));
        }
        let discard = match keys.take_str("discard")?.as_deref() {
            None | Some("unmap" | "on") => true,
            Some("ignore" | "off") => false,
            Some(_) => return Err(invalid("Invalid discard option")),
        };
        let locking = match keys.peek("locking") {
            Some("auto") => keys.take("locking").is_some(),
            _ => keys.take_bool("locking")?.unwrap_or(true),
        };
        let image = OpenImage {
            path,
            read_only: keys.take_bool("read-only")?.unwrap_or(false),
            auto_read_only: keys.take_bool("auto-read-only")?.unwrap_or(false),
            direct: keys.take_bool("cache.direct")?.unwrap_or(false),
            write_through: false,
            discard,
            locking,
        };
        let aio = take_aio(keys)?;
        Ok(FileOptions { image, aio })
    }

    /// Applies `cache=` of `-drive`.
    pub(in crate::block) fn set_cache_mode(&mut self, mode: &str) -> Result<()> {
        let (direct, write_through) = match mode {
            "writeback" => (false, false),
            "none" | "off" => (true, false),
            "writethrough" => (false, true),
            "directsync" => (true, true),
            "unsafe" => return Err(unsafe_cache("cache=unsafe")),
            _ => return Err(invalid("invalid cache option")),
        };
        self.image.direct |= direct;
        self.image.write_through = write_through;
        Ok(())
    }

    /// Opens and locks the file.
    pub(in crate::block) fn open(self) -> Result<Box<dyn BlockDriver>> {
        Ok(Box::new(FileDriver {
            image: Arc::new(self.image.open()?),
            aio: self.aio,
            path: self.image.path,
        }))
    }
}

impl BlockDriver for FileDriver {
    fn driver(&self) -> Driver {
        Driver::File
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
        let alignment = self.image.alignment;
        alignment.map_or(SECTOR, |alignment| alignment.offset)
    }

    fn is_read_only(&self) -> bool {
        self.image.read_only
    }

    fn filename(&self) -> Option<&str> {
        Some(&self.path)
    }

    fn data_syncs(&self) -> u64 {
        self.image.data_syncs()
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

fn unsafe_cache(option: &str) -> Error {
    let message = format!("{option} is not supported: a flush always reaches the file");
    Error::new(ErrorKind::Unsupported, message)
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
