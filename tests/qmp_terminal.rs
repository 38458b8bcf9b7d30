//! QMP by hand: a monitor on a terminal, as a job of a shell.
//!
//! Says SKIP where there is no dash.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::os::unix::net::UnixStream;

use support::deadline::wait_for;
use support::directory::TestDir;
use support::process::qctx;
use support::qmp::{Client, VERSION, returns};
use support::shell::Shell;

/// A shell that has the script `server`.
fn start() -> Option<Shell> {
    let directory = TestDir::new();
    let qctx = qctx().into_string().unwrap();
    let script = format!("exec {qctx} -qmp stdio -qmp unix:qmp.sock,server=on,wait=off");
    fs::write(directory.file("server"), script).unwrap();
    Shell::start(directory)
}

/// The other monitor of the server answers.
fn answers(shell: &Shell) {
    let socket = shell.directory().socket("qmp.sock");
    wait_for("the monitor's socket", || UnixStream::connect(&socket).ok());
    let mut client = Client::connect(&socket);
    client.ask(r#"{"execute":"qmp_capabilities"}"#);
    let version = client.ask(r#"{"execute":"query-version"}"#);
    assert_eq!(version, returns(VERSION));
}

#[test]
fn monitor_in_the_background_leaves_the_terminal_to_the_shell() {
    let Some(mut shell) = start() else {
        return;
    };
    shell.types("dash server &\n");
    shell.expect("\"QMP\"");
    answers(&shell);
    for _ in 0..3 {
        // What is typed is the shell's, and does not stop the server.
        shell.answers("jobs; echo still-$?", "Running");
        shell.expect("still-0");
        answers(&shell);
    }
    shell.types("fg\n");
    // Echoed by the terminal, and read by the server.
    shell.types("{\"execute\":\"qmp_capabilities\"}\n");
    shell.expect("{\"return\": {}}");
    shell.types("{\"execute\":\"quit\"}\n");
    shell.expect("{\"return\": {}}");
    shell.answers("echo ended-$?", "ended-0");
}

#[test]
fn monitor_that_goes_to_the_background_is_read_from_again_in_the_foreground() {
    let Some(mut shell) = start() else {
        return;
    };
    shell.types("dash server\n");
    shell.expect("\"QMP\"");
    shell.types("{\"execute\":\"qmp_capabilities\"}\n");
    shell.expect("{\"return\": {}}");
    shell.types("\x1a");
    shell.expect("Stopped");
    shell.types("bg\n");
    shell.answers("jobs; echo still-$?", "Running");
    shell.expect("still-0");
    answers(&shell);
    shell.types("fg\n");
    shell.types("{\"execute\":\"quit\"}\n");
    shell.expect("{\"return\": {}}");
    shell.answers("echo ended-$?", "ended-0");
}
