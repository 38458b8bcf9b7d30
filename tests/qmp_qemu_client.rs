//! QEMU's own QMP client library, `qemu.qmp` from PyPI, and its `qmp-shell`, against `qctx`.
//!
//! The library is installed once into a virtual environment under the target directory. Where that is not possible
//! the tests say so and count as skipped.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use support::directory::TestDir;
use support::server::Server;
use support::skip::skip;
use support::tiny_kernel;
use support::writer::Writer;

const PACKAGE: &str = "qemu.qmp==0.0.6";

/// The Python that has the library, or why there is none.
fn python() -> Result<PathBuf, String> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PYTHON.get_or_init(install).clone()
}

fn install() -> Result<PathBuf, String> {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-qmp");
    let python = environment.join("bin/python");
    let present = Command::new(&python)
        .args(["-c", "import qemu.qmp.legacy"])
        .output();
    if present.is_ok_and(|output| output.status.success()) {
        return Ok(python);
    }
    succeed(
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(&environment),
    )?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        PACKAGE,
    ];
    succeed(Command::new(&python).args(pip))?;
    Ok(python)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{command:?}: {}",
        said.lines().last().unwrap_or("failed")
    ))
}

/// The Python to use, or `None` after telling why the test is skipped.
fn python_or_skip() -> Option<PathBuf> {
    python()
        .inspect_err(|reason| skip(format!("{PACKAGE} could not be installed: {reason}")))
        .ok()
}

const SERVED: &str = "-object qcontext,id=ctx1,threaded=yes \
    -drive if=none,id=d0,file=disk0.raw,format=raw \
    -blockdev driver=null-co,node-name=spare,size=16M \
    -device virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock";

/// Writes the disk from beginning to end, again and again.
fn write_until(stop: &AtomicBool, socket: &Path) -> usize {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        Writer::connect(socket).write_until(MEBIBYTES * 256 - 64);
        rounds += 1;
    }
    rounds
}

/// The size of the disk; a block has 4 KiB.
const MEBIBYTES: usize = 64;

/// Runs the script against the `qctx` in this directory.
fn script(python: &Path, directory: &TestDir, more: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qmp_qemu_client/client.py");
    let mut command = Command::new("timeout");
    command.arg("60").arg(python).arg(script).arg("qmp.sock");
    command.args(more).current_dir(directory.path());
    command.output().unwrap()
}

#[track_caller]
fn check(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.ends_with("done\n"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn client_library_directs_a_machine() {
    if let Err(error) = qcontext::kvm::open() {
        return skip(error);
    }
    let Some(python) = python_or_skip() else {
        return;
    };
    let directory = TestDir::new();
    std::fs::write(directory.path().join("kernel"), tiny_kernel::busy()).unwrap();
    let options = "-machine microvm -smp 2 -kernel kernel -serial none -S";
    let options: Vec<&str> = options.split_whitespace().collect();
    let mut server = Server::start(&directory, &options);
    check(&script(&python, &directory, &["machine"]));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn client_library_manages_contexts_and_devices_while_io_runs() {
    let Some(python) = python_or_skip() else {
        return;
    };
    let directory = TestDir::new();
    directory.image("disk0.raw", MEBIBYTES as u64);
    let options: Vec<&str> = SERVED.split_whitespace().collect();
    let mut server = Server::start(&directory, &options);
    let stop = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        let writing = scope.spawn(|| write_until(&stop, &directory.socket("disk0.sock")));
        let output = script(&python, &directory, &[]);
        stop.store(true, Ordering::Relaxed);
        assert!(writing.join().unwrap() > 0);
        output
    });
    check(&output);
    assert_eq!(server.number("/machine/peripheral/disk0.errors"), 0);
    server.stop();
}

#[test]
fn qmp_shell_completes_and_asks() {
    let Some(python) = python_or_skip() else {
        return;
    };
    let server = Server::start_alone(&["-object", "qcontext,id=ctx1,threaded=yes"]);
    let mut shell = Command::new(python)
        .args(["-m", "qemu.qmp.qmp_shell"])
        .arg(server.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    input
        .write_all(b"qom-get path=/objects/ctx1 property=id\nobject-del id=ctx1\n")
        .unwrap();
    drop(input);
    let output = shell.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Connected to QEMU 0.1.0"), "{said}");
    assert!(said.contains("{\"return\": \"ctx1\"}"), "{said}");
    assert!(!said.contains("error"), "{said}");
}
