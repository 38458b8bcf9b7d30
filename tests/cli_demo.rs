//! `qctx` without arguments: the embedded guest, or without KVM a driver in the process, and the verdict.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal};
use support::directory::TestDir;
use support::process::qctx;
use support::skip::skip;

/// Runs the program, under `launcher`, with its images in the directory, and looks whether it left anything behind.
fn run(directory: &TestDir, launcher: &[&str]) -> Output {
    let program = qctx();
    let mut words = launcher.iter().map(OsStr::new).chain([program.as_ref()]);
    let output = Command::new(words.next().unwrap())
        .args(words)
        .env("TMPDIR", directory.path())
        .envs((!launcher.is_empty()).then_some(("ASAN_OPTIONS", NO_LEAKS)))
        .output()
        .unwrap();
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0, "left behind");
    output
}

/// LeakSanitizer cannot look where strace does.
const NO_LEAKS: &str = "handle_sigbus=0:detect_leaks=0";

/// The arguments that make strace let `calls` fail or lie.
fn meddling<'a>(calls: &'a str, how: &'a str) -> [&'a str; 7] {
    ["strace", "-f", "-qq", "-o", "/dev/null", calls, how]
}

/// Whether strace is there and may trace.
fn strace_works() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "true"]);
    let works = strace.status().is_ok_and(|status| status.success());
    if !works {
        skip("strace is missing or may not trace");
    }
    works
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Both disks served, each by the thread of its own context, and right from both sides.
fn check_success(output: &Output) -> String {
    let (said, complaint) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}{complaint}");
    for disk in ["disk0", "disk1"] {
        let right = format!("{disk}: guest: every byte right; host: image as written\n");
        assert!(said.contains(&right), "{said}");
        let served = "128 reads, 128 writes, 1 flushes, 0 errors\n";
        assert!(said.contains(served), "{said}");
    }
    let threads: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once(", thread "))
        .filter_map(|(_, rest)| rest.split_once(':'))
        .map(|(thread, _)| thread)
        .collect();
    assert_eq!(threads.len(), 2, "{said}");
    assert_ne!(threads[0], threads[1], "{said}");
    assert!(said.contains("\nverdict: PASS after "), "{said}");
    said
}

#[test]
fn a_guest_on_kvm_drives_two_disks() {
    if let Err(error) = qcontext::kvm::open() {
        return skip(error);
    }
    let output = run(&TestDir::new(), &[]);
    let said = check_success(&output);
    assert!(
        said.starts_with("embedded guest: real mode on KVM, vcpu thread "),
        "{said}"
    );
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn without_kvm_a_driver_in_the_process_does_the_job() {
    if !strace_works() {
        return;
    }
    let cases = [
        (
            "EACCES",
            "join the group that owns it (often 'kvm') or run as root",
        ),
        (
            "ENOENT",
            "load the module kvm_amd or kvm_intel, and enable virtualization",
        ),
    ];
    for (errno, advice) in cases {
        let how = format!("inject=openat:error={errno}");
        let mut launcher = meddling("-e", &how).to_vec();
        launcher.extend(["-P", "/dev/kvm"]);
        let output = run(&TestDir::new(), &launcher);
        let said = check_success(&output);
        assert!(said.starts_with("in-process driver: "), "{said}");
        let complaint = text(&output.stderr);
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        let expected = format!("qctx: no KVM guest: cannot open /dev/kvm ({advice}");
        assert!(complaint.starts_with(&expected), "{complaint}");
        assert!(
            complaint.contains("; a driver in this process does its job"),
            "{complaint}"
        );
    }
}

/// On tmpfs writes are plain system calls. For one of them on each thread strace pretends success.
#[test]
fn a_lost_write_is_found_from_both_sides() {
    if !strace_works() {
        return;
    }
    let output = run(
        &TestDir::in_memory(),
        &meddling("-e", "inject=pwritev2:retval=4096:when=7"),
    );
    let (said, complaint) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}{complaint}");
    assert!(
        said.contains("disk0: guest: fault Data(6); host: image WRONG\n"),
        "{said}"
    );
    assert!(said.contains("\nverdict: FAIL after "), "{said}");
    assert_eq!(
        complaint,
        "qctx: embedded guest: not every byte was right\n"
    );
}

#[test]
fn a_termination_signal_leaves_nothing_behind() {
    if let Err(error) = qcontext::kvm::open() {
        return skip(error);
    }
    if !strace_works() {
        return;
    }
    let complaint = terminate_amid_writes(&[]);
    assert_eq!(
        complaint,
        "qctx: embedded guest: asked to end before the guest did\n"
    );
}

#[test]
fn a_termination_signal_ends_the_driver_in_the_process_too() {
    if !strace_works() {
        return;
    }
    let complaint = terminate_amid_writes(&["-e", "inject=ioctl:error=EPERM"]);
    let (before, last) = complaint.trim_end().split_once('\n').unwrap();
    assert!(before.starts_with("qctx: no KVM guest: "), "{complaint}");
    assert_eq!(
        last,
        "qctx: embedded guest: asked to end before the drivers did"
    );
}

/// Ends the program by SIGTERM while its disks are written, with more meddling; its complaint.
fn terminate_amid_writes(meddling: &[&str]) -> String {
    let directory = TestDir::in_memory();
    // Every write takes 50 ms, so that the guest is far from its end when the first is seen.
    let slow = "inject=pwritev2:delay_exit=50000";
    let mut child = Command::new("strace")
        .args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", slow])
        .args(meddling)
        .arg(qctx())
        .env("TMPDIR", directory.path())
        .env("ASAN_OPTIONS", NO_LEAKS)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let image = directory.file(&format!("qctx-{}/disk0.raw", child.id()));
    while fs::metadata(&image).map_or(0, |image| image.blocks()) == 0 {
        assert_eq!(child.try_wait().unwrap(), None, "ended too early");
        std::thread::yield_now();
    }
    let pid = i32::try_from(child.id()).unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::Term).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        0,
        "left behind"
    );
    complaint
}
