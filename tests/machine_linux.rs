//! Linux, booted by `qctx -machine microvm`: on this host if its KVM can run it, else on a host with a full KVM that
//! QEMU emulates.
//!
//! The machines run once, one after the other (`tests/guest/machine`); each test looks at what one of them showed. Needs
//! what `tests/guest/packages` and `tests/guest/fetch` bring, and says SKIP where that is not there.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use support::linux_guest::{self, check_image, interrupts};
use support::process::qctx;
use support::skip::skip;

/// How long a kernel may take to print something on this host's KVM. After that the machines run on an emulated host.
const PATIENCE: Duration = Duration::from_secs(5);

const IMAGES: [&str; 2] = ["disk0.raw", "disk1.raw"];

/// What the machines printed, and the contents of the disks afterwards.
struct Run {
    directory: PathBuf,
    console: String,
}

impl Run {
    /// The console of one machine whose console is a file.
    fn file(&self, name: &str) -> &str {
        let (_, rest) = self.console.split_once(&format!("== {name}\n")).unwrap();
        rest.split_once(&format!("== end of {name} console"))
            .unwrap()
            .0
    }

    /// What one machine printed.
    fn section(&self, name: &str) -> &str {
        let start = format!("== {name}\n");
        let section = self.console.split_once(&start).map(|(_, rest)| rest);
        let section = section.and_then(|rest| rest.split_once("== status "));
        let Some((section, rest)) = section else {
            panic!("the machine '{name}' did not end:\n{}", self.console);
        };
        assert!(
            rest.starts_with("0\n"),
            "machine '{name}' failed:\n{}",
            self.console
        );
        section
    }
}

/// The run of all machines, made by the first test that asks; or why they cannot run here.
fn machines() -> Result<&'static Run, &'static str> {
    static RUN: OnceLock<Option<Result<Run, String>>> = OnceLock::new();
    // A run that fails is not made again.
    let run = RUN.get_or_init(|| catch_unwind(run).ok());
    let run = run.as_ref().expect("the first test that asked tells why");
    run.as_ref().map_err(String::as_str)
}

fn guest_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/guest")
        .join(name)
}

fn run() -> Result<Run, String> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest");
    if !fetched.join("kernel").is_dir() {
        return Err("no kernel here, run tests/guest/packages and tests/guest/fetch".to_owned());
    }
    let directory = fresh_folder();
    let boot = prepare(&directory, &fetched);
    for image in IMAGES {
        let image = File::create(directory.join(image)).unwrap();
        image.set_len(64 << 20).unwrap();
    }
    let console = if boots_here(&boot) {
        eprintln!("linux_boot: on this host's KVM");
        let mut command = Command::new(guest_file("machine"));
        command.arg(qctx()).arg(&boot);
        finish(command, &directory)
    } else if let (Some(reason), Some(_)) = (linux_guest::missing(10), linux_guest::missing(7)) {
        return Err(format!(
            "no KVM here that boots Linux, and no QEMU that emulates one: {reason}"
        ));
    } else {
        eprintln!("linux_boot: on an emulated host's KVM");
        let mut command = Command::new(guest_file("nested"));
        command.arg(qctx());
        finish(command, &directory)
    };
    Ok(Run { directory, console })
}

/// An empty folder, the same one each time: what all tests share outlives them.
fn fresh_folder() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("linux-boot");
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A folder with both kernels and the initramfs.
fn prepare(directory: &Path, fetched: &Path) -> PathBuf {
    for script in ["initramfs", "vmlinux"] {
        let status = Command::new(guest_file(script)).status().unwrap();
        assert!(status.success(), "tests/guest/{script}: {status}");
    }
    let boot = directory.join("boot");
    std::fs::create_dir(&boot).unwrap();
    let mut kernels = std::fs::read_dir(fetched.join("kernel/boot")).unwrap();
    let bzimage = kernels.find_map(|entry| {
        let entry = entry.unwrap();
        entry
            .file_name()
            .to_string_lossy()
            .starts_with("vmlinuz")
            .then(|| entry.path())
    });
    symlink(bzimage.unwrap(), boot.join("vmlinuz")).unwrap();
    for name in ["vmlinux", "initramfs"] {
        symlink(fetched.join(name), boot.join(name)).unwrap();
    }
    boot
}

