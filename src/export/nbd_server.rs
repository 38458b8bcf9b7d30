//! The NBD server, as the command line and the monitor start and stop it. Names, order and error texts are QEMU's.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::nbd::listener::NbdListener;
use super::nbd::server::{self, ServerLimits};
use super::nbd::{NBD, not_running};
use super::registry;
use crate::block::Node;
use crate::nbd::tls_creds::TlsCreds;
use crate::object::{Dict, Options, Value};
use crate::schema::{self, Case, Member, ObjectType, ValueType, Variants};
use crate::socket_address::{INET_MEMBERS, SOCKET_ADDRESS, UNIX_MEMBERS};
use crate::{Error, ErrorKind, Result};

/// QEMU's defaults.
const MAX_CONNECTIONS: u32 = 100;
const HANDSHAKE_MAX_SECONDS: u32 = 10;

/// What `--nbd-server` takes.
static NBD_SERVER_OPTIONS: ObjectType = ObjectType::new(
    "NbdServerOptions",
    &[
        Member::optional("handshake-max-seconds", ValueType::Uint(32)),
        Member::optional("tls-creds", ValueType::Str),
        Member::optional("tls-authz", ValueType::Str),
        Member::optional("max-connections", ValueType::Uint(32)),
        Member::new("addr", ValueType::Object(&SOCKET_ADDRESS)),
    ],
);

/// What `nbd-server-start` takes.
pub static NBD_SERVER_LEGACY_OPTIONS: ObjectType = ObjectType::new(
    "NbdServerOptionsLegacy",
    &[
        Member::optional("handshake-max-seconds", ValueType::Uint(32)),
        Member::optional("tls-creds", ValueType::Str),
        Member::optional("tls-authz", ValueType::Str),
        Member::optional("max-connections", ValueType::Uint(32)),
        Member::new("addr", ValueType::Object(&LEGACY_ADDRESS)),
    ],
);

/// The same address with its members in `data`.
static LEGACY_ADDRESS: ObjectType = ObjectType::tagged(
    "SocketAddressLegacy",
    &[],
    Variants {
        tag: "type",
        tag_type: "SocketAddressType",
        cases: || {
            vec![
                data("inet", &INET),
                data("unix", &UNIX),
                data("vsock", &VSOCK),
                data("fd", &FD),
            ]
        },
    },
);

static INET: ObjectType = ObjectType::new("InetSocketAddress", &INET_MEMBERS);
static UNIX: ObjectType = ObjectType::new("UnixSocketAddress", &UNIX_MEMBERS);
static VSOCK: ObjectType = ObjectType::new(
    "VsockSocketAddress",
    &[
        Member::new("cid", ValueType::Str),
        Member::new("port", ValueType::Str),
    ],
);
static FD: ObjectType = ObjectType::new("FdSocketAddress", &[Member::new("str", ValueType::Str)]);

fn data(tag: &'static str, members: &'static ObjectType) -> Case {
    Case::new(tag, &[Member::new("data", ValueType::Object(members))])
}

/// Starts the server as `--nbd-server` describes it.
///
/// # Errors
/// An option is not what is expected; the server runs already; there can be no such socket.
pub fn start_nbd_server(options: Options) -> Result<()> {
    let mut options = schema::check(&NBD_SERVER_OPTIONS, options)?;
    let mut address = options.take_group("addr")?;
    let kind = address.need_str("type")?;
    start(options, &kind, address)
}

/// The same as `nbd-server-start` describes it, whose arguments have been checked.
///
/// # Errors
/// As above.
pub fn start_nbd_server_legacy(mut options: Options) -> Result<()> {
    let mut address = options.take_group("addr")?;
    let kind = address.need_str("type")?;
    let data = address.take_group("data")?;
    start(options, &kind, data)
}

fn start(mut options: Options, kind: &str, mut address: Options) -> Result<()> {
    let mut number = |name, default: u32| -> Result<u32> {
        let number = options.take_uint(name, 0..=u32::MAX.into())?;
        Ok(number.map_or(default, |number| u32::try_from(number).unwrap_or(default)))
    };
    let limits = ServerLimits {
        max_connections: number("max-connections", MAX_CONNECTIONS)?,
        handshake_max_seconds: number("handshake-max-seconds", HANDSHAKE_MAX_SECONDS)?,
    };
    let tls = match options.take_str("tls-creds")? {
        Some(id) => Some(server_creds(&id)?),
        None => None,
    };
    if options.take_str("tls-authz")?.is_some() {
        let message = "tls-authz is not supported: every client with a certificate of the authority is served";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    server::start(|| NbdListener::open(kind, &mut address), limits, tls)
}

fn server_creds(id: &str) -> Result<Arc<TlsCreds>> {
    let creds = TlsCreds::find(id)?;
    creds.server()?;
    Ok(creds)
}

/// Stops the server, ends its exports, calls `gone` with the id of each that has ended, and `done` at the end. If it does not run, `done` gets an error.
pub fn stop_nbd_server(
    gone: impl Fn(&str) + Send + Sync + 'static,
    done: impl FnOnce(Result<()>) + Send + 'static,
) {
    if !server::stop() {
        return done(Err(not_running()));
    }
    registry::shut_down(|export| export.kind == NBD.name, gone, || done(Ok(())));
}

/// Ends the server and all exports, also of other types, calls `gone` with the id of each export that has ended, and `done` after
/// the last one.
pub fn shutdown_all(
    gone: impl Fn(&str) + Send + Sync + 'static,
    done: impl FnOnce() + Send + 'static,
) {
    server::stop();
    registry::shut_down(|_| true, gone, done);
}

/// Makes an export as `nbd-server-add` describes it: one that may be written only if its node may.
///
/// # Errors
/// As [`registry::add`].
pub fn add_nbd(mut options: Options) -> Result<()> {
    let device = options.need_str("device")?;
    let node = Node::find(&device)?;
    let name = options.take_str("name")?.unwrap_or_else(|| device.clone());
    let writable = options.take_bool("writable")?.unwrap_or(false) && !node.is_read_only();
    let mut export: Dict = vec![
        ("type".to_owned(), NBD.name.into()),
        ("id".to_owned(), name.as_str().into()),
        ("node-name".to_owned(), node.name().into()),
        ("writable".to_owned(), Value::Bool(writable)),
        ("name".to_owned(), name.as_str().into()),
    ];
    if let Some(description) = options.take_str("description")? {
        export.push(("description".to_owned(), description.as_str().into()));
    }
    if let Some(bitmap) = options.take_str("bitmap")? {
        let bitmaps = [Value::from(bitmap.as_str())].into_iter().collect();
        export.push(("bitmaps".to_owned(), bitmaps));
    }
    registry::add(Options::from_dict(export))
}

/// Checks that an export, if it exists, is one of the NBD server.
///
/// # Errors
/// It is of another type.
pub fn check_nbd(id: &str) -> Result<()> {
    let found = registry::list().into_iter().find(|export| export.id == id);
    match found.is_some_and(|export| export.kind != NBD.name) {
        true => Err(invalid(format!("Block export '{id}' is not an NBD export"))),
        false => Ok(()),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
