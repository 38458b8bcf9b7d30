//! The open file or block device.
//!
//! Used by the driver, which opens it, and by the engines, which read and write it.
//!
//! # Threads
//! Any thread. After opening, what changes are flags, which remember what the file system cannot do, the demands of direct I/O
//! where the kernel does not say them, and a counter.
#![allow(unsafe_code)] // fstatfs

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use super::found_file::FoundFile;
use super::own_mount;
use super::request::SECTOR;
use crate::{Error, ErrorKind, Result};

mod device;
mod direct;
mod extents;
mod lock;
#[cfg(test)]
mod tests;

pub(super) use direct::{Alignment, Direct};
use lock::Locks;

const TMPFS_MAGIC: i64 = 0x0102_1994;

/// How to open an image.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // independent options of the command line
pub(super) struct OpenImage {
    pub(super) path: String,
    /// The file that was found at the path, if it was looked for.
    pub(super) found: Option<Arc<FoundFile>>,
    pub(super) read_only: bool,
    /// Falls back to reading only if the file cannot be opened for writing.
    pub(super) auto_read_only: bool,
    /// Past the page cache (O_DIRECT).
    pub(super) direct: bool,
    /// Every write durable before it is acknowledged (O_DSYNC).
    pub(super) write_through: bool,
    /// Whether discards are passed on.
    pub(super) discard: bool,
    pub(super) locking: bool,
    /// Lets other programs do anything with the file meanwhile.
    pub(super) force_share: bool,
}

/// An open image.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // as in `OpenImage`, and of the file system
pub(super) struct Image {
    file: File,
    pub(super) read_only: bool,
    /// Every write is durable before it is acknowledged.
    pub(super) write_through: bool,
    /// Set for O_DIRECT.
    pub(super) direct: Option<Direct>,
    /// Kept in memory by its file system: reading and writing never wait for a device.
    pub(super) in_memory: bool,
    pub(super) discard: bool,
    /// The unit of discards: the sectors of a block device. A file takes any range.
    discard_unit: u64,
    pub(super) nowait: Capability,
    pub(super) zero_range: Capability,
    pub(super) punch_hole: Capability,
    data_syncs: AtomicU64,
    /// The errno of a failed fdatasync, 0 if none has failed.
    lost: AtomicI32,
    /// `None` without locking.
    locks: Option<Locks>,
    /// It was reported that its requests do without a ring.
    warned: AtomicBool,
}

/// Something a file can do until the kernel says that it cannot.
#[derive(Debug)]
pub(super) struct Capability(AtomicBool);

impl Capability {
    fn new() -> Self {
        Capability(AtomicBool::new(true))
    }

