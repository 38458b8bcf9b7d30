//! The tools of QEMU and libnbd at our server and at QEMU's storage daemon.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use support::deadline::wait_for;
use support::directory::TestDir;
use support::process::{Process, qctx};
use support::qemu_img::qemu_img;
use support::random::Random;
use support::skip::skip;

pub(crate) const STORAGE_DAEMON: &str = "qemu-storage-daemon";

/// Whether these programs can be run; says which one cannot.
pub(crate) fn are_installed(programs: &[&str]) -> bool {
    let missing = programs
        .iter()
        .find(|program| Command::new(program).arg("--version").output().is_err());
    if let Some(program) = missing {
        skip(format!("{program} is not installed"));
    }
    missing.is_none()
}

/// What a tool prints.
pub(crate) fn printed(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with a raw image, and a qcow2 image over a raw one.
fn images() -> TestDir {
    let directory = TestDir::new();
    let mut content = vec![0; 4 << 20];
    Random(3).fill(&mut content[1 << 20..3 << 20]);
    std::fs::write(directory.file("base.raw"), &content).unwrap();
    directory.image("disk.raw", 4);
    qemu_img(
        directory.path(),
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "base.raw",
            "-F",
            "raw",
            "top.qcow2",
            "8M",
        ],
    );
    let writes = [
        "-c",
        "write -P 5 2M 1M",
        "-c",
        "write -z 5M 1M",
        "top.qcow2",
    ];
    printed(directory.path(), "qemu-io", &writes);
    directory
}

fn serve(program: &OsStr, directory: &TestDir) -> Process {
    let mut command = Command::new(program);
    command.args([
        "--blockdev",
        "file,node-name=base-file,filename=base.raw,read-only=on",
        "--blockdev",
        "raw,node-name=base,file=base-file,read-only=on",
        "--blockdev",
        "file,node-name=top-file,filename=top.qcow2",
        "--blockdev",
        "qcow2,node-name=top,file=top-file,backing=base",
        "--blockdev",
        "file,node-name=disk,filename=disk.raw",
        "--nbd-server",
        "addr.type=unix,addr.path=nbd.sock,max-connections=8,handshake-max-seconds=20",
        "--export",
        "nbd,id=e0,node-name=top,writable=on,allocation-depth=on,description=two layers",
        "--export",
        "nbd,id=e1,node-name=disk,name=plain,writable=on",
        "--export",
        "nbd,id=e2,node-name=base",
    ]);
    command.current_dir(directory.path()).stdin(Stdio::null());
    let process = Process::start(&mut command);
    let socket = directory.file("nbd.sock");
    wait_for("the NBD server", || socket.exists().then_some(()));
    process
}

#[test]
fn libnbd_and_qemu_see_the_same_as_of_the_storage_daemon() {
    if !are_installed(&["nbdinfo", "qemu-img", "qemu-io", STORAGE_DAEMON]) {
        return;
    }
    let questions: [(&str, &[&str]); 8] = [
        (
            "nbdinfo",
            &["--list", "--json", "nbd+unix:///?socket=nbd.sock"],
        ),
        ("nbdinfo", &["--json", "nbd+unix:///top?socket=nbd.sock"]),
        ("nbdinfo", &["--json", "nbd+unix:///plain?socket=nbd.sock"]),
        ("nbdinfo", &["--json", "nbd+unix:///base?socket=nbd.sock"]),
        ("nbdinfo", &["--map", "nbd+unix:///top?socket=nbd.sock"]),
        (
            "nbdinfo",
            &[
                "--map=qemu:allocation-depth",
                "nbd+unix:///top?socket=nbd.sock",
            ],
        ),
        ("nbdinfo", &["--map", "nbd+unix:///base?socket=nbd.sock"]),
        (
            "qemu-img",
            &["map", "--output=json", "nbd+unix:///top?socket=nbd.sock"],
        ),
    ];
    let answers = [OsStr::new(STORAGE_DAEMON), &qctx()].map(|program| {
        let directory = images();
        let _daemon = serve(program, &directory);
        questions.map(|(tool, arguments)| printed(directory.path(), tool, arguments))
    });
    let [theirs, ours] = answers;
    for ((question, wanted), found) in questions.iter().zip(theirs).zip(ours) {
        assert_eq!(found, wanted, "{question:?}");
    }
}

#[test]
fn copies_by_several_tools_are_equal() {
    if !are_installed(&["nbdcopy", "qemu-img", "qemu-io"]) {
        return;
    }
    let directory = images();
    let mut daemon = serve(&qctx(), &directory);
    let (path, top) = (directory.path(), "nbd+unix:///top?socket=nbd.sock");
    let plain = "nbd+unix:///plain?socket=nbd.sock";
    printed(path, "nbdcopy", &[top, "copy.raw"]);
    qemu_img(
        path,
        &["compare", "-f", "raw", "-F", "raw", top, "copy.raw"],
    );
    qemu_img(
        path,
        &["convert", "-f", "raw", "-O", "raw", top, "converted.raw"],
    );
    let content = |name: &str| std::fs::read(directory.file(name)).unwrap();
    assert!(content("copy.raw") == content("converted.raw"));
    printed(path, "nbdcopy", &["base.raw", plain]);
    assert!(content("disk.raw") == content("base.raw"));
    let convert = [
        "convert",
        "-n",
        "-f",
        "raw",
        "-O",
        "raw",
        "converted.raw",
        top,
    ];
    qemu_img(path, &convert);
    let io = [
        "-f",
        "raw",
        "-c",
        "write -P 3 1000 3000",
        "-c",
        "write -f -P 4 700001 1M",
        "-c",
        "write -z 100 70000",
        "-c",
        "discard 2M 1M",
        "-c",
        "read -P 0 100 70000",
        "-c",
        "read -P 4 700001 1M",
        top,
    ];
    printed(path, "qemu-io", &io);
    daemon.signal("TERM");
    daemon.ends_well();
    support::qemu_img::check(path, "top.qcow2", false);
    let checks = [
        "-c",
        "read -P 0 100 70000",
        "-c",
        "read -P 4 700001 1M",
        "top.qcow2",
    ];
    printed(path, "qemu-io", &checks);
}
