//! What README.md and `qctx --help` tell people to type works as typed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use support::deadline::wait_for;
use support::directory::TestDir;
use support::process::{Process, qctx};
use support::skip::skip;
use support::tiny_kernel;

const README: &str = include_str!("../README.md");

/// The paragraphs of indented lines, without their indentation.
fn examples() -> Vec<String> {
    let mut examples = vec![String::new()];
    for line in README.lines() {
        match line.strip_prefix("    ") {
            Some(line) => *examples.last_mut().unwrap() += &format!("{line}\n"),
            None => examples.push(String::new()),
        }
    }
    examples.retain(|example| !example.is_empty());
    examples
}

/// A shell in the directory, which knows `qctx`.
fn shell(directory: &TestDir, script: &str) -> Command {
    let program = qctx();
    let folder = Path::new(&program).parent().unwrap().display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-e", "-c", script]).env("PATH", path);
    command.current_dir(directory.path());
    command
}

/// Starts a `qctx` and waits until each socket that it names can be connected to.
fn start(directory: &TestDir, example: &str) -> Process {
    let running = Process::start(&mut shell(directory, &format!("exec {example}")));
    let words = example.split([',', '=', ':', ' ', '\n']);
    for socket in words.filter(|word| word.ends_with(".sock")) {
        wait_for(socket, || {
            UnixStream::connect(directory.socket(socket)).ok()
        });
    }
    running
}

fn stop(mut running: Process) {
    running.signal("TERM");
    running.ends_well();
}

fn directory() -> TestDir {
    let directory = TestDir::new();
    directory.image("disk0.raw", 1);
    directory.image("disk1.raw", 1);
    directory
}

#[test]
fn servers_of_the_readme_start_and_end() {
    let servers: Vec<String> = examples()
        .into_iter()
        .filter(|example| example.starts_with("qctx ") && example.contains("vhost-user="))
        .collect();
    assert_eq!(servers.len(), 2, "{servers:?}");
    for example in &servers {
        stop(start(&directory(), example));
    }
}

/// With a kernel that says a letter and powers off when it is told to.
#[test]
fn machines_of_the_readme_boot_and_end() {
    if let Err(error) = qcontext::kvm::open() {
        return skip(error);
    }
    let mut machines = examples();
    machines.retain(|one| one.starts_with("qctx -machine microvm"));
    assert_eq!(machines.len(), 2, "{machines:?}");
    for machine in machines {
        let directory = directory();
        directory.image("initrd", 1);
        std::fs::write(directory.path().join("vmlinuz"), tiny_kernel::elf()).unwrap();
        let script = format!("echo q | {machine}");
        let output = shell(&directory, &script).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "A");
    }
}

/// The lines with numbers of one's own shown as `N`.
fn without_numbers(text: &str) -> String {
    let is_number = |line: &&str| line.parse::<u64>().is_ok();
    let lines = text
        .lines()
        .map(|line| if is_number(&line) { "N" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn session_of_the_readme_shows_what_the_readme_shows() {
    let examples = examples();
    let server = examples
        .iter()
        .find(|one| one.contains("-qmp unix:"))
        .unwrap();
    let session = examples.iter().find(|one| one.starts_with("$ ")).unwrap();
    let (typed, shown): (Vec<&str>, Vec<&str>) =
        session.lines().partition(|line| line.starts_with("$ "));
    let script: Vec<&str> = typed.iter().map(|line| &line[2..]).collect();

    let directory = directory();
    let running = start(&directory, server);
    let output = shell(&directory, &script.join("\n")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said = without_numbers(&said);
    let shown = without_numbers(&shown.join("\n"));
    assert!(said.starts_with(&shown), "{said}\ninstead of\n{shown}");
    // The last command is qom-tree, whose answer is not in the README.
    assert!(said.contains("\n/machine/peripheral/disk0\n"), "{said}");
    stop(running);
}

#[test]
fn example_of_the_help_works() {
    let output = Command::new(qctx()).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, example) = help.split_once("\nExample:\n").unwrap();
    let (server, question) = example.rsplit_once("\n  qctx ").unwrap();
    let directory = directory();
    let running = start(&directory, server.trim());
    let answer = shell(&directory, &format!("qctx {question}"))
        .output()
        .unwrap();
    let thread = String::from_utf8(answer.stdout).unwrap();
    assert!(thread.trim().parse::<u32>().is_ok(), "{thread}");
    stop(running);
}
