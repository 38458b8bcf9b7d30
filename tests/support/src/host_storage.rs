//! Block devices and file systems that the host makes for a test: a loop device with sectors of any size, a new file system
//! in a file.
//!
//! Both need root. The kernel takes them away when the value is dropped or the process ends, however it ends: a loop device is
//! detached while it is open, and a file system is unmounted while its root is open.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::directory::TestDir;

/// A loop device over a file.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
    directory: TestDir,
}

impl LoopDevice {
    /// A device of `size` bytes, all 1, with sectors of `sector` bytes.
    ///
    /// # Errors
    /// Why the host does not make one.
    pub fn new(sector: u32, size: usize) -> Result<LoopDevice, String> {
        let directory = TestDir::new();
        let backing = directory.file("backing");
        std::fs::write(&backing, vec![1; size]).unwrap();
        let sector = sector.to_string();
        let attach = ["--sector-size", &sector, "--find", "--show"];
        let device = run("losetup", &attach, &backing)?;
        let path = PathBuf::from(device.trim());
        let open = File::open(&path).map_err(|error| error.to_string());
        run("losetup", &["--detach"], &path)?;
        Ok(LoopDevice {
            path,
            _open: open?,
            directory,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the device end after `size` bytes.
    pub fn set_size(&self, size: u64) {
        let backing = File::options()
            .write(true)
            .open(self.directory.file("backing"));
        backing.unwrap().set_len(size).unwrap();
        run("losetup", &["--set-capacity"], &self.path).unwrap();
    }
}

/// A new file system.
#[derive(Debug)]
pub struct FileSystem {
    root: File,
    _directory: TestDir,
    _device: Option<LoopDevice>,
}

impl FileSystem {
    /// A file system of that kind: `ext4`, `xfs` or `btrfs`.
    ///
    /// # Errors
    /// Why the host does not make one.
    pub fn new(kind: &str) -> Result<FileSystem, String> {
        let directory = TestDir::new();
        // What XFS wants at least.
        let image = directory.image("file-system", 320);
        run(&format!("mkfs.{kind}"), &[], &image)?;
        let root = mount(&image, "loop", &directory)?;
        Ok(FileSystem {
            root,
            _directory: directory,
            _device: None,
        })
    }

    /// A file system in memory, of so many MiB.
    ///
    /// # Errors
    /// Why the host does not make one.
    pub fn in_memory(mebibytes: u64) -> Result<FileSystem, String> {
        let directory = TestDir::new();
        let point = directory.file("mounted");
        std::fs::create_dir(&point).unwrap();
        let size = format!("size={mebibytes}M");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs"], &point)?;
        Ok(FileSystem {
            root: detached_root(&point)?,
            _directory: directory,
            _device: None,
        })
    }

    /// A file system that a program serves, by FUSE.
    ///
    /// # Errors
    /// Why the host does not make one.
    pub fn served() -> Result<FileSystem, String> {
        let directory = TestDir::new();
        let image = directory.image("file-system", 32);
        run("mkfs.ext4", &[], &image)?;
        let point = directory.file("served");
        std::fs::create_dir(&point).unwrap();
        run("fuse2fs", &["-o", "rw", image.to_str().unwrap()], &point)?;
        Ok(FileSystem {
            root: detached_root(&point)?,
            _directory: directory,
            _device: None,
        })
    }

    /// A file system of that kind on a device.
    ///
    /// # Errors
    /// Why the host does not make one.
    pub fn on(device: LoopDevice, kind: &str) -> Result<FileSystem, String> {
        let directory = TestDir::new();
        run(&format!("mkfs.{kind}"), &[], device.path())?;
        let root = mount(device.path(), "rw", &directory)?;
        Ok(FileSystem {
            root,
            _directory: directory,
            _device: Some(device),
        })
    }

    /// A file of it. Programs that this one starts may use the name, too.
    pub fn file(&self, name: &str) -> PathBuf {
        let (process, fd) = (std::process::id(), self.root.as_raw_fd());
        PathBuf::from(format!("/proc/{process}/fd/{fd}/{name}"))
    }
}

/// Mounts what is in `image`; its root. It is mounted as long as something of it is open.
fn mount(image: &Path, options: &str, directory: &TestDir) -> Result<File, String> {
    let point = directory.file("mounted");
    std::fs::create_dir(&point).unwrap();
    run("mount", &["-o", options, image.to_str().unwrap()], &point)?;
    detached_root(&point)
}

/// The root of what is mounted at `point`, and no longer is.
fn detached_root(point: &Path) -> Result<File, String> {
    let root = File::open(point).map_err(|error| error.to_string());
    run("umount", &["--lazy"], point)?;
    root
}

/// Runs a program that answers at once; what it prints.
fn run(program: &str, arguments: &[&str], path: &Path) -> Result<String, String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).arg(path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", complaint.trim()))
}
