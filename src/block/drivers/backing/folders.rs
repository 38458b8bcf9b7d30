//! The folders to which the files that images name are limited, for the whole program.
//!
//! Used by the command line, which adds the folders of `-image-folder`. An image could otherwise make the program read any file that it
//! may open. Nodes that options describe are not limited.
//!
//! A file is looked for by its real path, without links, from the allowed folder on. A link or another folder that somebody puts into
//! that path after it was checked is not followed.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::found_file::FoundFile;
use crate::block::own_mount;
use crate::{Error, ErrorKind, Result};

/// While there is none, there is no limit.
static FOLDERS: Mutex<Vec<ImageFolder>> = Mutex::new(Vec::new());

/// A folder that is allowed.
#[derive(Clone, Debug)]
struct ImageFolder {
    /// Its real path.
    path: PathBuf,
    found: Arc<FoundFile>,
}

/// From now on, the files that images name (backing files, data files, extents) are opened only below `folder`, or below another
/// folder that was allowed.
///
/// # Errors
/// `Os` if there is no such path, `InvalidArgument` if it is no folder.
pub fn allow_image_folder(folder: &Path) -> Result<()> {
    let path = real_path(folder)?;
    if !path.is_dir() {
        let message = format!("'{}' is not a folder", folder.display());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let allowed = ImageFolder::open(path)?;
    FOLDERS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(allowed);
    Ok(())
}

/// A file that an image names, and its path.
#[derive(Debug)]
pub(super) struct NamedFile {
    /// Without links if there is a limit.
    pub(super) path: PathBuf,
    pub(super) found: FoundFile,
}

impl NamedFile {
    fn new(path: PathBuf, found: FoundFile) -> Result<NamedFile> {
        own_mount::refuse(&path.to_string_lossy(), &found.place())?;
        Ok(NamedFile { path, found })
    }

    pub(super) fn metadata(&self) -> Result<fs::Metadata> {
        let metadata = self.found.metadata();
        metadata.map_err(|error| not_opened(&self.path, error))
    }
}

/// Finds a file that an image calls `name`, in an allowed folder.
pub(super) fn find(path: PathBuf, name: &str) -> Result<NamedFile> {
    let is_limited = !folders().is_empty();
    if is_limited {
        // A link may lead elsewhere.
        return find_real(real_path(&path)?, name);
    }
    let found = FoundFile::at(&path).map_err(|error| not_opened(&path, error))?;
    NamedFile::new(path, found)
}

/// The same, for a path without links. None that appears there meanwhile is followed.
pub(super) fn find_real(path: PathBuf, name: &str) -> Result<NamedFile> {
    let mut allowed = folders();
    if allowed.is_empty() {
        allowed.push(ImageFolder::open("/".into())?);
    }
    let place = allowed
        .iter()
        .find_map(|folder| Some((folder, path.strip_prefix(&folder.path).ok()?)));
    let outside = || {
        let message = format!(
            "the image names '{name}', which is outside of the folders that -image-folder allows"
        );
        Error::new(ErrorKind::InvalidArgument, message)
    };
    let (folder, below) = place.ok_or_else(outside)?;
    let found = folder.found.below(below);
    let found = found.map_err(|error| not_opened(&path, error))?;
    NamedFile::new(path, found)
}

fn folders() -> Vec<ImageFolder> {
    let folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    folders.clone()
}

impl ImageFolder {
    fn open(path: PathBuf) -> Result<ImageFolder> {
        let found = FoundFile::at(&path).map_err(|error| not_opened(&path, error))?;
        let found = Arc::new(found);
        Ok(ImageFolder { path, found })
    }
}

/// A path without links. An empty one is the current folder.
pub(super) fn real_path(path: &Path) -> Result<PathBuf> {
    let is_empty = path.as_os_str().is_empty();
    let path = if is_empty { Path::new(".") } else { path };
    fs::canonicalize(path).map_err(|error| not_opened(path, error))
}

pub(super) fn not_opened(path: &Path, error: std::io::Error) -> Error {
    Error::os(format!("Could not open '{}'", path.display()), error)
}
