//! A daemon that exports a node as a file.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;

use support::deadline::DEADLINE;
use support::directory::TestDir;
use support::server::Server;
use support::skip::skip;

/// A daemon with a node that is exported at a file, `disk.fuse`. The fields go in this order.
pub(crate) struct Rig {
    pub(crate) server: Server,
    _mount: MountGuard,
    pub(crate) directory: TestDir,
    /// Kills the daemon of a test that hangs: until then nothing ends a program that waits for the file.
    _watchdog: Sender<()>,
}

/// Takes away what a killed daemon has left.
pub(crate) struct MountGuard(pub(crate) PathBuf);

impl Drop for MountGuard {
    fn drop(&mut self) {
        let umount = Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
        assert!(umount.is_ok());
    }
}

pub(crate) fn can_mount() -> bool {
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = &opened {
        skip(format!("/dev/fuse: {error}"));
    }
    opened.is_ok()
}

impl Rig {
    /// `None` if there is no FUSE here.
    pub(crate) fn new(blockdev: &str, export: &str) -> Option<Rig> {
        can_mount().then(|| Rig::start(TestDir::new(), &[], blockdev, export))
    }

    pub(crate) fn start(
        directory: TestDir,
        launcher: &[&str],
        blockdev: &str,
        export: &str,
    ) -> Rig {
        if !directory.file("disk.raw").exists() {
            directory.image("disk.raw", 4);
        }
        let path = directory.file("disk.fuse");
        File::create(&path).unwrap();
        let export = format!("fuse,id=e0,node-name=n0,mountpoint=disk.fuse{export}");
        let arguments = [
            "--object",
            "iothread,id=io0",
            "--object",
            "iothread,id=io1,thread-pool-max=1",
            "--blockdev",
            blockdev,
            "--export",
            &export,
        ];
        let server = Server::start_under(&directory, launcher, &arguments);
        Rig {
            _watchdog: watchdog(server.pid()),
            server,
            _mount: MountGuard(path),
            directory,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.file("disk.fuse")
    }

    pub(crate) fn open(&self) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(self.path())
            .unwrap()
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        fs::read(self.directory.file("disk.raw")).unwrap()
    }

    pub(crate) fn length(&self) -> u64 {
        fs::metadata(self.path()).unwrap().len()
    }

    pub(crate) fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        mounts.contains(self.path().to_str().unwrap())
    }

    /// Deletes the export and waits for its end.
    pub(crate) fn delete(&self) {
        let mut client = self.server.client();
        client.send(br#"{"execute":"block-export-del","arguments":{"id":"e0"}}"#);
        let mut lines = [client.line(), client.line()];
        lines.sort_by_key(|line| line.contains("timestamp"));
        assert_eq!(lines[0], r#"{"return": {}}"#);
        assert!(lines[1].contains("BLOCK_EXPORT_DELETED"), "{lines:?}");
    }

    pub(crate) fn resize(&self, length: u64) {
        let resize = format!(
            r#"{{"execute":"block_resize","arguments":{{"node-name":"n0","size":{length}}}}}"#
        );
        assert_eq!(self.server.client().ask(resize), r#"{"return": {}}"#);
    }
}

fn watchdog(pid: u32) -> Sender<()> {
    let (alive, ended) = channel();
    thread::spawn(move || {
        if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the daemon or its user hangs");
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status();
        }
    });
    alive
}
