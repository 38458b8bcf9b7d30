//! Disks for tests: a directory, nodes in it, devices that serve them on contexts.
#![forbid(unsafe_code)]
#![allow(dead_code)] // each test uses a part of it

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use qcontext::block::Node;
use qcontext::device::{Device, DeviceOptions};
use qcontext::object::options;
use qcontext::{QContext, Result};

use crate::guest::DEADLINE;

/// What is behind a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Null,
    Uring { direct: bool },
    Threads { direct: bool },
}

/// A directory on a real disk (files on tmpfs are served inline, past the engines), removed at the end.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Dir {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("d"));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A name that no other test has.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}-{number}", std::process::id())
}

/// A device that serves a fresh disk.
pub(crate) struct Disk {
    pub(crate) device: Option<Arc<Device>>,
    pub(crate) node: Arc<Node>,
    pub(crate) socket: PathBuf,
    pub(crate) file: PathBuf,
    dir: Dir,
}

impl Disk {
    /// A disk of `size` bytes, served by `context`.
    pub(crate) fn new(engine: Engine, size: u64, queues: u16, context: &QContext) -> Disk {
        let dir = Dir::new();
        let file = dir.path("disk.raw");
        std::fs::File::create(&file).unwrap().set_len(size).unwrap();
        let node = open(engine, size, &file);
        let socket = socket_path(&dir);
        let mut options = DeviceOptions::new(unique("disk"), node.name(), &socket);
        options.data_plane = true;
        options.context = Some(context.id().to_string());
        options.num_queues = queues;
        let device = Device::add(options).unwrap();
        Disk {
            device: Some(device),
            node,
            socket,
            file,
            dir,
        }
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        self.device.as_ref().unwrap()
    }

    /// Shuts the device down and waits for it.
    pub(crate) fn shutdown(&mut self) -> Result<()> {
        let Some(device) = self.device.take() else {
            return Ok(());
        };
        let (done, is_done) = mpsc::channel();
        device.shutdown(move || done.send(()).unwrap())?;
        is_done.recv_timeout(DEADLINE).expect("a shutdown in time");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.shutdown().is_ok() {
            let _ = Node::remove(self.node.name());
        }
    }
}

/// Socket paths are at most 107 bytes long, which a build directory may well exceed.
fn socket_path(dir: &Dir) -> PathBuf {
    let path = dir.path("disk.sock");
    if path.as_os_str().len() < 100 {
        return path;
    }
    std::env::temp_dir().join(unique("qcontext-") + ".sock")
}

/// Opens a node of its own for `file`.
pub(crate) fn open(engine: Engine, size: u64, file: &Path) -> Arc<Node> {
    let name = unique("node");
    let text = match engine {
        Engine::Null => format!("driver=null-co,node-name={name},size={size},read-zeroes=on"),
        Engine::Uring { direct } => file_options("io_uring", direct, &name, file),
        Engine::Threads { direct } => file_options("threads", direct, &name, file),
    };
    Node::open_blockdev(options::parse_dotted("driver", &text).unwrap()).unwrap()
}

fn file_options(aio: &str, direct: bool, name: &str, file: &Path) -> String {
    let (file, direct) = (file.display(), if direct { "on" } else { "off" });
    format!("driver=file,node-name={name},filename={file},cache.direct={direct},aio={aio}")
}
