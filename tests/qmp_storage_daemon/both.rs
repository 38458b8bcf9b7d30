//! QEMU's storage daemon and `qctx`, started with the same command line and asked the same.
#![forbid(unsafe_code)]

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
pub(crate) struct Daemon {
    pub(crate) client: Client,
    _process: Process,
    pub(crate) directory: TestDir,
}

impl Daemon {
    pub(crate) fn start(program: &OsStr, monitor: &[&str], arguments: &[&str]) -> Daemon {
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
            directory,
        }
    }

    /// The answer, and the events before it.
    pub(crate) fn ask(&mut self, request: &str) -> Value {
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
pub(crate) struct Both {
    pub(crate) theirs: Daemon,
    pub(crate) ours: Daemon,
}

impl Both {
    /// `None` if there is no storage daemon.
    pub(crate) fn start(arguments: &[&str]) -> Option<Both> {
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
    pub(crate) fn alike(&mut self, request: &str) {
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
    pub(crate) fn deleted(&mut self, request: &str, id: &str) {
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
const ABSENT: [&str; 1] = ["driver-specific"];
/// Numbers that differ by nature.
const DIFFERENT: [&str; 4] = ["actual-size", "id", "child", "parent"];

fn is_number(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::Uint(_))
}

/// Where `ours` is not as `theirs`.
pub(crate) fn difference(at: &str, theirs: &Value, ours: &Value) -> Option<String> {
    match (theirs, ours) {
        (Value::Dict(members), Value::Dict(own)) => {
            let less = members.iter().find_map(|(name, wanted)| {
                let at = format!("{at}.{name}");
                match ours.member(name) {
                    None if ABSENT.contains(&name.as_str()) => None,
                    None => Some(format!("{at} is absent")),
                    Some(_) if is_number(wanted) && DIFFERENT.contains(&name.as_str()) => None,
                    Some(found) => difference(&at, wanted, found),
                }
            });
            let is_more = |name: &str| theirs.member(name).is_none();
            let mut more = own.iter().filter(|(name, _)| is_more(name));
            less.or_else(|| {
                let (name, value) = more.next()?;
                Some(format!("{at}.{name} is {value:?}, expected nothing"))
            })
        }
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

pub(crate) fn plain(command: &str) -> String {
    format!(r#"{{"execute":"{command}"}}"#)
}

pub(crate) fn with(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute":"{command}","arguments":{{{arguments}}}}}"#)
}
