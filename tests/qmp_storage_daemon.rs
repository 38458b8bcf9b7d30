//! `qctx` in the place of QEMU's storage daemon: the same command lines and the same requests to both, and the answers side
//! by side. What is said of an error may be more than QEMU says, but begins as QEMU's text does.
//!
//! Where no `qemu-storage-daemon` is installed, the tests say so and count as skipped.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use qcontext::json;
use qcontext::object::Value;
use support::deadline::wait_for;
use support::directory::TestDir;
use support::process::{Process, qctx};
use support::qmp::Client;
use support::skip::skip;

const STORAGE_DAEMON: &str = "qemu-storage-daemon";

/// A daemon with a monitor, in a directory of its own with two images.
struct Daemon {
    client: Client,
    _process: Process,
    _directory: TestDir,
}

impl Daemon {
    fn start(program: &OsStr, monitor: &[&str], arguments: &[&str]) -> Daemon {
        let directory = TestDir::new();
        directory.image("a.img", 1);
        directory.image("b.img", 2);
        let mut command = Command::new(program);
        command.args(arguments).args(monitor);
        command.current_dir(directory.path()).stdin(Stdio::null());
        let process = Process::start(&mut command);
        let socket = directory.socket("qmp.sock");
        wait_for("the monitor", || UnixStream::connect(&socket).ok());
        let mut client = Client::connect(&socket);
        client.ask(r#"{"execute":"qmp_capabilities"}"#);
        Daemon {
            client,
            _process: process,
            _directory: directory,
        }
    }

    /// The answer, and the events before it.
    fn ask(&mut self, request: &str) -> Value {
        self.client.send(request.as_bytes());
        loop {
            let line = self.client.line();
            let value = json::parse(&line).unwrap();
            if value.member("event").is_none() {
                return value;
            }
        }
    }
}

/// QEMU's daemon and `qctx`, with the same command line.
struct Both {
    theirs: Daemon,
    ours: Daemon,
}

impl Both {
    /// `None` if there is no storage daemon.
    fn start(arguments: &[&str]) -> Option<Both> {
        let version = Command::new(STORAGE_DAEMON).arg("--version").output();
        if version.is_err() {
            skip(format!("{STORAGE_DAEMON} is not installed"));
            return None;
        }
        let socket = "socket,id=monitor,path=qmp.sock,server=on,wait=off";
        let theirs = ["--chardev", socket, "--monitor", "monitor"];
        let ours = ["--qmp", "unix:qmp.sock,server=on,wait=off"];
        Some(Both {
            theirs: Daemon::start(OsStr::new(STORAGE_DAEMON), &theirs, arguments),
            ours: Daemon::start(&qctx(), &ours, arguments),
        })
    }

