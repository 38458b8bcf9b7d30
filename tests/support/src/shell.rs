//! A shell with job control on a terminal. It is dash, which leaves the mode of the terminal alone.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, Termios, tcgetattr};

use crate::deadline::{DEADLINE, wait_for};
use crate::directory::TestDir;
use crate::process::Process;
use crate::skip::skip;
use crate::terminal::terminal;

/// A shell with job control, and what it has printed.
pub struct Shell {
    master: File,
    slave: File,
    before: Termios,
    seen: String,
    _process: Process,
    directory: TestDir,
}

impl Shell {
    /// None without dash.
    pub fn start(directory: TestDir) -> Option<Shell> {
        let (master, slave) = terminal();
        let before = tcgetattr(&slave).unwrap();
        let same = || slave.try_clone().unwrap();
        let spawned = Command::new("setsid")
            .args(["--ctty", "dash", "-i"])
            .env("PS1", "> ")
            .env_remove("ENV")
            .current_dir(directory.path())
            .stdin(same())
            .stdout(same())
            .stderr(same())
            .spawn();
        let process = match spawned {
            Ok(child) => Process(child),
            Err(error) => {
                skip(error);
                return None;
            }
        };
        let mut shell = Shell {
            master,
            slave,
            before,
            seen: String::new(),
            _process: process,
            directory,
        };
        shell.expect("> ");
        Some(shell)
    }

    /// Where it is.
    pub fn directory(&self) -> &TestDir {
        &self.directory
    }

    pub fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until `text` has come, and forgets everything up to its end. Returns what came before it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                let mut before = std::mem::replace(&mut self.seen, rest);
                before.truncate(at);
                return before;
            }
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            let limit = i32::try_from(DEADLINE.as_millis()).unwrap();
            let ready = poll(&mut fds, limit).unwrap();
            assert!(ready > 0, "'{text}' does not come after '{}'", self.seen);
            let mut bytes = [0; 4096];
            let count = self.master.read(&mut bytes).unwrap();
            self.seen
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    #[track_caller]
    pub fn wait_for_raw_mode(&self) {
        wait_for("raw mode", || {
            let mode = tcgetattr(&self.slave).unwrap().local_modes;
            (!mode.intersects(LocalModes::ICANON | LocalModes::ECHO)).then_some(())
        });
    }

    #[track_caller]
    pub fn has_its_mode_back(&self) {
        let now = tcgetattr(&self.slave).unwrap();
        assert_eq!(now.local_modes, self.before.local_modes);
        assert_eq!(now.input_modes, self.before.input_modes);
        assert_eq!(now.output_modes, self.before.output_modes);
    }

    /// Runs a command of the shell whose output is `answer`.
    #[track_caller]
    pub fn answers(&mut self, command: &str, answer: &str) {
        self.types(&format!("{command}\n"));
        self.expect(answer);
    }
}
