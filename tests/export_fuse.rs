//! `--export fuse`: a node as a file that is mounted. What programs read and write, its length, its holes, its errors, who may
//! open it, and how it ends.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use support::deadline::{DEADLINE, wait_for};
use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::process::{outcome, qctx};
use support::random::Random;
use support::server::Server;
use support::skip::skip;

const MIB: u64 = 1 << 20;
const FILE: &str = "file,node-name=n0,filename=disk.raw";

/// A daemon with a node that is exported at a file, `disk.fuse`. The fields go in this order.
struct Rig {
    server: Server,
    _mount: MountGuard,
    directory: TestDir,
    /// Kills the daemon of a test that hangs: until then nothing ends a program that waits for the file.
    _watchdog: Sender<()>,
}

/// Takes away what a killed daemon has left.
struct MountGuard(PathBuf);

impl Drop for MountGuard {
    fn drop(&mut self) {
        let umount = Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
        assert!(umount.is_ok());
    }
}

fn can_mount() -> bool {
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = &opened {
        skip(format!("/dev/fuse: {error}"));
    }
    opened.is_ok()
}

impl Rig {
    /// `None` if there is no FUSE here.
    fn new(blockdev: &str, export: &str) -> Option<Rig> {
        can_mount().then(|| Rig::start(TestDir::new(), &[], blockdev, export))
    }

    fn start(directory: TestDir, launcher: &[&str], blockdev: &str, export: &str) -> Rig {
        if !directory.file("disk.raw").exists() {
            directory.image("disk.raw", 4);
        }
        let path = directory.file("disk.fuse");
        File::create(&path).unwrap();
        let export = format!("fuse,id=e0,node-name=n0,mountpoint=disk.fuse{export}");
        let arguments = [
            "--object",
            "iothread,id=io0",
            "--object",
            "iothread,id=io1,thread-pool-max=1",
            "--blockdev",
            blockdev,
            "--export",
            &export,
        ];
        let server = Server::start_under(&directory, launcher, &arguments);
        Rig {
            _watchdog: watchdog(server.pid()),
            server,
            _mount: MountGuard(path),
            directory,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.file("disk.fuse")
    }

    fn open(&self) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(self.path())
            .unwrap()
    }

    fn image(&self) -> Vec<u8> {
        fs::read(self.directory.file("disk.raw")).unwrap()
    }

    fn length(&self) -> u64 {
        fs::metadata(self.path()).unwrap().len()
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        mounts.contains(self.path().to_str().unwrap())
    }