    pub(super) fn is_present(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set_missing(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl OpenImage {
    /// Opens and locks the image, which may be open as `old` already.
    ///
    /// # Errors
    /// `Os` if it cannot be opened, `Busy` if another program uses it, `InvalidArgument` if it is neither a regular
    /// file nor a block device, or direct I/O is not possible on it.
    pub(super) fn open(&self, old: Option<&Image>) -> Result<Image> {
        check_kind(&self.path, &self.place())?;
        let (file, read_only) = self.open_file()?;
        let locks = self.locking.then_some(match (read_only, self.force_share) {
            (true, true) => Locks::Sharer,
            (true, false) => Locks::Reader,
            (false, _) => Locks::Writer,
        });
        match (locks, old.and_then(|old| Some((&old.file, old.locks?)))) {
            (Some(locks), Some(old)) => lock::take_over(old, &file, locks, &self.path)?,
            (Some(locks), None) => lock::take(&file, locks, &self.path)?,
            (None, _) => {}
        }
        let in_memory = is_tmpfs(&file);
        let direct = match self.direct {
            true => Some(self.find_direct(&file, in_memory, read_only)?),
            false => None,
        };
        let image = Image {
            in_memory,
            discard_unit: device::sector_size(&file).unwrap_or(1),
            file,
            read_only,
            write_through: self.write_through,
            direct,
            discard: self.discard,
            nowait: Capability::new(),
            zero_range: Capability::new(),
            punch_hole: Capability::new(),
            data_syncs: AtomicU64::new(old.map_or(0, Image::data_syncs)),
            lost: AtomicI32::new(old.and_then(Image::lost).unwrap_or(0)),
            locks,
            warned: AtomicBool::new(false),
        };
        image.measure().map_err(|error| self.os(error))?;
        Ok(image)
    }

    /// The path to open.
    fn place(&self) -> String {
        match &self.found {
            Some(found) => found.place(),
            None => self.path.clone(),
        }
    }

    fn open_file(&self) -> Result<(File, bool)> {
        let mut flags = libc::O_CLOEXEC;
        if self.direct {
            flags |= libc::O_DIRECT;
        }
        if self.write_through {
            flags |= libc::O_DSYNC;
        }
        let open = |write: bool| {
            OpenOptions::new()
                .read(true)
                .write(write)
                .custom_flags(flags)
                .open(self.place())
        };
        let first = open(!self.read_only);
        let refused = first.as_ref().err().and_then(io::Error::raw_os_error);
        let may_retry = self.auto_read_only && !self.read_only;
        if may_retry && matches!(refused, Some(libc::EACCES | libc::EROFS | libc::EPERM)) {
            let file = open(false).map_err(|error| self.os(error))?;
            return Ok((file, true));
        }
        let file = first.map_err(|error| self.os(error))?;
        Ok((file, self.read_only))
    }

    /// Finds out what direct I/O demands, and opens what helps with it.
    fn find_direct(&self, file: &File, in_memory: bool, read_only: bool) -> Result<Direct> {
        let mut direct = Direct::new(file, in_memory).map_err(|error| self.os(error))?;
        let metadata = file.metadata().map_err(|error| self.os(error))?;
        if direct.is_coarse() && metadata.is_file() && !read_only {
            let cached = self.open_cached(&metadata);
            direct.set_cached(cached.map_err(|error| self.os(error))?);
        }
        Ok(direct)
    }

    /// Opens the file that `opened` describes once more, through the page cache.
    fn open_cached(&self, opened: &Metadata) -> io::Result<File> {
        let mut flags = libc::O_CLOEXEC;
        if self.write_through {
            flags |= libc::O_DSYNC;
        }
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(self.place())?;
        let metadata = file.metadata()?;
        let identity = |of: &Metadata| (of.dev(), of.ino());
        match identity(&metadata) == identity(opened) {
            true => Ok(file),
            // Another file has got the name since.
            false => Err(io::Error::from_raw_os_error(libc::ESTALE)),
        }
    }

    fn os(&self, error: io::Error) -> Error {
        if self.direct && error.raw_os_error() == Some(libc::EINVAL) {
            let message = format!(
                "'{}': its file system does not support cache.direct=on",
                self.path
            );
            return Error::os(message, error);
        }
        Error::os(format!("Could not open '{}'", self.path), error)
    }
}

impl Image {
    /// The length, rounded up to whole sectors; engines read the part that is missing as zeroes.
    pub(super) fn measure(&self) -> io::Result<u64> {
        let bytes = (&self.file).seek(SeekFrom::End(0))?;
        let length = bytes.checked_next_multiple_of(SECTOR);
        length
            .filter(|&length| length <= i64::MAX.cast_unsigned())
            .ok_or_else(|| io::ErrorKind::FileTooLarge.into())
    }

    /// The unit of requests. The page cache takes any bytes.
    pub(super) fn unit(&self) -> u64 {
        match self.direct {
            Some(_) => SECTOR,
            None => 1,
        }
    }

    /// The file through the page cache, if direct I/O is coarser than a sector and the file is written.
    pub(super) fn cached(&self) -> Option<BorrowedFd<'_>> {
        self.direct.as_ref().and_then(Direct::cached)
    }

    /// Makes the file longer or shorter. A device has the length that it has.
    pub(super) fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// The part of a range that can be discarded, in whole units.
    pub(super) fn discard_range(&self, offset: u64, length: u64) -> Range<u64> {
        let unit = self.discard_unit;
        let start = offset.next_multiple_of(unit);
        start..(offset + length) / unit * unit
    }

    /// It was to be opened anew, and stays as it is.
    pub(super) fn restore_locks(&self) {
        if let Some(locks) = self.locks {
            lock::restore(&self.file, locks);
        }
    }

    /// How many bytes of storage the file takes.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        self.file.metadata().map(|data| data.blocks() * 512)
    }

    /// Notes a completed fdatasync.
    pub(super) fn count_data_sync(&self) {
        self.data_syncs.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a failed fdatasync. The kernel reports pages that it could not write once, and may drop them: a later call would
    /// succeed although they are not in the file.
    pub(super) fn note_failed_sync(&self, errno: i32) {
        if self.direct.is_none() || self.cached().is_some() {
            self.lost.store(errno, Ordering::Relaxed);
        }
    }

    /// The errno of an fdatasync after which the page cache cannot be trusted any more.
    pub(super) fn lost(&self) -> Option<i32> {
        Some(self.lost.load(Ordering::Relaxed)).filter(|&errno| errno != 0)
    }

    /// True the first time.
    pub(super) fn warn_once(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }

    /// How many fdatasync calls have completed.
    pub(super) fn data_syncs(&self) -> u64 {
        self.data_syncs.load(Ordering::Relaxed)
    }
}

/// Locks a file that is going to be made an image.
///
/// # Errors
/// `Busy` if another program uses it.
pub(super) fn lock_for_writing(file: &File, path: &str) -> Result<()> {
    lock::take(file, Locks::Writer, path)
}

/// Takes storage for a range, which stays zero.
pub(super) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let [offset, length] = [offset, length].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    // SAFETY: the fd is open.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), offset, length) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The first bytes, for the recognition of formats; fewer if the image is shorter.
pub(super) fn first_bytes(path: &str, len: usize) -> Result<Vec<u8>> {
    let failed = |error| Error::os(format!("Could not open '{path}'"), error);
    check_kind(path, path)?;
    let mut start = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(len as u64)
        .read_to_end(&mut start)
        .map_err(failed)?;
    Ok(start)
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Makes sure that `place`, which is known as `path`, is an image before it is opened: opening a FIFO waits for its other end, and some devices do
/// things when they are opened.
fn check_kind(path: &str, place: &str) -> Result<()> {
    own_mount::refuse(path, place)?;
    let failed = |error| Error::os(format!("Could not open '{path}'"), error);
    let kind = std::fs::metadata(place).map_err(failed)?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(failed(io::Error::from_raw_os_error(libc::EISDIR)));
    }
    let message = format!("'file' driver requires '{path}' to be a regular file or a block device");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

/// Whether it is a file on tmpfs. The names of devices are usually on such a file system as well.
fn is_tmpfs(file: &File) -> bool {
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return false;
    }
    // SAFETY: a zeroed statfs is a valid out buffer.
    let mut statfs: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the fd is open and the buffer has the right type.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut statfs) };
    result == 0 && statfs.f_type == TMPFS_MAGIC
}
