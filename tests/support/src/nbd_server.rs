//! NBD servers that are not ours: `qemu-nbd` and `nbdkit`.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::deadline::wait_for;
use crate::process::Process;

/// A server on a Unix socket. It ends with its owner.
#[derive(Debug)]
pub struct NbdServer {
    process: Process,
    pub socket: PathBuf,
}

/// Why a server cannot run here.
pub fn missing(program: &str) -> Option<String> {
    let found = Command::new(program).arg("--version").output();
    found.err().map(|error| format!("{program}: {error}"))
}

impl NbdServer {
    /// `qemu-nbd` with these arguments and an image.
    pub fn qemu_nbd(socket: &Path, arguments: &[&str], image: &Path) -> NbdServer {
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "--socket"]).arg(socket);
        command.args(arguments).arg(image);
        NbdServer::start(command, socket)
    }

    /// `nbdkit` with these arguments.
    pub fn nbdkit<T: AsRef<OsStr>>(socket: &Path, arguments: &[T]) -> NbdServer {
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]);
        command.arg(socket).args(arguments);
        NbdServer::start(command, socket)
    }

    fn start(mut command: Command, socket: &Path) -> NbdServer {
        let _ = std::fs::remove_file(socket);
        let mut process = Process::start(command.stdin(Stdio::null()));
        wait_for("the NBD server's socket", || {
            assert!(!process.has_ended(), "{command:?} ended");
            socket.exists().then_some(())
        });
        NbdServer {
            process,
            socket: socket.to_owned(),
        }
    }

    /// Kills the server, as if its machine had gone.
    pub fn kill(mut self) {
        self.process.signal("KILL");
        self.process.wait();
    }

    /// Stops or continues the process.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }
}
