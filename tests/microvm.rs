//! `qctx -machine microvm` with a kernel of a few instructions, which does what is typed.
//!
//! Says SKIP where there is no KVM.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

#[path = "support/server.rs"]
mod server;
#[path = "support/skip.rs"]
mod skip;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use server::{DEADLINE, WorkDir, qctx, wait_for};
use skip::skip;

/// The kernel: says `A` on the serial port, then obeys letters. `q` powers off, `r` writes to the reset register, `k` pulls
/// the keyboard controller's reset line, `t` makes a triple fault, anything else comes back.
const CODE: [u8; 82] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, 0x41, //             mov al, 'A'
    0xee, //                   send: out dx, al
    0x66, 0xba, 0xfd, 0x03, // wait: mov dx, 0x3fd
    0xec, //                   in al, dx
    0xa8, 0x01, //             test al, 1
    0x74, 0xf7, //             jz wait
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xec, //                   in al, dx
    0x3c, 0x71, //             cmp al, 'q'
    0x74, 0x0e, //             je off
    0x3c, 0x72, //             cmp al, 'r'
    0x74, 0x13, //             je reset
    0x3c, 0x6b, //             cmp al, 'k'
    0x74, 0x18, //             je keyboard
    0x3c, 0x74, //             cmp al, 't'
    0x74, 0x1a, //             je triple
    0xeb, 0xdf, //             jmp send
    0x66, 0xba, 0x00, 0x06, // off: mov dx, 0x600
    0xb0, 0x34, //             mov al, 5 << 2 | 1 << 5
    0xee, //                   out dx, al
    0xeb, 0xfe, //             jmp .
    0x66, 0xba, 0x02, 0x06, // reset: mov dx, 0x602
    0xb0, 0x01, //             mov al, 1
    0xee, //                   out dx, al
    0xeb, 0xfe, //             jmp .
    0xb0, 0xfe, //             keyboard: mov al, 0xfe
    0xe6, 0x64, //             out 0x64, al
    0xeb, 0xfe, //             jmp .
    0x0f, 0x01, 0x1d, 0x02, 0x00, 0x00, 0x00, // triple: lidt [zero]
    0x0f, 0x0b, //             ud2
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // zero
];

/// Where the kernel is loaded.
const START: u64 = 0x20_0000;

/// An ELF file without a PVH note, so the code starts in 64-bit mode.
fn elf() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // Executable, x86-64, version 1, entry, program headers at 64, no sections, flags.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(START.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend([0; 12]);
    // Sizes of this header and of the one program header.
    file.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // To be loaded, readable and executable.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let length = CODE.len() as u64;
    for field in [0x78, START, START, length, length, 0] {
        file.extend(u64::to_le_bytes(field));
    }
    file.extend(CODE);
    file
}

/// A folder with the kernel, or none without KVM.
fn setup() -> Option<WorkDir> {
    if let Err(error) = qcontext::kvm::open() {
        skip(&error.to_string());
        return None;
    }
    let directory = WorkDir::new();
    fs::write(directory.path().join("kernel"), elf()).unwrap();
    Some(directory)
}

/// A machine whose console is in the test's hands.
struct Machine {
    child: Child,
    keyboard: Option<ChildStdin>,
    screen: Receiver<u8>,
}

impl Machine {
    fn start(directory: &WorkDir, arguments: &[&str]) -> Machine {
        let mut child = command(directory, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut byte = [0];
            while output.read(&mut byte).is_ok_and(|count| count == 1) && send.send(byte[0]).is_ok()
            {
            }
        });
        Machine {
            keyboard: child.stdin.take(),
            child,
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

    /// The end of the program, which says nothing more.
    #[track_caller]
    fn ends(&mut self) {
        let rest = self.screen.recv_timeout(DEADLINE);
        assert_eq!(rest, Err(RecvTimeoutError::Disconnected));
        let status = wait_for("the end of qctx", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(directory: &WorkDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(qctx());
    command
        .args(["-machine", "microvm", "-kernel", "kernel"])
        .args(arguments);
    command.current_dir(directory.path());
    command
}

fn outcome(directory: &WorkDir, arguments: &[&str]) -> (ExitStatus, String) {
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
    let pid = machine.child.id().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
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
    assert!(machine.child.try_wait().unwrap().is_none());
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
