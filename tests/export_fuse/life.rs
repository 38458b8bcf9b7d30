//! How an export and its mount begin and end.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, chown, symlink};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use rustix::io::Errno;
use support::deadline::wait_for;
use support::directory::TestDir;
use support::process::{outcome, qctx};
use support::skip::skip;

use crate::rig::{MountGuard, Rig, can_mount};
use crate::{FILE, MIB, errno, raw};

#[test]
fn an_export_is_deleted_while_its_file_is_used() {
    let Some(rig) = Rig::new(FILE, ",writable=on,iothread=io0") else {
        return;
    };
    let (begun, has_begun) = channel();
    let work = |index: u64| {
        let (file, begun) = (rig.open(), begun.clone());
        move || {
            for round in 0.. {
                let written = file.write_at(&[1; 4096], index * 4096);
                if round == 20 {
                    begun.send(()).unwrap();
                }
                if let Err(error) = written {
                    return (round, error);
                }
            }
            unreachable!("it ends with an error")
        }
    };
    let threads: Vec<_> = (0..4).map(|index| thread::spawn(work(index))).collect();
    (0..4).for_each(|_| has_begun.recv().unwrap());
    rig.delete();
    for thread in threads {
        let (rounds, error) = thread.join().unwrap();
        let gone = [Errno::NOTCONN, Errno::CONNABORTED].map(raw);
        assert!(
            gone.contains(&error.raw_os_error().unwrap()),
            "after {rounds}: {error}"
        );
    }
    // The file below, and a node that nothing uses.
    assert_eq!((rig.is_mounted(), rig.length()), (false, 0));
    assert_eq!(rig.image()[..4 * 4096], [1; 4 * 4096]);
    let mut client = rig.server.client();
    for free in [
        r#"{"execute":"blockdev-del","arguments":{"node-name":"n0"}}"#,
        r#"{"execute":"object-del","arguments":{"id":"io0"}}"#,
    ] {
        assert_eq!(client.ask(free), r#"{"return": {}}"#);
    }
}

#[test]
fn the_mount_goes_with_the_program_and_a_killed_one_leaves_a_dead_mount_that_is_refused() {
    let Some(mut rig) = Rig::new(FILE, "") else {
        return;
    };
    rig.server.stop();
    assert!(!rig.is_mounted());
    let mut again = Rig::start(rig.directory, &[], FILE, ",writable=on");
    again.server.signal("KILL");
    again.server.wait();
    let (status, _, error) = start_at(&again.directory, "disk.fuse");
    assert_eq!(status, Some(1));
    let path = again.path();
    let expected = format!(
        "Failed to stat '{}': Transport endpoint is not connected",
        path.display()
    );
    assert!(error.contains(&expected), "{error}");
}

/// What a daemon says that is to export a null disk at `mountpoint`, and ends at once if it can: `--pidfile` comes last.
fn start_at(directory: &TestDir, mountpoint: &str) -> (Option<i32>, String, String) {
    let path = directory.file(mountpoint);
    let export = format!("fuse,id=e,node-name=n,mountpoint={}", path.display());
    let output: Output = Command::new(qctx())
        .args([
            "--blockdev",
            "null-co,node-name=n,size=1M",
            "--export",
            &export,
        ])
        .args(["--pidfile", "/nonexistent/pid"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    outcome(&output)
}

#[test]
fn what_is_no_regular_file_is_refused_and_a_failed_start_leaves_no_mount() {
    if !can_mount() {
        return;
    }
    let directory = TestDir::new();
    let place = |name: &str| directory.file(name).display().to_string();
    fs::create_dir(directory.file("folder")).unwrap();
    let cases = [
        (
            "nothing",
            format!(
                "Failed to stat '{}': No such file or directory",
                place("nothing")
            ),
        ),
        (
            "folder",
            format!("'{}' is not a regular file", place("folder")),
        ),
    ];
    for (name, expected) in cases {
        let (status, _, error) = start_at(&directory, name);
        assert_eq!(status, Some(1));
        assert!(error.contains(&expected), "{error}");
    }
    File::create(directory.file("there")).unwrap();
    let (status, _, error) = start_at(&directory, "there");
    assert_eq!(status, Some(1));
    assert!(error.contains("/nonexistent/pid"), "{error}");
    assert_eq!(fs::metadata(directory.file("there")).unwrap().len(), 0);
}

#[test]
fn a_file_that_the_program_serves_itself_is_no_node_of_it() {
    for place in ["", ",iothread=io0"] {
        if let Some(rig) = Rig::new(FILE, &format!(",writable=on{place}")) {
            refuses_its_own_file(&rig);
        }
    }
}

fn refuses_its_own_file(rig: &Rig) {
    let mut client = rig.server.client();
    symlink("disk.fuse", rig.directory.file("link")).unwrap();
    for name in ["disk.fuse", "./disk.fuse", "link"] {
        let add = format!(
            r#"{{"execute":"block-export-add","arguments":{{"type":"fuse","id":"e1","node-name":"n0","mountpoint":"{name}"}}}}"#
        );
        let answer = client.ask(add);
        let expected = format!("There already is a FUSE export on '{name}'");
        assert!(answer.contains(&expected), "{answer}");
        let open = format!(
            r#"{{"execute":"blockdev-add","arguments":{{"driver":"file","node-name":"n1","filename":"{name}"}}}}"#
        );
        let refused = client.ask(open);
        assert!(
            refused.contains("it is a FUSE export of this process"),
            "{refused}"
        );
    }
    assert_eq!(rig.length(), 4 * MIB);
}

#[test]
fn a_mount_that_another_program_takes_away_is_not_taken_away_twice() {
    let Some(rig) = Rig::new(FILE, "") else {
        return;
    };
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program)
            .args(arguments)
            .current_dir(rig.directory.path())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !run("umount", &["disk.fuse"]) {
        return skip("only root unmounts without fusermount3");
    }
    // It stays on the list, as with QEMU.
    let exports = rig
        .server
        .client()
        .ask(r#"{"execute":"query-block-exports"}"#);
    assert!(exports.contains(r#""shutting-down": false"#), "{exports}");
    fs::write(rig.directory.file("other"), "other").unwrap();
    assert!(run("mount", &["--bind", "other", "disk.fuse"]));
    rig.delete();
    assert_eq!(fs::read_to_string(rig.path()).unwrap(), "other");
    assert!(run("umount", &["disk.fuse"]));
}

/// In mounts of its own, in which `/dev/fuse` is for all users: replaces itself by a program that a user without rights starts.
const AS_NOBODY: &str = r#"
    mount -t tmpfs none dev
    mknod -m 666 dev/fuse c 10 229
    mount --bind dev/fuse /dev/fuse
    exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@""#;

#[test]
fn a_user_without_rights_mounts_through_fusermount3() {
    if !can_mount() {
        return;
    }
    if Command::new("fusermount3")
        .arg("--version")
        .output()
        .is_err()
    {
        return skip("no fusermount3");
    }
    let directory = TestDir::in_memory();
    directory.image("disk.raw", 4);
    File::create(directory.file("disk.fuse")).unwrap();
    fs::create_dir(directory.file("dev")).unwrap();
    let own = ["", "disk.raw", "disk.fuse"].map(|name| directory.file(name));
    if own
        .iter()
        .any(|path| chown(path, Some(65534), Some(65534)).is_err())
    {
        return skip("only root becomes another user");
    }
    let launcher = ["unshare", "--mount", "sh", "-ec", AS_NOBODY, "sh"];
    let mut probe = Command::new(launcher[0]);
    probe.args(&launcher[1..]).arg(qctx()).arg("--version");
    let probe = probe.current_dir(directory.path()).output().unwrap();
    if !probe.status.success() {
        return skip(String::from_utf8_lossy(&probe.stderr).trim());
    }
    let rig = Rig::start(directory, &launcher, FILE, ",writable=on,allow-other=off");
    let process = format!("/proc/{}", rig.server.pid());
    // It is not root's.
    let path = format!("{process}/root{}", rig.path().display());
    assert_eq!(errno(fs::metadata(&path)), raw(Errno::ACCESS));
    let as_nobody = |script: &str| {
        let mut command = Command::new("nsenter");
        let target = format!("--target={}", rig.server.pid());
        command.args([&target, "--mount", "--wd", "setpriv", "--reuid=65534"]);
        command.args(["--regid=65534", "--clear-groups", "sh", "-ec", script]);
        outcome(&command.output().unwrap())
    };
    let (status, _, error) = as_nobody("printf hello | dd of=disk.fuse conv=notrunc status=none");
    assert_eq!(status, Some(0), "{error}");
    assert_eq!(&rig.image()[..6], b"hello\0");
    assert_eq!(as_nobody("chmod 644 disk.fuse").0, Some(1));
    rig.delete();
    let mounts = fs::read_to_string(format!("{process}/mounts")).unwrap();
    assert!(!mounts.contains(rig.path().to_str().unwrap()), "{mounts}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn many_exports_end_at_once() {
    let Some(mut rig) = Rig::new(FILE, ",writable=on") else {
        return;
    };
    let mut client = rig.server.client();
    let names: Vec<String> = (0..20).map(|index| format!("more{index}")).collect();
    let guards = names.iter().map(|name| {
        File::create(rig.directory.file(name)).unwrap();
        let add = format!(
            r#"{{"execute":"block-export-add","arguments":{{"type":"fuse","id":"{name}","node-name":"n0","mountpoint":"{name}","writable":true}}}}"#
        );
        assert_eq!(client.ask(add), r#"{"return": {}}"#);
        MountGuard(rig.directory.file(name))
    });
    let guards: Vec<MountGuard> = guards.collect();
    File::options()
        .write(true)
        .open(&guards[7].0)
        .unwrap()
        .write_all_at(b"shared", 99)
        .unwrap();
    let read = fs::read(&guards[19].0).unwrap();
    assert_eq!(&read[98..106], b"\0shared\0");
    rig.server.stop();
    wait_for("the mounts to go", || {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        (!mounts.contains(rig.directory.path().to_str().unwrap())).then_some(())
    });
}
