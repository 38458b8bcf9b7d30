//! What `stat` shows of the file, and what `chmod` and `chown` may change. The rules are QEMU's.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use fuse_abi::linux::{
    FATTR_FH, FATTR_GID, FATTR_LOCKOWNER, FATTR_MODE, FATTR_SIZE, FATTR_UID, FUSE_ROOT_ID,
    fuse_attr, fuse_attr_out, fuse_setattr_in,
};
use libc::{EACCES, EOPNOTSUPP, EPERM, EROFS, S_IFREG};

const WRITE_BITS: u32 = 0o222;
const OWNER_BITS: u32 = 0o700;
const MODE_BITS: u32 = 0o7777;
/// What is said about the file handle is of no interest.
const IGNORED: u32 = FATTR_FH | FATTR_LOCKOWNER;

/// Who may do what with the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    is_writable: bool,
    allow_other: bool,
}

/// The sizes of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileSizes {
    pub(super) length: u64,
    /// How many bytes of storage it takes, if that is known.
    pub(super) allocated: Option<u64>,
    pub(super) block_size: u64,
}

impl Attributes {
    /// The file belongs to `owner`, a user and a group.
    pub(super) fn new((uid, gid): (u32, u32), is_writable: bool, allow_other: bool) -> Attributes {
        Attributes {
            mode: if is_writable { 0o600 } else { 0o400 },
            uid,
            gid,
            is_writable,
            allow_other,
        }
    }

    /// Whether the request is one that can be fulfilled.
    ///
    /// # Errors
    /// An errno.
    pub(super) fn check(&self, wanted: &fuse_setattr_in) -> Result<(), i32> {
        let mut known = FATTR_SIZE | FATTR_MODE | IGNORED;
        if self.allow_other {
            known |= FATTR_UID | FATTR_GID;
        }
        if wanted.valid & !known != 0 {
            return Err(EOPNOTSUPP);
        }
        if wanted.valid & FATTR_MODE != 0 {
            // Without allow_other no other user could use the right.
            if !self.allow_other && wanted.mode & 0o777 & !OWNER_BITS != 0 {
                return Err(EPERM);
            }
            if !self.is_writable && wanted.mode & WRITE_BITS != 0 {
                return Err(EROFS);
            }
        }
        if wanted.valid & FATTR_SIZE != 0 && !self.is_writable {
            return Err(EACCES);
        }
        Ok(())
    }

    /// Changes what a request that was checked wants changed, but for the size.
    pub(super) fn change(&mut self, wanted: &fuse_setattr_in) {
        if wanted.valid & FATTR_MODE != 0 {
            self.mode = wanted.mode & MODE_BITS;
        }
        if wanted.valid & FATTR_UID != 0 {
            self.uid = wanted.uid;
        }
        if wanted.valid & FATTR_GID != 0 {
            self.gid = wanted.gid;
        }
    }

    /// The answer to `stat`. It holds for this question only, because the node may change its length at any time.
    pub(super) fn answer(&self, sizes: FileSizes) -> fuse_attr_out {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let used = sizes
            .allocated
            .filter(|&bytes| bytes > 0)
            .unwrap_or(sizes.length);
        fuse_attr_out {
            attr_valid: 0,
            attr_valid_nsec: 0,
            dummy: 0,
            attr: fuse_attr {
                ino: FUSE_ROOT_ID,
                size: sizes.length,
                blocks: used.div_ceil(512),
                atime: now,
                mtime: now,
                ctime: now,
                mode: S_IFREG | self.mode,
                nlink: 1,
                uid: self.uid,
                gid: self.gid,
                blksize: u32::try_from(sizes.block_size).unwrap_or(u32::MAX),
                ..fuse_attr::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: (u32, u32) = (1000, 1001);

    fn setattr(valid: u32, mode: u32) -> fuse_setattr_in {
        fuse_setattr_in {
            valid,
            mode,
            uid: 5,
            gid: 6,
            ..fuse_setattr_in::default()
        }
    }

    #[test]
    fn what_may_be_changed_depends_on_the_export() {
        let cases = [
            // valid, mode, writable, allow_other
            ((FATTR_MODE, 0o600, true, false), Ok(())),
            ((FATTR_MODE, 0o640, true, false), Err(EPERM)),
            ((FATTR_MODE, 0o644, true, true), Ok(())),
            ((FATTR_MODE, 0o600, false, true), Err(EROFS)),
            ((FATTR_MODE, 0o500, false, false), Ok(())),
            ((FATTR_SIZE, 0, false, true), Err(EACCES)),
            ((FATTR_SIZE | FATTR_FH, 0, true, false), Ok(())),
            ((FATTR_UID, 0, true, false), Err(EOPNOTSUPP)),
            ((FATTR_UID | FATTR_GID, 0, true, true), Ok(())),
            ((1 << 5, 0, true, true), Err(EOPNOTSUPP)),
        ];
        for ((valid, mode, writable, others), expected) in cases {
            let attributes = Attributes::new(OWNER, writable, others);
            let found = attributes.check(&setattr(valid, mode));
            assert_eq!(found, expected, "{valid:#x} {mode:o} {writable} {others}");
        }
    }

    #[test]
    fn stat_shows_the_sizes_and_what_was_changed() {
        let mut attributes = Attributes::new(OWNER, true, true);
        let sizes = FileSizes {
            length: 1536,
            allocated: Some(512),
            block_size: 512,
        };
        let before = attributes.answer(sizes);
        assert_eq!((before.attr.size, before.attr.blocks), (1536, 1));
        assert_eq!((before.attr.mode, before.attr.uid), (S_IFREG | 0o600, 1000));
        attributes.change(&setattr(FATTR_MODE | FATTR_GID, 0o100_644));
        let unknown = FileSizes {
            allocated: None,
            ..sizes
        };
        let after = attributes.answer(unknown);
        assert_eq!((after.attr.mode, after.attr.gid), (S_IFREG | 0o644, 6));
        assert_eq!((after.attr.uid, after.attr.blocks), (1000, 3));
        assert_eq!((after.attr_valid, after.attr.nlink), (0, 1));
    }
}