    /// Deletes the export and waits for its end.
    fn delete(&self) {
        let mut client = self.server.client();
        client.send(br#"{"execute":"block-export-del","arguments":{"id":"e0"}}"#);
        let mut lines = [client.line(), client.line()];
        lines.sort_by_key(|line| line.contains("timestamp"));
        assert_eq!(lines[0], r#"{"return": {}}"#);
        assert!(lines[1].contains("BLOCK_EXPORT_DELETED"), "{lines:?}");
    }

    fn resize(&self, length: u64) {
        let resize = format!(
            r#"{{"execute":"block_resize","arguments":{{"node-name":"n0","size":{length}}}}}"#
        );
        assert_eq!(self.server.client().ask(resize), r#"{"return": {}}"#);
    }
}

fn watchdog(pid: u32) -> Sender<()> {
    let (alive, ended) = channel();
    thread::spawn(move || {
        if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the daemon or its user hangs");
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status();
        }
    });
    alive
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn a_node_is_a_file_that_shows_what_others_do_with_the_node() {
    let Some(rig) = Rig::new(FILE, ",writable=on") else {
        return;
    };
    let metadata = fs::metadata(rig.path()).unwrap();
    assert_eq!((metadata.len(), metadata.mode()), (4 * MIB, 0o100_600));
    let file = rig.open();
    // Neither the place nor the length is made of blocks.
    file.write_all_at(b"neighbours stay", 1_000_001).unwrap();
    file.write_all_at(b"STAY", 1_000_012).unwrap();
    file.sync_data().unwrap();
    assert_eq!(&rig.image()[1_000_000..1_000_017], b"\0neighbours STAY\0");
    rig.resize(2 * MIB);
    assert_eq!(rig.length(), 2 * MIB);
    let mut bytes = [1; 16];
    assert_eq!(file.read_at(&mut bytes, 2 * MIB - 7).unwrap(), 7);
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert_eq!(file.read_at(&mut bytes, 3 * MIB).unwrap(), 0);
    // The length is that of the node, whatever programs do that begin anew.
    File::create(rig.path()).unwrap();
    assert_eq!(rig.length(), 2 * MIB);
}

#[test]
fn a_file_is_read_only_unless_the_options_say_otherwise() {
    let Some(rig) = Rig::new(FILE, "") else {
        return;
    };
    let mode = fs::metadata(rig.path()).unwrap().mode();
    assert_eq!(mode, 0o100_400);
    let chmod = |bits| fs::set_permissions(rig.path(), fs::Permissions::from_mode(bits));
    assert_eq!(errno(chmod(0o600)), raw(Errno::ROFS));
    chmod(0o500).unwrap();
    // root may open it all the same.
    if let Ok(file) = File::options().write(true).open(rig.path()) {
        assert_eq!(errno(file.write_at(b"x", 0)), raw(Errno::ACCESS));
        assert_eq!(errno(file.set_len(0)), raw(Errno::ACCESS));
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(fallocate(&file, punch, 0, 4096), Err(Errno::ACCESS));
    }
    assert_eq!(rig.image(), vec![0; 4 << 20]);
}

fn raw(errno: Errno) -> i32 {
    errno.raw_os_error()
}

#[test]
fn writes_beyond_the_end_make_a_growable_file_longer() {
    let Some(rig) = Rig::new(FILE, ",writable=on,growable=on,iothread=io0") else {
        return;
    };
    // Each thread adds its piece behind the end, in whatever order: none is cut off.
    let write = |index: u8| {
        let file = rig.open();
        move || {
            let place = 4 * MIB + u64::from(index) * 3000;
            file.write_all_at(&[index; 3000], place).unwrap();
        }
    };
    let threads: Vec<_> = (1..9).map(|index| thread::spawn(write(index))).collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let image = rig.image();
    for index in 1..9_u8 {
        let at = (4 << 20) + usize::from(index) * 3000;
        assert_eq!(image[at..at + 3000], [index; 3000], "{index}");
    }
    assert_eq!(rig.length(), (4 * MIB + 27_000).next_multiple_of(512));
    rig.open().set_len(MIB).unwrap();
    assert_eq!((rig.length(), rig.image().len()), (MIB, 1 << 20));
}

#[test]
fn a_growing_image_needs_no_worker_for_its_growth() {
    let directory = TestDir::new();
    let image = directory.file("disk.raw");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&image)
        .arg("4M")
        .status();
    if !made.is_ok_and(|made| made.success()) || !can_mount() {
        skip("no qemu-img or no /dev/fuse");
        return;
    }
    let rig = Rig::start(
        directory,
        &[],
        "driver=qcow2,node-name=n0,file.driver=file,file.filename=disk.raw,file.aio=threads",
        ",writable=on,growable=on,iothread=io1",
    );
    // The only worker has the parts of writes to do that a growth waits for.
    let write = |index: u8| {
        let file = rig.open();
        move || {
            for round in 0..16 {
                let place = 4 * MIB + (u64::from(index) + 8 * round) * 65_536;
                file.write_all_at(&[index; 65_536], place).unwrap();
            }
        }
    };
    let threads: Vec<_> = (0..8).map(|index| thread::spawn(write(index))).collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(rig.length(), 12 * MIB);
}

#[test]
fn writes_beyond_the_end_of_a_file_that_does_not_grow_have_no_space() {
    let Some(rig) = Rig::new(FILE, ",writable=on") else {
        return;
    };
    let file = rig.open();
    assert_eq!(file.write_at(&[7; 5000], 4 * MIB - 1000).unwrap(), 1000);
    assert_eq!(errno(file.write_at(b"x", 4 * MIB)), raw(Errno::NOSPC));
    assert_eq!(rig.length(), 4 * MIB);
    // What a user asks for by name is done.
    file.set_len(5 * MIB).unwrap();
    fallocate(&file, FallocateFlags::empty(), 5 * MIB, 64 << 10).unwrap();
    assert_eq!(rig.length(), 5 * MIB + (64 << 10));
    let used = fs::metadata(rig.directory.file("disk.raw"))
        .unwrap()
        .blocks()
        * 512;
    assert!(used >= 64 << 10, "{used}");
}

#[test]
fn holes_are_seen_made_and_filled() {
    let Some(rig) = Rig::new(FILE, ",writable=on") else {
        return;
    };
    let file = rig.open();
    file.write_all_at(&[1; 1 << 20], MIB).unwrap();
    file.sync_all().unwrap();
    let [data, hole] = [SeekFrom::Data, SeekFrom::Hole].map(|make| {
        let file = &file;
        move |at: u64| seek(file, make(at.cast_signed()))
    });
    assert_eq!((data(0), hole(0)), (Ok(MIB), Ok(0)));
    assert_eq!((data(MIB), hole(MIB)), (Ok(MIB), Ok(2 * MIB)));
    assert_eq!(
        (data(2 * MIB), hole(4 * MIB)),
        (Err(Errno::NXIO), Ok(4 * MIB))
    );
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // The ends are within blocks.
    fallocate(&file, punch, MIB + 100, 512 << 10).unwrap();
    assert_eq!(data(MIB + 8192).unwrap(), (MIB + (512 << 10)) / 4096 * 4096);
    let image = rig.image();
    let (start, end) = ((1 << 20) + 100, (1 << 20) + (512 << 10) + 100);
    assert_eq!(
        image[start - 1..end + 1]
            .iter()
            .filter(|&&byte| byte == 1)
            .count(),
        2
    );
    // Zeroes that have space are no hole.
    let zero = FallocateFlags::ZERO_RANGE;
    fallocate(&file, zero | FallocateFlags::KEEP_SIZE, 3 * MIB, 2 * MIB).unwrap();
    assert_eq!(rig.length(), 4 * MIB);
    fallocate(&file, zero, 3 * MIB, 2 * MIB).unwrap();
    assert_eq!(rig.length(), 5 * MIB);
    fallocate(&file, punch, 8 * MIB, MIB).unwrap();
    let refused = [
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::COLLAPSE_RANGE,
    ];
    for flags in refused {
        assert_eq!(
            fallocate(&file, flags, 0, 4096),
            Err(Errno::OPNOTSUPP),
            "{flags:?}"
        );
    }
}

#[test]
fn an_error_of_the_node_is_the_error_of_the_call() {
    let blockdev = concat!(
        r#"{"driver":"blkdebug","node-name":"n0","image":{"driver":"file","filename":"disk.raw"},"inject-error":["#,
        r#"{"event":"none","iotype":"read","errno":5,"sector":8},"#,
        r#"{"event":"none","iotype":"write","errno":28,"sector":16},"#,
        r#"{"event":"none","iotype":"flush","errno":5}]}"#
    );
    let Some(rig) = Rig::new(blockdev, ",writable=on") else {
        return;
    };
    let file = rig.open();
    assert_eq!(errno(file.read_at(&mut [0; 512], 4096)), raw(Errno::IO));
    assert_eq!(errno(file.write_at(&[0; 512], 8192)), raw(Errno::NOSPC));
    assert_eq!(errno(file.sync_all()), raw(Errno::IO));
    assert_eq!(file.read_at(&mut [0; 512], 8192).unwrap(), 512);
}

#[test]
fn a_request_that_waits_holds_no_other_one_up() {
    let blockdev = concat!(
        r#"{"driver":"blkdebug","node-name":"n0","image":{"driver":"file","filename":"disk.raw"},"x-inject-delay":["#,
        r#"{"event":"none","iotype":"read","ns":3600000000000,"sector":0}]}"#
    );
    let Some(mut rig) = Rig::new(blockdev, ",writable=on") else {
        return;
    };
    let file = rig.open();
    let waiting = rig.open();
    let (begun, has_begun) = channel();
    let thread = thread::spawn(move || {
        begun.send(()).unwrap();
        waiting.read_at(&mut [0; 512], 0)
    });
    has_begun.recv().unwrap();
    for at in 1..200 {
        file.write_all_at(&[9; 512], at * 512).unwrap();
        file.read_exact_at(&mut [0; 512], at * 512).unwrap();
    }
    assert!(!thread.is_finished());
    rig.server.signal("KILL");
    rig.server.wait();
    assert!(thread.join().unwrap().is_err());
}

/// Reads and writes pieces of its own part of the file at random and checks them.
fn exercise(file: &File, part: u64, seed: u64, rounds: usize) -> Vec<u8> {
    const PART: usize = 1 << 20;
    let mut random = Random(seed);
    let mut expected = vec![0; PART];
    let mut bytes = vec![0; 200_000];
    for _ in 0..rounds {
        let at = random.index(PART - 1);
        let length = (1 + random.index(bytes.len())).min(PART - at);
        let place = part * MIB + at as u64;
        if random.below(2) == 0 {
            random.fill(&mut bytes[..length]);
            file.write_all_at(&bytes[..length], place).unwrap();
            expected[at..at + length].copy_from_slice(&bytes[..length]);
        } else {
            file.read_exact_at(&mut bytes[..length], place).unwrap();
            assert!(
                bytes[..length] == expected[at..at + length],
                "other data at {place}"
            );
        }
    }
    expected
}

#[test]
fn threads_read_what_they_wrote_while_a_guest_uses_the_node_and_it_grows() {
    let Some(rig) = Rig::new(FILE, ",writable=on,iothread=io0") else {
        return;
    };
    let add = r#"{"execute":"block-export-add","arguments":{"type":"vhost-user-blk","id":"e1","node-name":"n0","addr":{"type":"unix","path":"e1.sock"},"iothread":"io0"}}"#;
    assert_eq!(rig.server.client().ask(add), r#"{"return": {}}"#);
    let work = |part| {
        let file = rig.open();
        move || exercise(&file, part, 77 + part, 150)
    };
    let threads: Vec<_> = (0..4).map(|part| thread::spawn(work(part))).collect();
    let mut guest = Guest::connect(&rig.directory.socket("e1.sock"), 1, 128, false, 4096).unwrap();
    let read = Io {
        write: false,
        offset: 0,
        segments: vec![(0, 4096)],
    };
    let mut length = 4 * MIB;
    while threads.iter().any(|thread| !thread.is_finished()) {
        assert_eq!(guest.run(0, &read), 0);
        length += 4096;
        rig.resize(length);
    }
    let parts = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap());
    let expected: Vec<u8> = parts.collect();
    assert!(rig.image()[..4 << 20] == expected);
    assert_eq!(rig.length(), length);
    // The guest reads through its own export what came through the file.
    assert_eq!(guest.run(0, &read), 0);
    assert_eq!(guest.memory.bytes()[..4096], expected[..4096]);
}

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
