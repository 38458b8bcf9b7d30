//! A machine's console on a terminal, as a job of a shell: stopped, continued, in the background, ended. The shell is dash, which
//! leaves the mode of the terminal alone.
//!
//! Says SKIP where there is no KVM or no dash.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use support::deadline::{DEADLINE, wait_for};
use support::directory::TestDir;
use support::process::{Process, qctx};
use support::skip::skip;
use support::terminal::terminal;
use support::tiny_kernel;

const CTRL_Z: &str = "\x1a";
const CTRL_BACKSLASH: &str = "\x1c";

/// A shell with job control, and what it has printed.
struct Shell {
    master: File,
    slave: File,
    before: Termios,
    seen: String,
    _process: Process,
    _directory: TestDir,
}

impl Shell {
    /// None without KVM or dash.
    fn start() -> Option<Shell> {
        if let Err(error) = qcontext::kvm::open() {
            skip(error);
            return None;
        }
        let directory = TestDir::new();
        fs::write(directory.file("kernel"), tiny_kernel::elf()).unwrap();
        let qctx = qctx().into_string().unwrap();
        let script = format!("exec {qctx} -machine microvm -kernel kernel");
        fs::write(directory.file("machine"), script).unwrap();
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
            _directory: directory,
        };
        shell.expect("> ");
        Some(shell)
    }

    /// As [`Shell::start`], with the machine in the foreground.
    fn with_machine() -> Option<Shell> {
        let mut shell = Shell::start()?;
        shell.types("dash machine\n");
        shell.is_in_the_guest();
        Some(shell)
    }

    fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until `text` has come, and forgets everything up to its end. Returns what came before it.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
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
    fn wait_for_raw_mode(&self) {
        wait_for("raw mode", || {
            let mode = tcgetattr(&self.slave).unwrap().local_modes;
            (!mode.intersects(LocalModes::ICANON | LocalModes::ECHO)).then_some(())
        });
    }

    #[track_caller]
    fn has_its_mode_back(&self) {
        let now = tcgetattr(&self.slave).unwrap();
        assert_eq!(now.local_modes, self.before.local_modes);
        assert_eq!(now.input_modes, self.before.input_modes);
        assert_eq!(now.output_modes, self.before.output_modes);
    }

    /// A key reaches the guest, which sends it back; in raw mode the terminal does not.
    #[track_caller]
    fn is_in_the_guest(&mut self) {
        self.wait_for_raw_mode();
        self.types("x");
        self.expect("x");
    }

    /// Runs a command of the shell whose output is `answer`.
    #[track_caller]
    fn answers(&mut self, command: &str, answer: &str) {
        self.types(&format!("{command}\n"));
        self.expect(answer);
    }
}

#[test]
fn a_machine_that_is_stopped_and_continued_has_raw_mode_again() {
    let Some(mut shell) = Shell::with_machine() else {
        return;
    };
    for _ in 0..2 {
        shell.types(CTRL_Z);
        shell.expect("Stopped");
        shell.has_its_mode_back();
        shell.types("fg\n");
        shell.is_in_the_guest();
    }
    shell.types("q");
    shell.expect("> ");
    shell.answers("echo ended-$?", "ended-0");
    shell.has_its_mode_back();
}

/// What is typed for the shell meanwhile does not stop the machine, which has its terminal open for reading.
#[test]
fn a_machine_in_the_background_runs_and_ends_at_once() {
    let Some(mut shell) = Shell::with_machine() else {
        return;
    };
    shell.types(CTRL_Z);
    shell.expect("Stopped");
    shell.types("stty tostop; bg\n");
    for _ in 0..3 {
        shell.answers("jobs; echo still-$?", "Running");
        shell.expect("still-0");
    }
    shell.answers("kill %1; wait %1; echo ended-$?", "ended-0");
    shell.types("stty -tostop; echo done-$?\n");
    shell.expect("done-0");
    shell.has_its_mode_back();
}

#[test]
fn a_stopped_machine_that_is_killed_ends() {
    let Some(mut shell) = Shell::with_machine() else {
        return;
    };
    shell.types(CTRL_Z);
    shell.expect("Stopped");
    shell.answers("kill %1; fg; echo ended-$?", "ended-0");
    shell.has_its_mode_back();
}

#[test]
fn a_machine_that_quit_ends_gives_the_terminal_back() {
    let Some(mut shell) = Shell::start() else {
        return;
    };
    shell.types("ulimit -c 0; dash machine\n");
    shell.is_in_the_guest();
    shell.types(CTRL_BACKSLASH);
    shell.expect("Quit");
    shell.answers("echo ended-$?", "ended-131");
    shell.has_its_mode_back();
}

#[test]
fn a_machine_that_a_crash_ends_gives_the_terminal_back() {
    for (signal, status) in [("ABRT", "134"), ("SEGV", "139"), ("USR1", "138")] {
        let Some(mut shell) = Shell::start() else {
            return;
        };
        shell.types("ulimit -c 0; dash machine & echo pid-$!-\n");
        shell.expect("pid-$!-");
        shell.expect("pid-");
        let pid = shell.expect("-");
        shell.types("fg\n");
        shell.is_in_the_guest();
        let kill = Command::new("kill")
            .args([format!("-{signal}"), pid])
            .status();
        assert!(kill.unwrap().success());
        shell.answers("echo ended-$?", &format!("ended-{status}"));
        shell.has_its_mode_back();
    }
}

#[test]
fn a_machine_that_starts_in_the_background_takes_the_terminal_in_the_foreground() {
    let Some(mut shell) = Shell::start() else {
        return;
    };
    shell.types("dash machine &\n");
    // The kernel's first letter.
    shell.expect("A");
    shell.has_its_mode_back();
    shell.answers("jobs; echo still-$?", "Running");
    shell.expect("still-0");
    shell.types("fg\n");
    shell.is_in_the_guest();
    shell.types("q");
    shell.expect("> ");
    shell.answers("echo ended-$?", "ended-0");
    shell.has_its_mode_back();
}
