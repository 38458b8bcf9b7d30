//! The initial RAM disk. It is loaded as high as the kernel can address, away from the kernel itself.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{as_u64, invalid};
use crate::{Error, Result};

const PAGE: u64 = 4096;

/// An initrd's file.
#[derive(Debug)]
pub(super) struct Initrd {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Initrd {
    pub(super) fn open(path: &Path) -> Result<Initrd> {
        let name = path.display();
        let file = File::open(path)
            .map_err(|error| Error::os(format!("cannot open initrd '{name}'"), error))?;
        let metadata = file.metadata();
        let metadata = metadata
            .map_err(|error| Error::os(format!("cannot look at initrd '{name}'"), error))?;
        if !metadata.is_file() || metadata.len() == 0 {
            let message = format!("initrd '{name}' is not a file with something in it");
            return Err(invalid(message));
        }
        Ok(Initrd {
            path: path.to_owned(),
            length: metadata.len(),
            file,
        })
    }

    /// Its length in memory, in whole pages.
    pub(super) fn room(&self) -> u64 {
        self.length.next_multiple_of(PAGE)
    }

    pub(super) fn describe(&self) -> String {
        format!("initrd '{}'", self.path.display())
    }

    /// Writes it so that it ends below `end`. Answers its address and its length.
    pub(super) fn load(&self, memory: &GuestMemoryMmap, end: u64) -> Result<(u64, u64)> {
        let start = (end - self.room()) & !(PAGE - 1);
        let failed = |what: &str| format!("cannot {what} {}", self.describe());
        // A second handle, because reading moves the file's offset.
        let mut file = self
            .file
            .try_clone()
            .map_err(|error| Error::os(failed("open"), error))?;
        file.rewind()
            .map_err(|error| Error::os(failed("read"), error))?;
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        memory
            .read_exact_volatile_from(GuestAddress(start), &mut file, length)
            .map_err(|error| invalid(format!("{}: {error}", failed("load"))))?;
        Ok((start, as_u64(length)))
    }
}
