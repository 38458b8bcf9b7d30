//! The two servers, started with the same block device and ended with the value.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::Result;
use super::case::{Image, Target};

/// The program measured, and the one it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Qctx,
    Peer,
}

/// The working directory of the run: sockets are named relative to it, since names are short.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

/// Makes a directory for this run and enters it.
pub(crate) fn enter_directory() -> Result<Directory> {
    let name = format!("bench-{}", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&path)?;
    std::env::set_current_dir(&path)?;
    Ok(Directory(path))
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server of one disk.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) socket: String,
    /// What a guest reads.
    pub(crate) image: Option<PathBuf>,
}

fn qctx() -> OsString {
    std::env::var_os("QCTX").unwrap_or_else(|| env!("CARGO_BIN_EXE_qctx").into())
}

/// The daemon that was fetched with QEMU 10, or else the installed one.
fn peer() -> OsString {
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/target/guest/qemu-10/usr/bin");
    let fetched = Path::new(fetched).join("qemu-storage-daemon");
    if fetched.exists() {
        fetched.into()
    } else {
        "qemu-storage-daemon".into()
    }
}

fn qctx_command(blockdev: &str, socket: &str) -> Command {
    let mut command = Command::new(qctx());
    command.args([
        "-object",
        "qcontext,id=ctx1,threaded=yes",
        "-blockdev",
        blockdev,
        "-device",
    ]);
    let place = "x-data-plane=on,context=ctx1";
    command.arg(format!(
        "virtio-blk,id=disk0,drive=disk,{place},vhost-user={socket}"
    ));
    command
}

fn peer_command(blockdev: &str, socket: &str) -> Command {
    let mut command = Command::new(peer());
    command.args([
        "--object",
        "iothread,id=iot0",
        "--blockdev",
        blockdev,
        "--export",
    ]);
    let place = "iothread=iot0,num-queues=1,addr.type=unix";
    command.arg(format!(
        "vhost-user-blk,id=exp0,node-name=disk,writable=on,{place},addr.path={socket}"
    ));
    command
}

impl Server {
    pub(crate) fn start(kind: Kind, target: Target, image: Option<&Image>) -> Result<Server> {
        let blockdev = format!("{},node-name=disk", target.blockdev(image));
        let socket = format!("{kind:?}-{target}.sock");
        let mut command = match kind {
            Kind::Qctx => qctx_command(&blockdev, &socket),
            // Both serve the same file, in turns: only the first may lock it.
            Kind::Peer if image.is_some() => {
                peer_command(&format!("{blockdev},{}=off", target.locking()), &socket)
            }
            Kind::Peer => peer_command(&blockdev, &socket),
        };
        let program = command.get_program().to_owned();
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut server = Server {
            child,
            socket,
            image: image.map(|image| image.content.clone()),
        };
        let end = Instant::now() + Duration::from_secs(10);
        while !Path::new(&server.socket).exists() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{} ended with {status}", program.display()).into());
            }
            if Instant::now() > end {
                return Err(format!("{} opens no socket", program.display()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
