//! Programs that tests start: `qctx` and those that use it.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};

use crate::deadline::{DEADLINE, wait_for};
use crate::directory::build_directory;

/// The program under test, or the one that the variable `QCTX` names.
pub fn qctx() -> OsString {
    std::env::var_os("QCTX").unwrap_or_else(|| build_directory().join("qctx").into())
}

/// A started program, killed when the value is dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Process {
    pub fn start(command: &mut Command) -> Process {
        Process(command.spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal, by its name.
    pub fn signal(&self, name: &str) {
        let (flag, pid) = (format!("-{name}"), self.pid().to_string());
        let kill = Command::new("kill").args([flag, pid]).status();
        assert!(kill.unwrap().success());
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the end of the program", || self.0.try_wait().unwrap())
    }

    /// Waits for the end of the program, which must be a success.
    #[track_caller]
    pub fn ends_well(&mut self) {
        let status = self.wait();
        assert!(status.success(), "{status}");
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `qctx` to its end. It is killed if that takes too long.
pub fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(qctx());
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("QMP_SOCKET");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let (pid, (alive, ended)) = (child.id().to_string(), channel::<()>());
    std::thread::spawn(move || {
        if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(alive);
    output
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

/// Runs `qctx`, which must refuse: a line of standard error and exit status 1, and nothing on standard output.
#[track_caller]
pub fn refused(arguments: &[&str], message: &str) {
    let (status, output, error) = outcome(&run(arguments));
    assert_eq!(
        (status, output.as_str(), error.trim_end()),
        (Some(1), "", message)
    );
}
