//! Makes an image at once, without a job: the overlay of a snapshot, the target of a mirror.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Preallocation;
use super::header::Qcow2Recipe;
use super::layout::Qcow2Layout;
use crate::block::drivers::qcow2::BackingName;
use crate::object::Options;
use crate::{Error, Result};

/// Makes an empty file an image of `size` bytes, durably. It blocks the thread.
///
/// # Errors
/// The name of the backing file is too long, or the disk too large; the host's.
pub(in crate::block) fn write_image(
    file: &File,
    size: u64,
    backing: Option<&BackingName>,
) -> Result<()> {
    let mut options = vec![("size".to_owned(), size.into())];
    if let Some(backing) = backing {
        options.push(("backing-file".to_owned(), backing.file.as_str().into()));
        options.push(("backing-fmt".to_owned(), backing.format.as_str().into()));
    }
    let mut options = Options::from_dict(options);
    let recipe = Qcow2Recipe::take(&mut options, None, Preallocation::Off)?;
    let layout = Qcow2Layout::new(&recipe, false)?;
    let written = write(file, &layout, &layout.header(&recipe));
    written.map_err(|error| Error::os("Could not write the qcow2 image", error))
}

/// Writes the tables, and then the header.
fn write(file: &File, layout: &Qcow2Layout, header: &[u8]) -> io::Result<()> {
    file.set_len(layout.file_length())?;
    let mut cluster = vec![0; layout.cluster_size()];
    for index in 0..layout.table_clusters() {
        cluster.fill(0);
        layout.fill(index, &mut cluster);
        file.write_all_at(&cluster, index * cluster.len() as u64)?;
    }
    file.write_all_at(header, 0)?;
    file.sync_all()
}
