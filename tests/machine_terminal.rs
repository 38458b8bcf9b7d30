//! A machine's console on a terminal, as a job of a shell: stopped, continued, in the background, ended. The shell is dash, which
//! leaves the mode of the terminal alone.
//!
//! Says SKIP where there is no KVM or no dash.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::fs;
use std::process::Command;

use support::directory::TestDir;
use support::process::qctx;
use support::shell::Shell;
use support::skip::skip;
use support::tiny_kernel;

const CTRL_Z: &str = "\x1a";
const CTRL_BACKSLASH: &str = "\x1c";

/// A shell that has a machine as the script `machine`. None without KVM or dash.
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
    Shell::start(directory)
}

/// The same with the machine in the foreground.
fn with_machine() -> Option<Shell> {
    let mut shell = start()?;
    shell.types("dash machine\n");
    is_in_the_guest(&mut shell);
    Some(shell)
}

/// A key reaches the guest, which sends it back; in raw mode the terminal does not.
#[track_caller]
fn is_in_the_guest(shell: &mut Shell) {
    shell.wait_for_raw_mode();
    shell.types("x");
    shell.expect("x");
}

#[test]
fn a_machine_that_is_stopped_and_continued_has_raw_mode_again() {
    let Some(mut shell) = with_machine() else {
        return;
    };
    for _ in 0..2 {
        shell.types(CTRL_Z);
        shell.expect("Stopped");
        shell.has_its_mode_back();
        shell.types("fg\n");
        is_in_the_guest(&mut shell);
    }
    shell.types("q");
    shell.expect("> ");
    shell.answers("echo ended-$?", "ended-0");
    shell.has_its_mode_back();
}

/// What is typed for the shell meanwhile does not stop the machine, which has its terminal open for reading.
#[test]
fn a_machine_in_the_background_runs_and_ends_at_once() {
    let Some(mut shell) = with_machine() else {
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
    let Some(mut shell) = with_machine() else {
        return;
    };
    shell.types(CTRL_Z);
    shell.expect("Stopped");
    shell.answers("kill %1; fg; echo ended-$?", "ended-0");
    shell.has_its_mode_back();
}

#[test]
fn a_machine_that_quit_ends_gives_the_terminal_back() {
    let Some(mut shell) = start() else {
        return;
    };
    shell.types("ulimit -c 0; dash machine\n");
    is_in_the_guest(&mut shell);
    shell.types(CTRL_BACKSLASH);
    shell.expect("Quit");
    shell.answers("echo ended-$?", "ended-131");
    shell.has_its_mode_back();
}

#[test]
fn a_machine_that_a_crash_ends_gives_the_terminal_back() {
    for (signal, status) in [("ABRT", "134"), ("SEGV", "139"), ("USR1", "138")] {
        let Some(mut shell) = start() else {
            return;
        };
        shell.types("ulimit -c 0; dash machine & echo pid-$!-\n");
        shell.expect("pid-$!-");
        shell.expect("pid-");
        let pid = shell.expect("-");
        shell.types("fg\n");
        is_in_the_guest(&mut shell);
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
    let Some(mut shell) = start() else {
        return;
    };
    shell.types("dash machine &\n");
    // The kernel's first letter.
    shell.expect("A");
    shell.has_its_mode_back();
    shell.answers("jobs; echo still-$?", "Running");
    shell.expect("still-0");
    shell.types("fg\n");
    is_in_the_guest(&mut shell);
    shell.types("q");
    shell.expect("> ");
    shell.answers("echo ended-$?", "ended-0");
    shell.has_its_mode_back();
}
