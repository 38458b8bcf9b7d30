//! Some of QEMU's own iotests, with `qctx` in the place of qemu-storage-daemon: a short part of `make iotests`.
//!
//! They pass with qemu-storage-daemon. QEMU's source is in `target/guest`, if `tests/guest/fetch source` could fetch it.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::process::qctx;
use support::skip::{skip, skip_case};

/// Whose results these are: not those of `make iotests`.
const OWNER: &str = "short";

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Why there is no source of QEMU.
fn missing() -> Option<String> {
    if place("target/guest/qemu-source").is_dir() {
        return None;
    }
    let reason = fs::read_to_string(place("target/guest/qemu-source.missing"));
    Some(reason.unwrap_or_else(|_| "tests/guest/fetch source was not run".to_owned()))
}

fn run(suite: &str, tests: &[&str]) {
    if let Some(reason) = missing() {
        return skip(reason.trim());
    }
    for test in tests {
        let one = Command::new(place("tests/iotests/one"))
            .args([suite, OWNER])
            .arg(qctx())
            .arg(test)
            .output();
        assert!(one.unwrap().status.success());
        let results = place("target/iotests").join(OWNER).join(suite).join(test);
        let log = fs::read_to_string(results.join("log")).unwrap();
        let result = fs::read_to_string(results.join("result")).unwrap();
        match result.trim() {
            "pass" => {}
            "skip" => {
                let reason = log.lines().find(|line| line.starts_with("Not run:"));
                skip_case(&format!("{suite} {test}"), reason.unwrap_or("not run"));
            }
            _ => panic!("{suite} {test}:\n{log}"),
        }
    }
}

#[test]
fn raw_images_in_exported_files() {
    run("raw-fuse", &["002", "008", "010", "021", "032", "104"]);
}

#[test]
fn qcow2_images_in_exported_files() {
    run("qcow2-fuse", &["003", "017", "035", "046", "062", "089"]);
}
