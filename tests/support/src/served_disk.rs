//! Disks for tests: a directory, nodes in it, devices that serve them on contexts.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use qcontext::block::Node;
use qcontext::device::{Device, DeviceOptions};
use qcontext::object::options;
use qcontext::virtio::blk::{Blk, BlkOptions, QueueStats};
use qcontext::{QContext, Result};

use crate::deadline::DEADLINE;
use crate::directory::{TestDir, unique};

/// What is behind a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Null,
    Uring { direct: bool },
    Threads { direct: bool },
}

/// A device that serves a fresh disk.
pub struct Disk {
    pub device: Option<Arc<Device>>,
    pub node: Arc<Node>,
    pub socket: PathBuf,
    pub file: PathBuf,
    dir: Option<TestDir>,
}

impl Disk {
    /// A disk of `size` bytes, served by `context`.
    pub fn new(engine: Engine, size: u64, queues: u16, context: &QContext) -> Disk {
        let dir = TestDir::new();
        let file = dir.file("disk.raw");
        std::fs::File::create(&file).unwrap().set_len(size).unwrap();
        let node = open(engine, size, &file);
        Disk::serve(dir, file, node, queues, context)
    }

    /// A disk that is `node`, whose file and directory go with it.
    pub fn serve(
        dir: TestDir,
        file: PathBuf,
        node: Arc<Node>,
        queues: u16,
        context: &QContext,
    ) -> Disk {
        let socket = dir.socket("disk.sock");
        let mut disk = BlkOptions::new(node.name());
        disk.num_queues = queues;
        let mut options = DeviceOptions::new(unique("disk"), disk, &socket);
        options.data_plane = true;
        options.context = Some(context.id().to_string());
        let device = Device::add(options).unwrap();
        Disk {
            device: Some(device),
            node,
            socket,
            file,
            dir: Some(dir),
        }
    }

    pub fn device(&self) -> &Arc<Device> {
        self.device.as_ref().unwrap()
    }

    /// What the device has done so far.
    pub fn stats(&self) -> QueueStats {
        self.device().model::<Blk>().unwrap().total()
    }

    /// Shuts the device down and waits for it.
    pub fn shutdown(&mut self) -> Result<()> {
        let Some(device) = self.device.take() else {
            return Ok(());
        };
        let (done, is_done) = mpsc::channel();
        device.shutdown(move || done.send(()).unwrap())?;
        is_done.recv_timeout(DEADLINE).expect("a shutdown in time");
        Ok(())
    }
}

impl Disk {
    /// Shuts the device down and closes its node. The directory with the files stays.
    pub fn close(mut self) -> TestDir {
        self.shutdown().unwrap();
        self.dir.take().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.shutdown().is_ok() {
            let _ = Node::remove(self.node.name());
        }
    }
}

/// Opens a node of its own for `file`.
pub fn open(engine: Engine, size: u64, file: &Path) -> Arc<Node> {
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
