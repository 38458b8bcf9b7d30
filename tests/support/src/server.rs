//! A running `qctx` in a directory of its own, ended and cleaned up whatever happens to the test.
//!
//! The program is the one under test, or the one that the variable `QCTX` names.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::directory::{TestDir, build_directory};

/// How long anything but a guest may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

const QMP: &str = "qmp.sock";

/// The program under test.
pub fn qctx() -> OsString {
    std::env::var_os("QCTX").unwrap_or_else(|| build_directory().join("qctx").into())
}

/// Asks until there is an answer; the pause only saves processor time.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A started `qctx`, whose working directory is the given one.
#[derive(Debug)]
pub struct Server {
    child: Child,
    directory: PathBuf,
}

impl Server {
    /// Starts `qctx` with these arguments and a monitor, and waits until it is ready.
    pub fn start(directory: &TestDir, arguments: &[&str]) -> Server {
        Self::start_under(directory, &[], arguments)
    }

    /// The same with `qctx` started by another program, which must replace itself by it.
    pub fn start_under(directory: &TestDir, launcher: &[&str], arguments: &[&str]) -> Server {
        let mut words: Vec<OsString> = launcher.iter().map(OsString::from).collect();
        words.push(qctx());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(arguments)
            .args(["-qmp", &format!("unix:{QMP},server=on,wait=off")])
            .current_dir(directory.path())
            .spawn()
            .unwrap();
        let mut server = Server {
            child,
            directory: directory.path().to_owned(),
        };
        // The monitor's socket appears last.
        wait_for("the monitor's socket", || {
            assert_eq!(server.child.try_wait().unwrap(), None, "qctx ended");
            UnixStream::connect(directory.socket(QMP)).ok()
        });
        server
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What a client subcommand prints.
    pub fn client(&self, arguments: &[&str]) -> String {
        let output = Command::new(qctx())
            .args(arguments)
            .env("QMP_SOCKET", QMP)
            .current_dir(&self.directory)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "qctx {arguments:?}: {text} {complaint}"
        );
        text
    }

    /// An integer property.
    pub fn number(&self, path_and_property: &str) -> i64 {
        self.client(&["qom-get", path_and_property])
            .parse()
            .unwrap()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
    }

    /// Waits for the end of the program.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the end of qctx", || child.try_wait().unwrap())
    }

    /// Ends the program as a user would and checks that it leaves no socket behind.
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.wait();
        assert!(status.success(), "qctx ended with {status}");
        assert_eq!(self.sockets(), Vec::<String>::new(), "sockets left behind");
    }

    /// The names of the sockets in the working directory.
    pub fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap());
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".sock")).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
