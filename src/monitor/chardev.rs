//! Where the clients of a monitor come from: character devices, as QEMU calls them.
//!
//! * standard input and output: one client
//! * a socket that listens, at a path or a TCP port: any number of clients
//! * a socket that connects to a client, again and again if it is asked to
//!
//! # Threads
//! As the monitor.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::command::Commands;
use super::session::{self, QmpSession};
use super::stream::Stream;
use crate::Result;
use crate::object::{Options, Value};
use crate::schema::{CommandType, Member, NOTHING, ObjectType, ValueType};

/// A character device that a monitor uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chardev {
    /// Its name.
    pub id: String,
    /// What it is.
    pub backend: ChardevBackend,
    /// Messages are written on several lines, with indentation.
    pub is_pretty: bool,
}

/// What a character device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChardevBackend {
    /// Standard input and output.
    Stdio,
    /// A socket that listens.
    Server(ChardevAddress),
    /// A socket that connects, and again so long after the connection has failed or ended.
    Client(ChardevAddress, Option<Duration>),
}

/// Where a socket listens or connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChardevAddress {
    /// A Unix socket in the file system.
    Unix(PathBuf),
    /// A TCP port.
    Inet {
        /// A name or address of a host.
        host: String,
        /// The number of the port.
        port: u16,
    },
}

impl ChardevAddress {
    /// As `query-chardev` shows it.
    fn describe(&self) -> String {
        match self {
            ChardevAddress::Unix(path) => format!("unix:{}", path.display()),
            ChardevAddress::Inet { host, port } => format!("tcp:{host}:{port}"),
        }
    }
}

impl ChardevBackend {
    /// As `query-chardev` shows it.
    fn describe(&self, is_connected: bool) -> String {
        let (address, end) = match self {
            ChardevBackend::Stdio => return "stdio".to_owned(),
            ChardevBackend::Server(address) => (address, ",server=on"),
            ChardevBackend::Client(address, _) => (address, ""),
        };
        let state = if is_connected { "" } else { "disconnected:" };
        format!("{state}{}{end}", address.describe())
    }
}

/// What the sessions of one character device have in common.
pub(super) struct SessionStyle {
    /// The character device.
    pub(super) chardev: Chardev,
    pub(super) commands: Rc<Commands>,
}

impl SessionStyle {
    /// Serves a client, and calls `ended` when it has left.
    pub(super) fn start(self: &Rc<Self>, stream: Stream, ended: Option<Box<dyn Fn()>>) {
        let chardev = &self.chardev;
        let commands = Rc::clone(&self.commands);
        QmpSession::start(
            stream,
            commands,
            chardev.id.clone(),
            chardev.is_pretty,
            ended,
        );
    }
}

/// The character devices of a monitor.
pub(super) type Chardevs = Rc<std::cell::RefCell<Vec<Chardev>>>;

static QUERY_CHARDEV: CommandType = CommandType::returning(
    "query-chardev",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&ObjectType::new(
        "ChardevInfo",
        &[
            Member::new("label", ValueType::Str),
            Member::new("filename", ValueType::Str),
            Member::new("frontend-open", ValueType::Bool),
        ],
    ))),
);

static QUERY_CHARDEV_BACKENDS: CommandType = CommandType::returning(
    "query-chardev-backends",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&ObjectType::new(
        "ChardevBackendInfo",
        &[Member::new("name", ValueType::Str)],
    ))),
);

/// The kinds of character devices, as `-chardev` names them.
const BACKENDS: [&str; 2] = ["socket", "stdio"];

fn backends(_: Options) -> Result<Value> {
    let backends = BACKENDS.iter();
    Ok(backends
        .map(|name| Value::dict([("name", (*name).into())]))
        .collect())
}

/// Adds the commands that list them.
pub(super) fn add(commands: &mut Commands, chardevs: &Chardevs) {
    commands.add(&QUERY_CHARDEV_BACKENDS, backends);
    let chardevs = Rc::clone(chardevs);
    commands.add(&QUERY_CHARDEV, move |_: Options| {
        Ok(chardevs.borrow().iter().map(describe).collect())
    });
}

fn describe(chardev: &Chardev) -> Value {
    let is_connected = session::is_connected(&chardev.id);
    Value::dict([
        ("frontend-open", true.into()),
        ("filename", chardev.backend.describe(is_connected).into()),
        ("label", chardev.id.as_str().into()),
    ])
}
