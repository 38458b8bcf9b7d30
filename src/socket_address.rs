//! Addresses of stream sockets, as options describe them, and connections to them that do not block.
//!
//! Used by the block driver `nbd` and by services that listen.
//!
//! # Threads
//! A connection is begun on the home of an AioContext. Names are looked up, and TCP connects, on a worker of its pool.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gsource::{AioContext, Clock};

use crate::nbd::stream::StreamSocket;
use crate::object::Options;
use crate::schema::{Case, Member, ObjectType, ValueType, Variants};
use crate::unix_socket;
use crate::{Error, ErrorKind, Result};

/// How long one address of a host may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// When a Unix socket whose queue is full is asked again.
const AGAIN_NS: i64 = 10_000_000;

/// What describes an address. The types that are not supported are known, so that their error can say what is possible.
pub(crate) static SOCKET_ADDRESS: ObjectType = ObjectType::tagged(
    "SocketAddress",
    &[],
    Variants {
        tag: "type",
        tag_type: "SocketAddressType",
        cases: || {
            vec![
                Case::new(
                    "inet",
                    &[
                        Member::new("host", ValueType::Str),
                        Member::new("port", ValueType::Str),
                    ],
                ),
                Case::new("unix", &[Member::new("path", ValueType::Str)]),
                Case::new(
                    "vsock",
                    &[
                        Member::new("cid", ValueType::Str),
                        Member::new("port", ValueType::Str),
                    ],
                ),
                Case::new("fd", &[Member::new("str", ValueType::Str)]),
            ]
        },
    },
);

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port of a host.
    Inet {
        /// A name or a number.
        host: String,
        /// A number.
        port: String,
    },
}

impl SocketAddress {
    /// Takes it out of the options of its type.
    ///
    /// # Errors
    /// Something is missing; the type is not supported.
    pub(crate) fn take(options: &mut Options) -> Result<SocketAddress> {
        match options.need_str("type")?.as_str() {
            "unix" => Ok(SocketAddress::Unix(options.need_str("path")?.into())),
            "inet" => Ok(SocketAddress::Inet {
                host: options.need_str("host")?,
                port: options.need_str("port")?,
            }),
            _ => {
                let message = "Only socket address types 'inet' and 'unix' are supported";
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    /// Connects. It waits for as long as the peer's host takes.
    ///
    /// # Errors
    /// `Os` if there is no such host or socket, or if nothing listens.
    pub(crate) async fn connect(&self, aio: &AioContext) -> Result<StreamSocket> {
        let connected = match self {
            SocketAddress::Unix(path) => connect_unix(aio, path).await,
            SocketAddress::Inet { host, port } => {
                let (host, port) = (host.clone(), port.clone());
                let worker = aio.run_in_pool(move || connect_inet(&host, &port));
                worker.await?
            }
        };
        connected.map_err(|error| Error::os(format!("Failed to connect to '{self}'"), error))
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketAddress::Unix(path) => write!(out, "{}", path.display()),
            SocketAddress::Inet { host, port } => write!(out, "{host}:{port}"),
        }
    }
}

async fn connect_unix(aio: &AioContext, path: &Path) -> io::Result<StreamSocket> {
    loop {
        match unix_socket::connect(path) {
            // The server has not accepted others yet.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                aio.sleep_ns(Clock::Realtime, AGAIN_NS).await;
            }
            outcome => return outcome.map(StreamSocket::Unix),
        }
    }
}

/// Tries the addresses of a host in turn. It blocks.
fn connect_inet(host: &str, port: &str) -> io::Result<StreamSocket> {
    let port = port
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the port is not a number"))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                return Ok(StreamSocket::Tcp(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