/// Tries whether the kernel prints anything under this host's KVM: some nested ones run real-mode or paravirtual guests only.
fn boots_here(boot: &Path) -> bool {
    let mut command = Command::new(qctx());
    command.args([
        "-machine",
        "microvm",
        "-m",
        "256",
        "-no-reboot",
        "-serial",
        "stdio",
    ]);
    command.args([
        "-append",
        "console=ttyS0 earlyprintk=ttyS0 panic=-1",
        "-kernel",
    ]);
    command.arg(boot.join("vmlinux")).stderr(Stdio::null());
    let mut machine = Running::start(command);
    let output = machine.0.stdout.take().unwrap();
    first_line(output).recv_timeout(PATIENCE).unwrap_or(false)
}

/// Tells whether something is read at all.
fn first_line(mut output: impl Read + Send + 'static) -> Receiver<bool> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        let _ = tell.send(output.read(&mut byte).is_ok_and(|count| count == 1));
    });
    told
}

/// Runs the machines to their end, and gives back what was printed.
fn finish(command: Command, directory: &Path) -> String {
    // Four machines, perhaps on an emulated host, perhaps on a busy one.
    let mut limited = Command::new("timeout");
    limited
        .args(["-k", "5", "600"])
        .arg(command.get_program())
        .args(command.get_args());
    let images = IMAGES.map(|image| directory.join(image));
    let output = limited.args(images).stdin(Stdio::null()).output().unwrap();
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}:\n{console}\n{complaint}",
        output.status
    );
    console
}

/// A started program; killed with the value.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Running(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks at one machine's console, or says why not.
fn with_machine(name: &str, look: impl FnOnce(&Run, &str)) {
    match machines() {
        Ok(run) => look(run, run.section(name)),
        Err(reason) => skip(reason),
    }
}

#[track_caller]
fn shows(console: &str, text: &str) {
    assert!(console.contains(text), "no '{text}' in:\n{console}");
}

#[test]
fn two_processors_use_two_disks_of_two_contexts() {
    with_machine("disks", |run, console| {
        shows(console, "guest: verdict PASS, 2 disks");
        shows(
            console,
            "guest: disk0 bytes 67108864 queues 2 cache write-back serial d0",
        );
        shows(
            console,
            "guest: disk1 bytes 67108864 queues 2 cache write-back serial d1",
        );
        for disk in ["disk0", "disk1"] {
            // Each file was written and read by another processor.
            shows(console, &format!("guest: {disk} file1 sha256"));
            check_image(&run.directory, &format!("{disk}.raw"), disk, console);
        }
        let counts = interrupts(console);
        assert!(
            counts.len() == 2 && counts.iter().all(|count| *count > 0),
            "{counts:?}"
        );
    });
}

/// Its console is a file, which it kept through the reset.
#[test]
fn an_elf_kernel_resets_the_machine_and_boots_again() {
    with_machine("reset", |run, standard_output| {
        assert!(!standard_output.contains("guest: "), "{standard_output}");
        let console = run.file("reset");
        let (first, second) = console.split_once("guest: disk0 rebooting").unwrap();
        assert!(!first.contains("rebooted"), "{console}");
        shows(second, "guest: disk0 rebooted");
        shows(second, "guest: verdict PASS, 1 disks");
    });
}

#[test]
fn a_reset_is_the_end_without_reboot() {
    with_machine("no-reboot", |_, console| {
        shows(console, "guest: disk0 rebooting");
        assert!(!console.contains("rebooted"), "{console}");
    });
}

#[test]
fn what_is_typed_reaches_the_guest() {
    with_machine("no-reboot", |_, console| {
        shows(console, "guest: disk0 heard hello, guest");
    });
}

#[test]
fn the_power_button_reaches_the_guest() {
    with_machine("button", |run, _| {
        let console = run.file("button");
        shows(console, "guest: disk0 button pressed");
        shows(console, "guest: verdict PASS, 1 disks");
    });
}
