//! A `qctx` under test and raw QMP clients of it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use crate::deadline::DEADLINE;
use crate::directory::TestDir;
use crate::server::qctx;

/// Kills a process that outlives the deadline, so that a test that waits for it fails instead of hanging.
#[derive(Debug)]
pub struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn new(child: &Child) -> Watchdog {
        let pid = child.id().to_string();
        let (alive, ended) = mpsc::channel::<()>();
        thread::spawn(move || {
            if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("killing process {pid}, which is over its time");
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
            }
        });
        Watchdog { _alive: alive }
    }
}

/// What `query-version` answers.
pub const VERSION: &str =
    r#"{"qemu": {"micro": 0, "minor": 1, "major": 0}, "package": "qcontext 0.1.0"}"#;

/// An error of the general class.
pub fn generic(desc: &str) -> String {
    format!(r#"{{"error": {{"class": "GenericError", "desc": "{desc}"}}}}"#)
}

/// An error.
pub fn of_class(class: &str, desc: &str) -> String {
    format!(r#"{{"error": {{"class": "{class}", "desc": "{desc}"}}}}"#)
}

/// A successful answer.
pub fn returns(value: &str) -> String {
    format!(r#"{{"return": {value}}}"#)
}

/// Runs `qctx` to its end.
pub fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(qctx());
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("QMP_SOCKET");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let _watchdog = Watchdog::new(&child);
    child.wait_with_output().unwrap()
}

/// Exit status, standard output, standard error.
pub fn outcome(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A running `qctx` with a monitor socket.
#[derive(Debug)]
pub struct Daemon {
    pub directory: TestDir,
    pub child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _watchdog: Watchdog,
}

impl Daemon {
    /// Starts it with these options; when this returns, the socket is there: the greeting on standard output comes
    /// from the monitor that is opened after it.
    pub fn start(options: &[&str]) -> Daemon {
        Daemon::start_by(Command::new(qctx()), options)
    }

    /// The same, in a process that may have this many fds.
    pub fn start_with_fd_limit(options: &[&str], limit: u32) -> Daemon {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        command.args(["-c", &script]).arg(qctx());
        Daemon::start_by(command, options)
    }

    fn start_by(mut command: Command, options: &[&str]) -> Daemon {
        let directory = TestDir::new();
        let socket = directory.socket("qmp.sock");
        command
            .args(options)
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(["-qmp", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let watchdog = Watchdog::new(&child);
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = String::new();
        output.read_line(&mut greeting).unwrap();
        assert!(greeting.starts_with("{\"QMP\""), "{greeting}");
        Daemon {
            directory,
            child,
            input,
            output,
            _watchdog: watchdog,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.socket("qmp.sock")
    }

    /// A client that has not negotiated.
    pub fn connect(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// A client that has negotiated.
    pub fn client(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(
            client.ask("{\"execute\":\"qmp_capabilities\"}"),
            "{\"return\": {}}"
        );
        client
    }

    /// Says something on standard input and reads a line of standard output.
    pub fn ask_stdio(&mut self, request: &str) -> String {
        self.input.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ends it with `quit`.
    pub fn quit(mut self) -> ExitStatus {
        self.client().send(b"{\"execute\":\"quit\"}");
        self.child.wait().unwrap()
    }

    /// Resident memory and its peak, in KiB.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A QMP client that checks nothing.
#[derive(Debug)]
pub struct Client {
    pub stream: UnixStream,
    reader: BufReader<UnixStream>,
    pub greeting: String,
}

impl Client {
    pub fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let mut client = Client {
            stream,
            reader,
            greeting: String::new(),
        };
        client.greeting = client.line();
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next line, without its end; empty at the end of the stream.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        assert_eq!(
            line.last().copied().unwrap_or(b'\n'),
            b'\n',
            "unfinished line"
        );
        String::from_utf8(line)
            .unwrap()
            .trim_end_matches('\n')
            .to_owned()
    }

    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> String {
        self.send(request.as_ref());
        self.line()
    }

    /// What still comes until the server hangs up; a reset counts as that, because the server did not read all.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        String::from_utf8(rest).unwrap()
    }
}
