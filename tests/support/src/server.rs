//! A running `qctx` with a monitor, ended and cleaned up whatever happens to the test.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use crate::deadline::wait_for;
use crate::directory::TestDir;
use crate::process::{Process, qctx};
use crate::qmp::Client;

const QMP: &str = "qmp.sock";

/// A started `qctx`, whose working directory is the given one or one of its own.
#[derive(Debug)]
pub struct Server {
    process: Process,
    directory: PathBuf,
    socket: PathBuf,
    _own: Option<TestDir>,
}

impl Server {
    /// Starts `qctx` with these arguments and a monitor, and waits until it is ready.
    pub fn start(directory: &TestDir, arguments: &[&str]) -> Server {
        Self::start_under(directory, &[], arguments)
    }

    /// The same with arguments that are separated by spaces.
    pub fn start_line(directory: &TestDir, line: &str) -> Server {
        Self::start(directory, &line.split_whitespace().collect::<Vec<_>>())
    }

    /// The same in a directory of its own.
    pub fn start_alone(arguments: &[&str]) -> Server {
        Self::start_alone_under(&[], arguments)
    }

    pub fn start_alone_under(launcher: &[&str], arguments: &[&str]) -> Server {
        let directory = TestDir::new();
        let mut server = Self::start_under(&directory, launcher, arguments);
        server._own = Some(directory);
        server
    }

    /// The same with `qctx` started by another program, which must replace itself by it.
    pub fn start_under(directory: &TestDir, launcher: &[&str], arguments: &[&str]) -> Server {
        let mut words: Vec<OsString> = launcher.iter().map(OsString::from).collect();
        words.push(qctx());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(arguments);
        command.args(["-qmp", &format!("unix:{QMP},server=on,wait=off")]);
        command.current_dir(directory.path()).stdin(Stdio::null());
        let mut server = Server {
            process: Process::start(&mut command),
            directory: directory.path().to_owned(),
            socket: directory.socket(QMP),
            _own: None,
        };
        // The monitor's socket appears last.
        wait_for("the monitor's socket", || {
            assert!(!server.process.has_ended(), "qctx ended");
            UnixStream::connect(&server.socket).ok()
        });
        server
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where its monitor is.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// A QMP client that has not negotiated.
    pub fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// A QMP client that has negotiated.
    pub fn client(&self) -> Client {
        let mut client = self.connect();
        let answer = client.ask("{\"execute\":\"qmp_capabilities\"}");
        assert_eq!(answer, "{\"return\": {}}");
        client
    }

    /// What a client subcommand prints.
    pub fn subcommand(&self, arguments: &[&str]) -> String {
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
        let text = self.subcommand(&["qom-get", path_and_property]);
        text.parse().unwrap()
    }

    /// Resident memory and its peak, in KiB.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Sends a signal, by its name.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for the end of the program.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// Ends it with the QMP command `quit`.
    pub fn quit(mut self) -> ExitStatus {
        self.client().send(b"{\"execute\":\"quit\"}");
        self.wait()
    }

    /// Ends the program as a user would and checks that it leaves no socket behind.
    pub fn stop(&mut self) {
        self.signal("TERM");
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
