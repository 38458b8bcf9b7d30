//! The servers, each with the same disk under the name `disk`.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::Result;

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Qctx,
    Qemu,
    Nbdkit,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Qctx, Kind::Qemu, Kind::Nbdkit];
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Null,
    Tmpfs,
}

/// The file of a disk, which goes with the value.
#[derive(Debug)]
pub(crate) struct ImageFile(Option<PathBuf>);

impl ImageFile {
    pub(crate) fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

impl Disk {
    pub(crate) const ALL: [Disk; 2] = [Disk::Null, Disk::Tmpfs];

    pub(crate) fn prepare(self) -> Result<ImageFile> {
        if self == Disk::Null {
            return Ok(ImageFile(None));
        }
        let path = PathBuf::from(format!("/dev/shm/bench-nbd-{}", std::process::id()));
        let image = ImageFile(Some(path.clone()));
        fs::write(&path, vec![1; 256 << 20])?;
        Ok(image)
    }

    fn blockdev(self, image: &Path) -> String {
        match self {
            Disk::Null => "null-co,node-name=disk,size=1073741824,read-zeroes=on".to_owned(),
            Disk::Tmpfs => format!(
                "file,node-name=disk,filename={},locking=off",
                image.display()
            ),
        }
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) socket: PathBuf,
    child: Child,
}

impl Server {
    pub(crate) fn start(kind: Kind, disk: Disk, image: &Path) -> Result<Server> {
        let name = format!("/tmp/bench-nbd-{}-{kind:?}.sock", std::process::id());
        let socket = PathBuf::from(&name);
        let _ = fs::remove_file(&socket);
        let mut command = match kind {
            Kind::Qctx | Kind::Qemu => {
                let qctx = std::env::var_os("QCTX");
                let qctx = qctx.unwrap_or_else(|| env!("CARGO_BIN_EXE_qctx").into());
                let mut command = match kind {
                    Kind::Qctx => Command::new(qctx),
                    _ => Command::new("qemu-storage-daemon"),
                };
                command.args(["--object", "iothread,id=io0", "--blockdev"]);
                command.arg(disk.blockdev(image));
                command.arg("--nbd-server");
                command.arg(format!("addr.type=unix,addr.path={name}"));
                command.args(["--export", "nbd,id=e0,node-name=disk,iothread=io0"]);
                command
            }
            Kind::Nbdkit => {
                let mut command = Command::new("nbdkit");
                command.args(["-f", "-U", &name]);
                match disk {
                    Disk::Null => command.args(["null", "1G"]),
                    Disk::Tmpfs => command.arg("file").arg(image),
                };
                command
            }
        };
        let child = command.spawn()?;
        let server = Server {
            kind,
            socket,
            child,
        };
        let end = Instant::now() + Duration::from_secs(10);
        while !server.socket.exists() {
            if Instant::now() > end {
                return Err("no socket".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Processor time so far, also of threads that have ended. The kernel counts it in hundredths of a second.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let times = fields.split_whitespace().skip(11).take(2);
        times
            .filter_map(|time| time.parse::<f64>().ok())
            .sum::<f64>()
            / 100.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