    /// Asks both, and checks that the answers are alike.
    #[track_caller]
    fn alike(&mut self, request: &str) {
        let (theirs, ours) = (self.theirs.ask(request), self.ours.ask(request));
        let text = |value: &Value| {
            let error = value.member("error")?;
            let text = |name| {
                error
                    .member(name)
                    .and_then(Value::as_str)
                    .map(str::to_owned)
            };
            Some((text("class").unwrap(), text("desc").unwrap()))
        };
        match (text(&theirs), text(&ours)) {
            (Some((class, desc)), Some((our_class, our_desc))) => {
                let desc = desc.trim_end_matches('.');
                assert!(
                    our_class == class && our_desc.starts_with(desc),
                    "{request}\n{class} {desc}\n{our_class} {our_desc}"
                );
            }
            (None, None) => {
                let difference = difference("", &theirs, &ours);
                assert_eq!(difference, None, "{request}\n{theirs:?}\n{ours:?}");
            }
            _ => panic!("{request}\n{theirs:?}\n{ours:?}"),
        }
    }
}

impl Both {
    /// Deletes an export. Both answer that they do, and say when they have done it, in any order.
    #[track_caller]
    fn deleted(&mut self, request: &str, id: &str) {
        for daemon in [&mut self.theirs, &mut self.ours] {
            daemon.client.send(request.as_bytes());
            let mut lines = [daemon.client.line(), daemon.client.line()];
            // QEMU ends its lines as a terminal does.
            lines
                .iter_mut()
                .for_each(|line| line.truncate(line.trim_end().len()));
            lines.sort_by_key(|line| line.contains("timestamp"));
            assert_eq!(lines[0], r#"{"return": {}}"#, "{request}");
            let end = format!(r#""event": "BLOCK_EXPORT_DELETED", "data": {{"id": "{id}"}}}}"#);
            assert!(lines[1].ends_with(&end), "{lines:?}");
        }
    }
}

/// Members of answers that `qctx` leaves out, which QEMU's schema allows.
const ABSENT: [&str; 3] = ["format-specific", "driver-specific", "parent"];
/// Numbers that differ by nature.
const DIFFERENT: [&str; 4] = ["actual-size", "id", "child", "parent"];

/// Where `ours` is not as `theirs`.
fn difference(at: &str, theirs: &Value, ours: &Value) -> Option<String> {
    match (theirs, ours) {
        (Value::Dict(members), Value::Dict(_)) => members.iter().find_map(|(name, wanted)| {
            let at = format!("{at}.{name}");
            match ours.member(name) {
                None if ABSENT.contains(&name.as_str()) => None,
                None => Some(format!("{at} is absent")),
                Some(_) if DIFFERENT.contains(&name.as_str()) => None,
                Some(found) => difference(&at, wanted, found),
            }
        }),
        (Value::List(theirs), Value::List(ours)) if theirs.len() == ours.len() => {
            let pairs = theirs.iter().zip(ours).enumerate();
            pairs.into_iter().find_map(|(index, (wanted, found))| {
                difference(&format!("{at}[{index}]"), wanted, found)
            })
        }
        (Value::Str(theirs), Value::Str(ours)) if theirs.starts_with("#block") => {
            (!ours.starts_with("#block")).then(|| format!("{at} is {ours}"))
        }
        // A name for a node without a file.
        (Value::Str(theirs), Value::Str(_)) if theirs.starts_with("json:") => None,
        _ => (theirs != ours).then(|| format!("{at} is {ours:?}, expected {theirs:?}")),
    }
}

const NODES: [&str; 4] = [
    "--blockdev",
    "file,node-name=f0,filename=a.img",
    "--blockdev",
    r#"{"driver":"null-co","node-name":"n0","size":1048576}"#,
];

/// `blockdev-add` with these arguments.
fn add(arguments: &str) -> String {
    format!(r#"{{"execute":"blockdev-add","arguments":{{{arguments}}}}}"#)
}

fn plain(command: &str) -> String {
    format!(r#"{{"execute":"{command}"}}"#)
}

fn with(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute":"{command}","arguments":{{{arguments}}}}}"#)
}

#[test]
fn nodes_come_and_go_as_in_the_storage_daemon() {
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    for request in [
        plain("query-named-block-nodes"),
        add(r#""driver":"raw","node-name":"r0","file":"f0""#),
        add(r#""driver":"raw","node-name":"r1","file":{"driver":"file","filename":"b.img"}"#),
        add(
            r#""driver":"raw","node-name":"r2","file":{"driver":"null-co","node-name":"n2","size":512},"read-only":true"#,
        ),
        with("blockdev-del", r#""node-name":"r2""#),
        plain("query-block"),
        plain("query-blockstats"),
        with("blockdev-del", r#""node-name":"f0""#),
        with("blockdev-del", r#""node-name":"nosuch""#),
        with("blockdev-del", ""),
        with("blockdev-del", r#""node-name":"r0","x":1"#),
        with("block_resize", r#""node-name":"r0","size":4194304"#),
        with("block_resize", r#""node-name":"r0","size":1048576"#),
        with("block_resize", r#""node-name":"nosuch","size":4194304"#),
        with("block_resize", r#""device":"nosuch","size":4194304"#),
        with("block_resize", r#""size":4194304"#),
        with("block_resize", r#""node-name":"r0","size":-1"#),
        with("block_resize", r#""node-name":"r0","size":1.5"#),
        with("block_resize", r#""node-name":"r0""#),
        with("blockdev-del", r#""node-name":"r1""#),
        plain("query-named-block-nodes"),
        with("query-named-block-nodes", r#""flat":true"#),
        with("query-named-block-nodes", r#""flat":5"#),
        with("blockdev-del", r#""node-name":"r0""#),
        with("blockdev-del", r#""node-name":"f0""#),
        plain("query-named-block-nodes"),
    ] {
        both.alike(&request);
    }
}

#[test]
fn wrong_options_of_nodes_have_the_storage_daemons_texts() {
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    for arguments in [
        r#""driver":"null-co","node-name":"n0""#,
        r#""driver":"raw","file":"f0""#,
        r#""driver":"nosuch","node-name":"r2""#,
        r#""node-name":"r2""#,
        r#""driver":5,"node-name":"r2""#,
        r#""driver":"raw","node-name":"1x","file":"f0""#,
        r##""driver":"raw","node-name":"#block1","file":"f0""##,
        r#""driver":"raw","node-name":"a123456789012345678901234567890b","file":"f0""#,
        r#""driver":"raw","node-name":"r3","file":"nosuch""#,
        r#""driver":"raw","node-name":"r3""#,
        r#""driver":"raw","node-name":"r3","file":5"#,
        r#""driver":"raw","node-name":"r3","file":{"filename":"x"}"#,
        r#""driver":"raw","node-name":"r3","file":{"driver":"file"}"#,
        r#""driver":"raw","node-name":"r3","file":{"driver":"file","filename":"nosuch"}"#,
        r#""driver":"raw","node-name":"r3","file":{"driver":"file","filename":"b.img","node-name":"f0"}"#,
        r#""driver":"file","node-name":"r3","filename":"/dev/null""#,
        r#""driver":"file","node-name":"r3","filename":"/tmp""#,
        r#""driver":"host_device","node-name":"r3","filename":"/tmp""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","bogus":1"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","aio":"fast""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","cache":{"direct":5}"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","cache":{"bogus":5}"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","cache":5"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","discard":"x""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","detect-zeroes":"x""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","locking":"x""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","read-only":"on""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","force-share":true"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","force-share":true,"read-only":true"#,
        r#""driver":"null-co","node-name":"n1","size":"1M""#,
        r#""driver":"null-co","node-name":"n1","size":1.5"#,
    ] {
        both.alike(&add(arguments));
    }
}

/// `block-export-add` of a disk with these arguments.
fn disk(arguments: &str) -> String {
    with(
        "block-export-add",
        &format!(r#""type":"vhost-user-blk",{arguments}"#),
    )
}

#[test]
fn exports_come_and_go_as_in_the_storage_daemon() {
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    let unix = |id: &str, node: &str, more: &str| {
        disk(&format!(
            r#""id":"{id}","node-name":"{node}","addr":{{"type":"unix","path":"{id}.sock"}}{more}"#
        ))
    };
    for request in [
        add(r#""driver":"file","node-name":"ro","filename":"b.img","read-only":true"#),
        with("object-add", r#""qom-type":"iothread","id":"io0""#),
        plain("query-block-exports"),
        unix(
            "e0",
            "f0",
            r#","writable":true,"num-queues":2,"iothread":"io0""#,
        ),
        plain("query-block-exports"),
        unix("e0", "f0", ""),
        unix("e1", "f0", r#","writable":true"#),
        unix("e2", "n0", r#","logical-block-size":4096"#),
        unix("e3", "ro", ""),
        plain("query-block-exports"),
        with("blockdev-del", r#""node-name":"f0""#),
        unix("e4", "nosuch", ""),
        unix("e4", "ro", r#","writable":true"#),
        unix("1e", "n0", ""),
        unix("e4", "n0", r#","num-queues":0"#),
        unix("e4", "n0", r#","num-queues":70000"#),
        unix("e4", "n0", r#","logical-block-size":1000"#),
        unix("e4", "n0", r#","logical-block-size":256"#),
        unix("e4", "n0", r#","logical-block-size":4194304"#),
        unix("e4", "n0", r#","iothread":"nosuch""#),
        unix("e4", "n0", r#","bogus":1"#),
        unix("e4", "n0", r#","writable":"on""#),
        unix("nosuch/e4", "n0", ""),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"unix","path":"/nosuch/e4.sock"}"#),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"inet","host":"localhost","port":"1"}"#),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"unix","path":"e4.sock","foo":1}"#),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"unix"}"#),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"nosuch"}"#),
        disk(r#""id":"e4","node-name":"n0","addr":5"#),
        disk(r#""id":"e4","node-name":"n0""#),
        disk(r#""id":"e4""#),
        disk(r#""node-name":"n0""#),
        with("block-export-add", r#""id":"e4""#),
        with(
            "block-export-add",
            r#""type":"nosuch","id":"e4","node-name":"n0""#,
        ),
        with("block-export-del", r#""id":"nosuch""#),
        with("block-export-del", ""),
        with("block-export-del", r#""id":"e1","mode":"foo""#),
    ] {
        both.alike(&request);
    }
    for (id, mode) in [
        ("e0", ""),
        ("e2", r#","mode":"hard""#),
        ("e3", r#","mode":"safe""#),
    ] {
        let request = with("block-export-del", &format!(r#""id":"{id}"{mode}"#));
        both.deleted(&request, id);
    }
    both.alike(&plain("query-block-exports"));
    both.deleted(&with("block-export-del", r#""id":"e1""#), "e1");
    both.alike(&with("blockdev-del", r#""node-name":"f0""#));
}

#[test]
fn objects_and_unknown_commands_have_the_storage_daemons_texts() {
    let Some(mut both) = Both::start(&[]) else {
        return;
    };
    for request in [
        plain("nosuch"),
        with("quit", r#""a":1"#),
        with("object-add", r#""qom-type":"nosuch","id":"a""#),
        with("object-add", r#""id":"a""#),
        with("object-add", r#""qom-type":"iothread""#),
        with("object-add", r#""qom-type":"iothread","id":"1a""#),
        with("object-add", r#""qom-type":"iothread","id":"a","x":1"#),
        with(
            "object-add",
            r#""qom-type":"iothread","id":"a","poll-max-ns":-5"#,
        ),
        with(
            "object-add",
            r#""qom-type":"iothread","id":"a","poll-max-ns":"1""#,
        ),
        with(
            "object-add",
            r#""qom-type":"iothread","id":"a","poll-max-ns":5"#,
        ),
        with("object-add", r#""qom-type":"iothread","id":"a""#),
        with("qom-get", r#""path":"/objects/a","property":"poll-max-ns""#),
        with(
            "qom-set",
            r#""path":"/objects/a","property":"poll-max-ns","value":7"#,
        ),
        with("qom-get", r#""path":"/objects/a","property":"poll-max-ns""#),
        with("qom-list", r#""path":"/nosuch""#),
        with("qom-list-properties", r#""typename":"nosuch""#),
        with("object-del", r#""id":"a""#),
        with("object-del", r#""id":"a""#),
    ] {
        both.alike(&request);
    }
}
