//! The command line of qemu-storage-daemon at `qctx`: monitors on character devices, also as a client; the background and the
//! file with the process id; the texts of mistakes, side by side.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};

use support::deadline::{DEADLINE, wait_for};
use support::directory::TestDir;
use support::pki;
use support::process::{Process, qctx};
use support::qmp::Client;
use support::skip::skip;

const STORAGE_DAEMON: &str = "qemu-storage-daemon";
const README: &str = include_str!("../README.md");
const CAPABILITIES: &str = r#"{"execute":"qmp_capabilities"}"#;

fn command(directory: &TestDir, program: &OsStr, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["60".as_ref(), program]).args(arguments);
    command.current_dir(directory.path()).stdin(Stdio::null());
    command
}

fn start(directory: &TestDir, arguments: &[&str]) -> Process {
    let mut command = Command::new(qctx());
    command.args(arguments).current_dir(directory.path());
    Process::start(command.stdin(Stdio::null()))
}

/// What a program says that refuses a command line, without its name and the dashes of the option.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    let (_, rest) = text.trim_end().split_once(": ").unwrap();
    rest.trim_start_matches('-').to_owned()
}

#[test]
fn mistakes_have_the_storage_daemons_texts() {
    if Command::new(STORAGE_DAEMON)
        .arg("--version")
        .output()
        .is_err()
    {
        return skip(format!("{STORAGE_DAEMON} is not installed"));
    }
    let socket = "socket,id=c,path=c.sock,server=on,wait=off";
    let cases: &[&[&str]] = &[
        &["--blockdev", "driver=nosuch,node-name=x"],
        &["--blockdev", "file,node-name=x,filename=nosuch"],
        &["--blockdev", "file,node-name=x,filename=nosuch,bogus=1"],
        &["--blockdev", "file,node-name=x,filename=nosuch,read-only=1"],
        &["--blockdev", "file,node-name=x"],
        &["--blockdev", "null-co"],
        &[
            "--blockdev",
            "null-co,node-name=x",
            "--blockdev",
            "null-co,node-name=x",
        ],
        &["--blockdev", "raw,node-name=x,file=nosuch"],
        &["--blockdev", "raw,node-name=x,file.driver=file"],
        &["--blockdev", r#"{"driver""#],
        &["--export", "vhost-user-blk,id=x"],
        &["--export", "foo,id=x"],
        &[
            "--export",
            "vhost-user-blk,id=x,node-name=n,addr.type=unix,addr.path=x.sock",
        ],
        &[
            "--blockdev",
            "null-co,node-name=n",
            "--export",
            "vhost-user-blk,id=x,node-name=n,addr.type=fd,addr.str=x",
        ],
        &["--nbd-server", "addr.type=foo"],
        &["--nbd-server", "addr.path=x.sock"],
        &["--nbd-server", "addr.type=unix"],
        &["--nbd-server", "addr.type=unix,addr.path=/nosuch/x.sock"],
        &[
            "--nbd-server",
            "addr.type=unix,addr.path=x.sock,max-connections=x",
        ],
        &[
            "--nbd-server",
            "addr.type=unix,addr.path=x.sock,tls-creds=nosuch",
        ],
        &[
            "--nbd-server",
            "addr.type=unix,addr.path=x.sock",
            "--nbd-server",
            "addr.type=unix,addr.path=y.sock",
        ],
        &[
            "--blockdev",
            "null-co,node-name=n",
            "--export",
            "nbd,id=x,node-name=n",
        ],
        &["--chardev", "socket,path=x.sock"],
        &["--chardev", "nosuch,id=c"],
        &["--chardev", "stdio"],
        &["--chardev", "socket,id=c,path=x.sock,server=on,bogus=off"],
        &["--chardev", socket, "--chardev", "stdio,id=c"],
        &["--monitor", "nosuch"],
        &["--chardev", socket, "--monitor", "c,mode=foo"],
        &["--chardev", socket, "--monitor", "c", "--monitor", "c"],
        &[
            "--chardev",
            "socket,id=c,path=nosuch.sock",
            "--monitor",
            "c",
        ],
        &["--object", "iothread"],
        &["--object", "nosuch,id=x"],
    ];
    for arguments in cases {
        let directory = TestDir::new();
        let run = |program: &OsStr| command(&directory, program, arguments).output().unwrap();
        let theirs = complaint(&run(OsStr::new(STORAGE_DAEMON)));
        let ours = complaint(&run(&qctx()));
        // A socket that cannot be reached is noticed at the monitor, whose socket it is.
        let (_, reason) = theirs
            .rsplit_once("c,path=nosuch.sock: ")
            .unwrap_or(("", &theirs));
        assert!(
            ours.contains(reason.trim_end_matches('.')),
            "{arguments:?}\n{theirs}\n{ours}"
        );
    }
}

#[test]
fn a_monitor_listens_at_a_chardev_and_says_so() {
    let directory = TestDir::new();
    let server = "socket,id=mon,path=qmp.sock,server=on,wait=off";
    let mut process = start(
        &directory,
        &["--chardev", server, "--monitor", "chardev=mon,mode=control"],
    );
    let socket = directory.socket("qmp.sock");
    wait_for("the monitor", || UnixStream::connect(&socket).ok());
    let mut client = Client::connect(&socket);
    client.ask(CAPABILITIES);
    assert_eq!(
        client.ask(r#"{"execute":"query-chardev"}"#),
        r#"{"return": [{"frontend-open": true, "filename": "unix:qmp.sock,server=on", "label": "mon"}]}"#
    );
    client.send(br#"{"execute":"quit"}"#);
    process.ends_well();
}

#[test]
fn a_monitor_with_wait_is_ready_when_its_client_is_there() {
    let directory = TestDir::new();
    let server = "socket,id=mon,path=qmp.sock,server=on";
    let pidfile = directory.path().join("pid");
    let arguments = ["--chardev", server, "--monitor", "mon", "--pidfile", "pid"];
    let mut process = start(&directory, &arguments);
    let socket = directory.socket("qmp.sock");
    let mut client = wait_for("the monitor", || UnixStream::connect(&socket).ok());
    wait_for("the file with the id", || pidfile.exists().then_some(()));
    client
        .write_all(br#"{"execute":"qmp_capabilities"}{"execute":"quit"}"#)
        .unwrap();
    process.ends_well();
}

/// The options in the README's table, in the order of its lines, without the file if none can be mounted, and
/// without TLS if there are no certificates.
fn options_of_the_readme(has_fuse: bool, has_tls: bool) -> String {
    let (_, section) = README
        .split_once("### Instead of qemu-storage-daemon")
        .unwrap();
    let (section, _) = section.split_once("###").unwrap();
    let lines = section.lines().filter(|line| line.contains("| `--"));
    let mut options: Vec<_> = lines.map(|line| line.split('`').nth(1).unwrap()).collect();
    assert_eq!(options.len(), 14, "{options:?}");
    options.retain(|option| has_fuse || !option.starts_with("--export fuse"));
    if has_tls {
        return options.join(" ");
    }
    options.retain(|option| !option.starts_with("--object tls"));
    options.join(" ").replace(",tls-creds=tls0", "")
}

/// All lines together, with the other word as well.
#[test]
fn the_lines_of_the_readme_work_with_one_word_changed() {
    let has_theirs = Command::new(STORAGE_DAEMON)
        .arg("--version")
        .output()
        .is_ok();
    let fuse = File::options().write(true).open("/dev/fuse");
    if let Err(error) = &fuse {
        skip(format!("/dev/fuse: {error}"));
    }
    let no_tls = pki::missing().inspect(|reason| skip(reason));
    let theirs = has_theirs.then(|| OsStr::new(STORAGE_DAEMON).to_owned());
    for program in theirs.into_iter().chain([qctx()]) {
        let directory = TestDir::new();
        directory.image("disk0.raw", 1);
        directory.image("disk1.raw", 1);
        if no_tls.is_none() {
            pki::make(&directory.file("pki"), "disks.example");
        }
        let mountpoint = directory.file("disk0.fuse");
        fs::write(&mountpoint, "").unwrap();
        let listener = UnixListener::bind(directory.socket("client.sock")).unwrap();
        let options = options_of_the_readme(fuse.is_ok(), no_tls.is_none());
        let script = format!(r#"exec "$0" {options}"#);
        let mut shell = Command::new("timeout");
        shell.args(["60", "sh", "-c", &script]).arg(&program);
        let output = shell.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{program:?} {output:?}");
        for socket in ["e0.sock", "e1.sock", "nbd.sock", "storage.sock"] {
            let connected = UnixStream::connect(directory.socket(socket));
            assert!(connected.is_ok(), "{program:?} {socket} {connected:?}");
        }
        if fuse.is_ok() {
            assert_eq!(fs::metadata(&mountpoint).unwrap().len(), 1 << 20);
        }
        let pidfile = directory.path().join("storage.pid");
        assert!(pidfile.exists(), "{program:?}");
        if program != qctx() {
            // QEMU's daemon in the background at times neither connects to its client nor removes the file with its id.
            let pid = fs::read_to_string(&pidfile).unwrap();
            let kill = Command::new("kill").args(["-KILL", pid.trim()]).status();
            assert!(kill.unwrap().success());
            if fuse.is_ok() {
                let umount = Command::new("umount").arg("-l").arg(&mountpoint).status();
                assert!(umount.unwrap().success());
            }
            continue;
        }
        listener.set_nonblocking(true).unwrap();
        let mut client = wait_for("the client's monitor", || listener.accept().ok()).0;
        client.set_nonblocking(false).unwrap();
        client
            .write_all(br#"{"execute":"qmp_capabilities"}{"execute":"quit"}"#)
            .unwrap();
        wait_for("the end of the daemon", || {
            (!pidfile.exists()).then_some(())
        });
    }
}

/// Answers as a client whom the program has connected to.
fn quit<S: Read + Write>(stream: S) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with(r#"{"QMP": "#), "{line}");
    let commands = br#"{"execute":"qmp_capabilities"}{"execute":"quit"}"#;
    reader.get_mut().write_all(commands).unwrap();
}

#[test]
fn a_monitor_connects_to_its_client_at_a_path() {
    let directory = TestDir::new();
    let listener = UnixListener::bind(directory.socket("client.sock")).unwrap();
    let mut process = start(
        &directory,
        &[
            "--chardev",
            "socket,id=c,path=client.sock",
            "--monitor",
            "c",
        ],
    );
    quit(listener.accept().unwrap().0);
    process.ends_well();
}

#[test]
fn a_monitor_connects_to_its_client_over_tcp() {
    let directory = TestDir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let chardev = format!("socket,id=c,host=127.0.0.1,port={port}");
    let mut process = start(&directory, &["--chardev", &chardev, "--monitor", "c"]);
    quit(listener.accept().unwrap().0);
    process.ends_well();
}

#[test]
fn a_monitor_connects_again_to_a_client_that_comes_late_or_leaves() {
    let directory = TestDir::new();
    let client = "socket,id=c,path=client.sock,reconnect-ms=10";
    let server = "socket,id=m,path=qmp.sock,server=on,wait=off";
    let arguments = [
        "--chardev",
        client,
        "--monitor",
        "c",
        "--chardev",
        server,
        "--monitor",
        "m",
    ];
    let mut process = start(&directory, &arguments);
    let socket = directory.socket("qmp.sock");
    wait_for("the other monitor", || UnixStream::connect(&socket).ok());
    let listener = UnixListener::bind(directory.socket("client.sock")).unwrap();
    // The first one leaves at once.
    drop(listener.accept().unwrap());
    quit(listener.accept().unwrap().0);
    process.ends_well();
}

#[test]
fn a_monitor_listens_at_a_port_and_writes_for_people() {
    let directory = TestDir::new();
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = format!("socket,id=m,host=127.0.0.1,port={port},server=on,wait=off");
    let mut process = start(
        &directory,
        &["--chardev", &server, "--monitor", "m,pretty=on"],
    );
    let mut stream = wait_for("the monitor", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
        .write_all(br#"{"execute":"qmp_capabilities"}{"execute":"quit"}"#)
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(
        said.starts_with("{\n    \"QMP\": {\n        \"version\": {\n"),
        "{said}"
    );
    assert!(said.ends_with("{\n    \"return\": {}\n}\n"), "{said}");
    process.ends_well();
}

#[test]
fn a_daemon_is_ready_when_its_parent_ends_and_removes_its_file() {
    let directory = TestDir::new();
    let server = "socket,id=mon,path=qmp.sock,server=on,wait=off";
    let arguments = [
        "--chardev",
        server,
        "--monitor",
        "mon",
        "--daemonize",
        "--pidfile",
        "pid",
    ];
    let output = command(&directory, &qctx(), &arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // Everything is there.
    let pid = fs::read_to_string(directory.path().join("pid")).unwrap();
    let mut client = Client::connect(&directory.socket("qmp.sock"));
    client.ask(CAPABILITIES);
    let main = r#"{"execute":"qom-get","arguments":{"path":"/objects/qcontext-main","property":"thread_id"}}"#;
    assert_eq!(client.ask(main), format!(r#"{{"return": {}}}"#, pid.trim()));
    let killed = Command::new("kill").arg(pid.trim()).status().unwrap();
    assert!(killed.success());
    client.rest();
    let gone = || (!directory.path().join("pid").exists()).then_some(());
    wait_for("the end of the daemon", gone);
}

#[test]
fn a_daemon_that_fails_leaves_its_error_and_status_to_its_parent() {
    let directory = TestDir::new();
    let blockdev = "file,node-name=n,filename=nosuch";
    let arguments = ["--daemonize", "--pidfile", "pid", "--blockdev", blockdev];
    let output = command(&directory, &qctx(), &arguments).output().unwrap();
    let said = complaint(&output);
    assert!(said.contains("Could not open 'nosuch'"), "{said}");
    assert!(!directory.path().join("pid").exists());
}

#[test]
fn the_file_with_the_id_belongs_to_one_process() {
    let directory = TestDir::new();
    let mut first = start(&directory, &["--pidfile", "pid"]);
    let path = directory.path().join("pid");
    let written = || {
        fs::read_to_string(&path)
            .ok()
            .filter(|text| text.ends_with('\n'))
    };
    let pid = wait_for("the file", written);
    assert_eq!(pid.trim(), first.pid().to_string());
    let second = command(&directory, &qctx(), &["--pidfile", "pid"])
        .output()
        .unwrap();
    assert!(complaint(&second).contains("in use by another process"));
    let nowhere = command(&directory, &qctx(), &["--pidfile", "/nosuch/pid"]).output();
    let expected = "cannot create PID file: Could not create '/nosuch/pid'";
    assert!(complaint(&nowhere.unwrap()).contains(expected));
    first.signal("HUP");
    first.ends_well();
    assert!(!path.exists());
}
