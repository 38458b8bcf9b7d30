//! `make run`: it installs what it runs and no more, says what it does, and what it recommends works as typed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use support::deadline::wait_for;
use support::directory::TestDir;
use support::process::{Process, qctx};

const MAKEFILE: &str = include_str!("../Makefile");

/// What `make run` shows at its end.
const TRY_NEXT: &str = include_str!("../docs/try-next.txt");

fn packages(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/packages");
    Command::new(script).args(arguments).output().unwrap()
}

/// The packages of a set.
fn list(set: &str) -> Vec<String> {
    let output = packages(&["--list", set]);
    assert!(output.status.success(), "{set}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn run_needs_a_linker_glib_and_what_the_guest_is_made_of() {
    let expected = [
        "busybox-static",
        "e2fsprogs",
        "gcc",
        "libc6-dev",
        "libglib2.0-dev",
        "pkg-config",
    ];
    assert_eq!(list("run"), expected);
    assert!(MAKEFILE.contains("\t@tests/guest/packages run\n"));
}

#[test]
fn test_needs_what_run_and_the_packages_need_and_more() {
    let all = list("test");
    for package in list("run").iter().chain(&list("deb")) {
        assert!(all.contains(package), "{package}");
    }
    for package in ["clang", "lintian", "abigail-tools", "libvncserver-dev"] {
        assert!(all.iter().any(|one| one == package), "{package}");
    }
}

#[test]
fn every_target_names_a_set_that_exists() {
    let sets: Vec<&str> = MAKEFILE
        .lines()
        .filter_map(|line| line.split_once("tests/guest/packages "))
        .map(|(_, set)| set)
        .collect();
    assert_eq!(sets.len(), 9, "{sets:?}");
    for set in sets {
        assert!(list(set).contains(&"gcc".to_owned()), "{set}");
    }
}

#[test]
fn an_unknown_set_is_refused_with_the_known_ones() {
    let output = packages(&["--list", "everything"]);
    assert!(!output.status.success());
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        complaint,
        "packages: no set 'everything': expected build, run, test, bench, iotests, install, deb or deb-test\n"
    );
}

#[test]
fn its_steps_are_numbered_and_the_last_words_are_what_to_try() {
    let output = Command::new("make")
        .args(["-n", "run"])
        // Another make that runs this test must not change what this one prints.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let script = String::from_utf8(output.stdout).unwrap();
    let steps: Vec<&str> = script
        .lines()
        .filter_map(|line| line.strip_prefix("echo \"== "))
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(steps, ["1 of 5", "2 of 5", "3 of 5", "4 of 5", "5 of 5"]);
    assert!(script.ends_with("cat docs/try-next.txt\n"), "{script}");
}

/// The indented lines of what to try, with the program under test.
fn recommended() -> String {
    let lines = TRY_NEXT
        .lines()
        .filter_map(|line| line.strip_prefix("    "));
    let script: String = lines.map(|line| format!("{line}\n")).collect();
    script.replace("target/release/qctx", qctx().to_str().unwrap())
}

fn shell(directory: &TestDir, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-e", "-c", script]);
    command.current_dir(directory.path());
    command
}

#[test]
fn what_to_try_next_works() {
    let directory = TestDir::new();
    let script = recommended();
    let (server, questions) = script.split_once(" &\n").unwrap();
    let questions = questions.strip_suffix("kill %1\n").unwrap();
    // The shell is replaced by qctx, which `kill %1` would end.
    let (prepare, server) = server.split_once('\n').unwrap();
    let prepared = shell(&directory, prepare).status().unwrap();
    assert!(prepared.success());
    let mut server = Process::start(&mut shell(&directory, &format!("exec {server}")));
    wait_for("the monitor", || {
        UnixStream::connect(directory.socket("qmp.sock")).ok()
    });
    let answer = shell(&directory, questions).output().unwrap();
    let said = String::from_utf8(answer.stdout).unwrap();
    assert!(answer.status.success());
    server.signal("TERM");
    server.ends_well();
    let thread = said.lines().next().unwrap();
    assert!(thread.parse::<u32>().is_ok(), "{said}");
    assert!(said.contains("\n/machine/peripheral/disk0\n"), "{said}");
}
