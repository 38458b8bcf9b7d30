//! Where a file has data and where it has holes.
//!
//! # Threads
//! Any thread that may wait: the file system may have to read its tables. To seek moves the file's position, which nothing
//! else uses.
#![allow(unsafe_code)] // lseek

use std::io;
use std::os::fd::AsRawFd;

use super::Image;
use crate::block::status::BlockStatus;

impl Image {
    /// What a range of whole units is, or how it begins. If the file system does not say, it is data.
    pub(in crate::block) fn block_status(&self, offset: u64, length: u64) -> BlockStatus {
        let end = offset.saturating_add(length);
        let unit = self.unit();
        match self.seek(offset, libc::SEEK_DATA) {
            // There is no data behind `offset`.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => BlockStatus::zeroes(length),
            Err(_) => BlockStatus::data(length),
            Ok(data) if data / unit * unit > offset => {
                BlockStatus::zeroes(end.min(data / unit * unit) - offset)
            }
            Ok(_) => {
                let hole = self.seek(offset, libc::SEEK_HOLE);
                let hole = hole.map_or(end, |hole| hole.next_multiple_of(unit));
                match hole > offset {
                    true => BlockStatus::data(end.min(hole) - offset),
                    // The file changes meanwhile.
                    false => BlockStatus::data(unit),
                }
            }
        }
    }

    /// The first place at or behind `offset` of that kind.
    fn seek(&self, offset: u64, whence: i32) -> io::Result<u64> {
        // SAFETY: lseek uses no memory.
        let place = unsafe { libc::lseek(self.file.as_raw_fd(), offset.cast_signed(), whence) };
        u64::try_from(place).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::block::image::OpenImage;
    use crate::block::test_file::TestFile;
    use support::skip::skip;

    #[test]
    fn holes_and_data_alternate_to_the_end() {
        let file = TestFile::in_directory("/dev/shm".as_ref(), b"", 1 << 20);
        let open = OpenImage {
            path: file.path().to_owned(),
            ..OpenImage::default()
        };
        let image = open.open(None).unwrap();
        image.file.write_at(&[1; 4096], 64 << 10).unwrap();
        let status = |offset: u64| image.block_status(offset, (1 << 20) - offset);
        let cases = [
            (0, BlockStatus::zeroes(64 << 10)),
            (64 << 10, BlockStatus::data(4096)),
            ((64 << 10) + 512, BlockStatus::data(3584)),
            (68 << 10, BlockStatus::zeroes((1 << 20) - (68 << 10))),
        ];
        for (offset, expected) in cases {
            assert_eq!(status(offset), expected, "{offset}");
        }
        assert_eq!(image.block_status(0, 512), BlockStatus::zeroes(512));
    }

    #[test]
    fn the_last_sector_is_zero_behind_the_end_of_the_file() {
        let file = TestFile::in_directory("/var/tmp".as_ref(), &[1; 700], 700);
        let image = |direct| {
            let open = OpenImage {
                path: file.path().to_owned(),
                direct,
                ..OpenImage::default()
            };
            open.open(None)
        };
        let cached = image(false).unwrap();
        assert_eq!(cached.block_status(0, 1024), BlockStatus::data(700));
        assert_eq!(cached.block_status(700, 324), BlockStatus::zeroes(324));
        // Direct I/O has no place between two sectors.
        match image(true) {
            Ok(direct) => assert_eq!(direct.block_status(0, 1024), BlockStatus::data(1024)),
            Err(error) => skip(error),
        }
    }
}
