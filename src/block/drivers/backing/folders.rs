//! The folders to which the files that images name are limited, for the whole program.
//!
//! Used by the command line, which adds the folders of `-image-folder`. An image could otherwise make the program read any file that it
//! may open. Nodes that options describe are not limited.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::{Error, ErrorKind, Result};

/// Real paths. While there is none, there is no limit.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// From now on, the files that images name (backing files, data files, extents) are opened only below `folder`, or below another
/// folder that was allowed.
///
/// # Errors
/// `Os` if there is no such path, `InvalidArgument` if it is no folder.
pub fn allow_image_folder(folder: &Path) -> Result<()> {
    let real = real_path(folder)?;
    if !real.is_dir() {
        let message = format!("'{}' is not a folder", folder.display());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    FOLDERS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(real);
    Ok(())
}

/// Checks a file that an image calls `name`. Returns its real path if there is a limit.
pub(super) fn check(path: PathBuf, name: &str) -> Result<PathBuf> {
    let folders = FOLDERS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if folders.is_empty() {
        return Ok(path);
    }
    // A link may lead elsewhere.
    let real = real_path(&path)?;
    match folders.iter().any(|folder| real.starts_with(folder)) {
        true => Ok(real),
        false => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "the image names '{name}', which is outside of the folders that -image-folder allows"
            ),
        )),
    }
}

/// A path without links. An empty one is the current folder.
pub(super) fn real_path(path: &Path) -> Result<PathBuf> {
    let is_empty = path.as_os_str().is_empty();
    let path = if is_empty { Path::new(".") } else { path };
    fs::canonicalize(path)
        .map_err(|error| Error::os(format!("Could not open '{}'", path.display()), error))
}
