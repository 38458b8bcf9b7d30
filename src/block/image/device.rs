//! What the kernel says about a block device.
//!
//! Used when an image is opened.
#![allow(unsafe_code)] // ioctl

use std::fs::File;
use std::os::fd::AsRawFd;

/// The size of the device's sectors, the smallest unit of its transfers; `None` if `file` is no block device.
pub(super) fn sector_size(file: &File) -> Option<u64> {
    let mut size: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes an int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &raw mut size) };
    let size = u64::try_from(size).ok()?;
    (result == 0 && size.is_power_of_two()).then_some(size)
}
