//! The QMP commands and events that qemu-storage-daemon 10.0 has and `qctx` has not: exactly those of `tests/qmp_missing.txt`.
//!
//! Needs the qemu-storage-daemon that `tests/guest/fetch` brings, and says SKIP where it is not there.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeSet;
use std::process::Command;

use support::process::qctx;
use support::skip::skip;

const PEER: [&str; 3] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/program"),
    "10",
    "qemu-storage-daemon",
];

#[test]
fn missing_commands_and_events_are_those_of_the_list() {
    let version = printed(Command::new(PEER[0]).args(&PEER[1..]).arg("--version"));
    if !version.contains("version 10.0.") {
        return skip("no qemu-storage-daemon 10.0, run tests/guest/fetch");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qmp-missing");
    let found = printed(Command::new(script).arg(qctx()).args(PEER));
    let found: BTreeSet<&str> = found.lines().collect();
    let listed: BTreeSet<&str> = include_str!("qmp_missing.txt").lines().collect();
    let forgotten: Vec<_> = found.difference(&listed).collect();
    assert!(forgotten.is_empty(), "qctx lacks these: {forgotten:?}");
    let present: Vec<_> = listed.difference(&found).collect();
    assert!(
        present.is_empty(),
        "not missing any more, remove them from tests/qmp_missing.txt: {present:?}"
    );
}

/// Standard output of a program; its errors are part of the test's.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
