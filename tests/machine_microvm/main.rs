//! `qctx -machine microvm` with a kernel of a few instructions, which does what is typed.
//!
//! Says SKIP where there is no KVM.
#![deny(unsafe_code)] // a module takes a guest from the assembler
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

mod high_memory;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use support::deadline::{DEADLINE, wait_for};
use support::directory::TestDir;
use support::process::{Process, qctx};
use support::skip::skip;
use support::tiny_kernel;

/// A folder with the kernel, or none without KVM.
fn setup() -> Option<TestDir> {
    if let Err(error) = qcontext::kvm::open() {
        skip(error);
        return None;
    }
    let directory = TestDir::new();
    fs::write(directory.path().join("kernel"), tiny_kernel::elf()).unwrap();
    Some(directory)
}

/// A machine whose console the test reads and writes.
struct Machine {
    process: Process,
    keyboard: Option<ChildStdin>,
    screen: Receiver<u8>,
}

impl Machine {
    fn start(directory: &TestDir, arguments: &[&str]) -> Machine {
        let mut command = command(directory, arguments);
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut output = process.0.stdout.take().unwrap();
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut byte = [0];
            while output.read(&mut byte).is_ok_and(|count| count == 1) && send.send(byte[0]).is_ok()
            {
            }
        });
        Machine {
            keyboard: process.0.stdin.take(),
            process,
            screen,
        }
    }

    fn types(&mut self, text: &str) {
        self.keyboard
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        let seen = text
            .bytes()
            .map(|_| self.screen.recv_timeout(DEADLINE).unwrap());
        assert_eq!(String::from_utf8(seen.collect()).unwrap(), text);
    }

    /// Waits for the end of the program, which must print nothing more.
    #[track_caller]
    fn ends(&mut self) {
        let rest = self.screen.recv_timeout(DEADLINE);
        assert_eq!(rest, Err(RecvTimeoutError::Disconnected));
        self.process.ends_well();
    }
}

fn command(directory: &TestDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(qctx());
    command
        .args(["-machine", "microvm", "-kernel", "kernel"])
        .args(arguments);
    command.current_dir(directory.path());
    command
}

fn outcome(directory: &TestDir, arguments: &[&str]) -> (ExitStatus, String) {
    let mut command = command(directory, arguments);
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn power_off_ends_the_program() {
    let Some(directory) = setup() else { return };
    let mut machine = Machine::start(&directory, &[]);
    machine.shows("A");
    machine.types("hello");
    machine.shows("hello");
    machine.types("q");
    machine.ends();
}

#[test]
fn every_kind_of_reset_boots_again() {
    let Some(directory) = setup() else { return };
    let mut machine = Machine::start(&directory, &["-smp", "2"]);
    for kind in ["r", "k", "t", "r"] {
        machine.shows("A");
        machine.types(kind);
    }
    machine.shows("A");
    machine.types("q");
    machine.ends();
}

#[test]
fn no_kind_of_reset_boots_again_without_reboot() {
    let Some(directory) = setup() else { return };
    for kind in ["r", "k", "t"] {
        let mut machine = Machine::start(&directory, &["-no-reboot"]);
        machine.shows("A");
        machine.types(kind);
        machine.ends();
    }
}

#[test]
fn disks_stay_with_the_machine_through_resets() {
    let Some(directory) = setup() else { return };
    directory.image("disk.raw", 1);
    let arguments = [
        "-object",
        "qcontext,id=ctx1,threaded=yes",
        "-drive",
        "if=none,id=d0,file=disk.raw,format=raw",
        "-device",
        "virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1",
        "-qmp",
        "unix:qmp.sock,server=on,wait=off",
    ];
    let mut machine = Machine::start(&directory, &arguments);
    for _ in 0..20 {
        machine.shows("A");
        machine.types("r");
    }
    machine.shows("A");
    let answer = Command::new(qctx())
        .args([
            "qom-get",
            "-s",
            "qmp.sock",
            "/machine/peripheral/disk0.context",
        ])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), "ctx1\n");
    machine.types("q");
    machine.ends();
}

#[test]
fn a_signal_ends_a_running_machine() {
    let Some(directory) = setup() else { return };
    let mut machine = Machine::start(&directory, &["-smp", "2"]);
    machine.shows("A");
    machine.process.signal("TERM");
    machine.ends();
}

#[test]
fn the_console_may_be_a_file_or_nothing() {
    let Some(directory) = setup() else { return };
    let mut machine = Machine::start(&directory, &["-serial", "file:console"]);
    let console: PathBuf = directory.path().join("console");
    wait_for("the guest's letter", || {
        fs::read(&console)
            .is_ok_and(|text| text == b"A")
            .then_some(())
    });
    drop(machine.keyboard.take());
    assert!(!machine.process.has_ended());
    drop(machine);
    let arguments = ["-serial", "file:nosuch/console"];
    let message = "cannot write 'nosuch/console': No such file or directory (os error 2)";
    let (status, error) = outcome(&directory, &arguments);
    assert_eq!(
        (status.code(), error),
        (
            Some(1),
            format!("qctx: -serial file:nosuch/console: {message}\n")
        )
    );
}

#[test]
fn a_machine_that_cannot_boot_is_refused() {
    let Some(directory) = setup() else { return };
    directory.image("initrd", 1);
    let (status, error) = outcome(
        &directory,
        &["-m", "2", "-initrd", "initrd", "-serial", "none"],
    );
    let message = "kernel 'kernel' with initrd 'initrd' needs at least 4 MiB of memory, there are 2 MiB within reach";
    assert_eq!(
        (status.code(), error),
        (Some(1), format!("qctx: -machine microvm: {message}\n"))
    );
}

#[test]
fn more_disks_than_the_machine_has_room_for_are_refused() {
    let Some(directory) = setup() else { return };
    let mut arguments = vec!["-serial".to_owned(), "none".to_owned()];
    for number in 0..17 {
        arguments.push("-blockdev".to_owned());
        arguments.push(format!("null-co,node-name=n{number},size=1M"));
        arguments.push("-device".to_owned());
        arguments.push(format!("virtio-blk,id=disk{number},drive=n{number}"));
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (status, error) = outcome(&directory, &words);
    let message = "device 'disk16': the machine has room for 16 virtio devices";
    assert_eq!(
        (status.code(), error),
        (
            Some(1),
            format!("qctx: -device virtio-blk,id=disk16,drive=n16: {message}\n")
        )
    );
}
