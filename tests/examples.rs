//! Each example builds, runs and ends with status 0. The C examples are tests of meson: `examples/c/meson.build`.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what some examples need
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use support::directory::build_directory;
use support::process::Process;

const TOP: &str = env!("CARGO_MANIFEST_DIR");

/// Builds all examples, in the profile of this test.
fn build() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let folder = build_directory();
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let output = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--offline", "--examples"])
            .args(["--profile", profile, "--target-dir"])
            .arg(folder.parent().unwrap())
            .current_dir(TOP)
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
    });
}

fn run(example: &str) {
    build();
    let program = build_directory().join("examples").join(example);
    Process::start(&mut Command::new(program)).ends_well();
}

#[test]
fn functions_run_on_a_context() {
    run("invoke");
}

#[test]
fn an_fd_handler_answers() {
    run("fd_handler");
}

#[test]
fn tasks_run_on_a_context() {
    run("tasks");
}

#[test]
fn a_gio_server_runs_on_a_context() {
    run("gio_server");
}

#[test]
fn a_device_model_is_served_over_vhost_user() {
    run("device_model");
}

#[test]
fn every_example_has_a_test() {
    let tests = fs::read_to_string(Path::new(TOP).join("tests/examples.rs")).unwrap();
    for entry in fs::read_dir(Path::new(TOP).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let tested = tests.contains(&format!("run(\"{name}\")"));
        assert!(path.is_dir() || tested, "{name}");
    }
}
