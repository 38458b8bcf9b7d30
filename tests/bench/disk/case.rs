//! What is measured: a target, an operation, a client and a queue depth.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;

/// The bytes of a request.
pub(crate) const BLOCK: usize = 4096;

/// The bytes of a disk.
pub(crate) const DISK_SIZE: u64 = 512 << 20;

/// What stands behind the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Requests that do nothing but fill the buffer with zeroes.
    Null,
    /// A raw file on tmpfs, through the page cache.
    Tmpfs,
    /// A raw file on the disk below the build's target folder, past the page cache.
    Direct,
    /// A qcow2 image on tmpfs, with all clusters allocated.
    Qcow2,
    /// An empty qcow2 image over a raw one, both on tmpfs.
    Qcow2Backed,
    /// An empty qcow2 image on tmpfs, another one for each slice.
    Qcow2New,
    /// A qcow2 image on tmpfs with clusters as large as requests, all allocated, another one for each slice.
    Qcow2Full,
}

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    Discard,
}

/// Files that go with the value.
#[derive(Debug)]
pub(crate) struct Image {
    /// What a guest reads.
    pub(crate) content: PathBuf,
    /// The same in another format, which the servers get instead.
    formatted: Option<PathBuf>,
}

impl Image {
    fn path(&self) -> &Path {
        self.formatted.as_ref().unwrap_or(&self.content)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.content);
        if let Some(path) = &self.formatted {
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes a qcow2 image of the content of an image.
fn format(image: &mut Image, target: Target) -> Result<()> {
    let path = image.content.with_extension("qcow2");
    image.formatted = Some(path.clone());
    let (content, size) = (image.content.display().to_string(), DISK_SIZE.to_string());
    let path = path.display().to_string();
    let arguments = match target {
        Target::Qcow2New => vec!["create", "-q", "-f", "qcow2", &path, &size],
        Target::Qcow2Backed => vec![
            "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &content, &path,
        ],
        Target::Qcow2Full => vec![
            "convert",
            "-O",
            "qcow2",
            "-o",
            "cluster_size=4k",
            &content,
            &path,
        ],
        _ => vec!["convert", "-f", "raw", "-O", "qcow2", &content, &path],
    };
    let status = Command::new("qemu-img").args(arguments).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("qemu-img ended with {status}").into()),
    }
}

impl Target {
    pub(crate) const ALL: [Target; 7] = [
        Target::Null,
        Target::Tmpfs,
        Target::Direct,
        Target::Qcow2,
        Target::Qcow2Backed,
        Target::Qcow2New,
        Target::Qcow2Full,
    ];

    fn is_qcow2(self) -> bool {
        !matches!(self, Target::Null | Target::Tmpfs | Target::Direct)
    }

    /// Whether each slice gets an image and a server of its own.
    pub(crate) fn is_used_up(self) -> bool {
        matches!(self, Target::Qcow2New | Target::Qcow2Full)
    }

    /// Makes the image anew.
    pub(crate) fn renew(self, image: &mut Image) -> Result<()> {
        if let Some(path) = &image.formatted {
            fs::remove_file(path)?;
        }
        format(image, self)
    }

    /// Makes the file, filled with what does not compress: unwritten blocks are read without I/O.
    pub(crate) fn prepare(self) -> Result<Option<Image>> {
        let name = format!("qcontext-bench-{}.raw", std::process::id());
        let path = match self {
            Target::Null => return Ok(None),
            Target::Direct => std::env::current_dir()?.join(name),
            _ => Path::new("/dev/shm").join(name),
        };
        let mut image = Image {
            content: path,
            formatted: None,
        };
        let mut file = BufWriter::new(File::create(&image.content)?);
        let mut state = 1;
        for _ in 0..DISK_SIZE / 8 {
            file.write_all(&random(&mut state).to_ne_bytes())?;
        }
        let file = file.into_inner()?;
        file.sync_all()?;
        if self.is_qcow2() {
            format(&mut image, self)?;
        }
        Ok(Some(image))
    }

    /// The `-blockdev` of both servers, without the node's name.
    pub(crate) fn blockdev(self, image: Option<&Image>) -> String {
        let file = || image.map_or_else(String::new, |image| image.path().display().to_string());
        match self {
            Target::Null => format!("driver=null-co,size={DISK_SIZE},read-zeroes=on"),
            Target::Tmpfs => format!("driver=file,filename={},aio=io_uring", file()),
            Target::Direct => {
                format!(
                    "driver=file,filename={},aio=io_uring,cache.direct=on",
                    file()
                )
            }
            _ => {
                format!(
                    "driver=qcow2,discard=unmap,file.driver=file,file.discard=unmap,file.filename={},file.aio=io_uring",
                    file()
                )
            }
        }
    }

    /// The key that says whether the file is locked.
    pub(crate) fn locking(self) -> &'static str {
        match self {
            Target::Null | Target::Tmpfs | Target::Direct => "locking",
            _ => "file.locking",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Target::Null => "null",
            Target::Tmpfs => "tmpfs",
            Target::Direct => "direct",
            Target::Qcow2 => "qcow2",
            Target::Qcow2Backed => "qcow2-backed",
            Target::Qcow2New => "qcow2-new",
            Target::Qcow2Full => "qcow2-full",
        })
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) target: Target,
    pub(crate) operation: Operation,
    /// The client spins for completions rather than sleep.
    pub(crate) polling: bool,
    pub(crate) depth: usize,
}

impl Case {
    pub(crate) fn all(target: Target) -> Vec<Case> {
        use Operation::{Discard, Read, Write};
        let kinds: &[(Operation, bool)] = match target {
            Target::Null | Target::Tmpfs | Target::Direct => {
                &[(Read, true), (Read, false), (Write, false)]
            }
            // Two servers must not change one image whose tables both have read.
            Target::Qcow2 | Target::Qcow2Backed => &[(Read, true), (Read, false)],
            Target::Qcow2New => &[(Write, true), (Write, false)],
            Target::Qcow2Full => &[(Discard, true), (Discard, false)],
        };
        let cases = kinds.iter().flat_map(|&(operation, polling)| {
            [1, 32, 128].map(|depth| Case {
                target,
                operation,
                polling,
                depth,
            })
        });
        cases.collect()
    }

    /// Every word is one of the case's own; no word chooses all.
    pub(crate) fn is_chosen(&self, words: &[String]) -> bool {
        let name = self.to_string();
        words
            .iter()
            .all(|word| name.split(' ').any(|own| own == word))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Discard => "discard",
        };
        let client = if self.polling { "poll" } else { "sleep" };
        write!(out, "{} {operation} {client} {}", self.target, self.depth)
    }
}

/// The next number of a xorshift generator, whose state is not 0.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
