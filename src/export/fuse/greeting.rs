//! The first exchange with the kernel: which version of the protocol is spoken, and which of its abilities are used.
//!
//! Programs read and write past the page cache, so that they see at once what others do with the node, as with QEMU 10.2. A
//! kernel in which such files cannot be mapped and shared (older than Linux 6.6) keeps the data in its page cache.
#![forbid(unsafe_code)]

use fuse_abi::linux::{
    FOPEN_DIRECT_IO, FOPEN_PARALLEL_DIRECT_WRITES, FUSE_ASYNC_DIO, FUSE_ASYNC_READ,
    FUSE_ATOMIC_O_TRUNC, FUSE_AUTO_INVAL_DATA, FUSE_BIG_WRITES, FUSE_DIRECT_IO_ALLOW_MMAP,
    FUSE_INIT_EXT, FUSE_KERNEL_MINOR_VERSION, FUSE_KERNEL_VERSION, FUSE_MAX_PAGES, fuse_init_in,
    fuse_init_out,
};

use super::message::{FuseReply, IN_FLIGHT_MAX, OLDEST_MINOR, TRANSFER_MAX};

/// With FUSE_ATOMIC_O_TRUNC, `open` does not make the file empty: O_TRUNC comes with the request to open and is ignored, as QEMU does.
const WANTED: u32 = FUSE_ASYNC_READ
    | FUSE_ATOMIC_O_TRUNC
    | FUSE_BIG_WRITES
    | FUSE_AUTO_INVAL_DATA
    | FUSE_ASYNC_DIO
    | FUSE_MAX_PAGES
    | FUSE_INIT_EXT;
const PAGE: usize = 4096;

/// The answer to the kernel's greeting, and the flags with which files are opened.
pub(super) fn answer(unique: u64, init: &fuse_init_in) -> (FuseReply, u32) {
    let mut out = fuse_init_out {
        major: FUSE_KERNEL_VERSION,
        minor: FUSE_KERNEL_MINOR_VERSION,
        ..fuse_init_out::default()
    };
    if init.major > FUSE_KERNEL_VERSION {
        // The kernel greets again with this version.
        return (FuseReply::of(unique, &out), 0);
    }
    if init.major < FUSE_KERNEL_VERSION || init.minor < OLDEST_MINOR {
        return (FuseReply::status(unique, libc::EPROTO), 0);
    }
    let extended = match init.flags & FUSE_INIT_EXT {
        0 => 0,
        _ => u64::from(init.flags2) << 32,
    };
    let may_be_mapped = extended & FUSE_DIRECT_IO_ALLOW_MMAP;
    out.minor = init.minor.min(FUSE_KERNEL_MINOR_VERSION);
    out.flags = init.flags & WANTED;
    out.flags2 = u32::try_from(may_be_mapped >> 32).unwrap_or(0);
    out.max_readahead = init.max_readahead;
    out.max_background = IN_FLIGHT_MAX;
    out.congestion_threshold = IN_FLIGHT_MAX / 4 * 3;
    out.max_write = u32::try_from(TRANSFER_MAX).unwrap_or(u32::MAX);
    out.max_pages = u16::try_from(TRANSFER_MAX / PAGE).unwrap_or(u16::MAX);
    out.time_gran = 1;
    let open_flags = match may_be_mapped {
        0 => 0,
        _ => FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES,
    };
    (FuseReply::of(unique, &out), open_flags)
}

#[cfg(test)]
mod tests {
    use fuse_abi::linux::fuse_out_header;
    use zerocopy::FromBytes;

    use super::*;

    fn init(major: u32, minor: u32, flags: u32, flags2: u32) -> fuse_init_in {
        fuse_init_in {
            major,
            minor,
            max_readahead: 131_072,
            flags,
            flags2,
            ..fuse_init_in::default()
        }
    }

    /// The error, what is agreed upon, and the flags of opened files.
    fn agreed(init: &fuse_init_in) -> (i32, Option<fuse_init_out>, u32) {
        let (answer, open_flags) = answer(1, init);
        let bytes = answer.encode(&[]);
        let (header, body) = fuse_out_header::read_from_prefix(&bytes).unwrap();
        let out = fuse_init_out::read_from_bytes(body).ok();
        (header.error, out, open_flags)
    }

    #[test]
    fn only_what_the_kernel_offers_is_used() {
        let (error, out, open_flags) = agreed(&init(7, 31, FUSE_ASYNC_READ | 1 << 1, u32::MAX));
        let out = out.unwrap();
        assert_eq!((error, out.major, out.minor), (0, 7, 31));
        // Without FUSE_INIT_EXT the second flags mean nothing.
        assert_eq!((out.flags, out.flags2, open_flags), (FUSE_ASYNC_READ, 0, 0));
        assert_eq!((out.max_write, out.max_readahead), (1 << 20, 131_072));
    }

    #[test]
    fn the_page_cache_is_left_out_where_files_can_still_be_mapped() {
        let mmap = u32::try_from(FUSE_DIRECT_IO_ALLOW_MMAP >> 32).unwrap();
        let (_, out, open_flags) = agreed(&init(7, 45, u32::MAX, u32::MAX));
        let out = out.unwrap();
        assert_eq!(
            (out.minor, out.flags, out.flags2),
            (FUSE_KERNEL_MINOR_VERSION, WANTED, mmap)
        );
        assert_eq!(open_flags, FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES);
    }

    #[test]
    fn a_newer_version_is_asked_for_ours_and_an_old_one_refused() {
        let (error, out, _) = agreed(&init(8, 0, 0, 0));
        assert_eq!((error, out.unwrap().major), (0, 7));
        for (major, minor) in [(6, 40), (7, OLDEST_MINOR - 1)] {
            assert_eq!(agreed(&init(major, minor, 0, 0)).0, -libc::EPROTO);
        }
        assert_eq!(agreed(&init(7, OLDEST_MINOR, 0, 0)).0, 0);
    }
}
