//! Addresses of stream sockets, as options describe them, and connections to them that do not block.
//!
//! Used by the block driver `nbd` and by services that listen.
//!
//! # Threads
//! A connection is begun on the home of an AioContext. Names are looked up, and TCP connects, on a worker of its pool.
#![deny(unsafe_code)] // a child makes system calls

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use gsource::{AioContext, Clock};

use crate::inherited_socket::{self, InheritedSocket, SocketState};
use crate::nbd::stream::StreamSocket;
use crate::object::Options;
use crate::schema::{Case, Member, ObjectType, ValueType, Variants};
use crate::unix_socket;
use crate::{Error, ErrorKind, Result};

mod inet;
mod tcp_options;

pub(crate) use inet::{INET_MEMBERS, InetAddress};

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
                Case::new("inet", &INET_MEMBERS),
                Case::new("unix", &UNIX_MEMBERS),
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

/// What describes a path.
pub(crate) static UNIX_MEMBERS: [Member; 3] = [
    Member::new("path", ValueType::Str),
    Member::optional("abstract", ValueType::Bool),
    Member::optional("tight", ValueType::Bool),
];

/// Takes the path of a Unix socket out of its options.
///
/// # Errors
/// It is missing, or the socket has no file.
pub(crate) fn take_path(options: &mut Options) -> Result<PathBuf> {
    let path = options.need_str("path")?;
    if options.take_bool("abstract")?.unwrap_or(false) {
        let message = "abstract=on is not supported: the socket must have a file";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    // It says how an abstract name is padded.
    options.take_bool("tight")?;
    Ok(path.into())
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port of a host.
    Inet(InetAddress),
    /// The fd of a connection that another process has made.
    Fd(RawFd),
}

impl SocketAddress {
    /// Takes it out of the options of its type.
    ///
    /// # Errors
    /// Something is missing; the type is not supported.
    pub(crate) fn take(options: &mut Options) -> Result<SocketAddress> {
        match options.need_str("type")?.as_str() {
            "unix" => Ok(SocketAddress::Unix(take_path(options)?)),
            "inet" => Ok(SocketAddress::Inet(InetAddress::take(options)?)),
            "fd" => {
                let fd = inherited_socket::parse_number(&options.need_str("str")?)?;
                Ok(SocketAddress::Fd(fd))
            }
            _ => {
                let message = "Only socket address types 'inet', 'unix' and 'fd' are supported";
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
            SocketAddress::Inet(address) => {
                let address = address.clone();
                let worker = aio.run_in_pool(move || address.connect());
                worker.await?.and_then(tcp)
            }
            SocketAddress::Fd(fd) => take_over(*fd),
        };
        connected.map_err(|error| Error::os(format!("Failed to connect to '{self}'"), error))
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketAddress::Unix(path) => write!(out, "{}", path.display()),
            SocketAddress::Inet(address) => address.fmt(out),
            SocketAddress::Fd(fd) => write!(out, "fd:{fd}"),
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

fn tcp(stream: TcpStream) -> io::Result<StreamSocket> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(StreamSocket::Tcp(stream))
}

/// A connection that another process has made. It hangs up when it is dropped, though that process may have it, too.
fn take_over(fd: RawFd) -> io::Result<StreamSocket> {
    match inherited_socket::duplicate(fd, SocketState::Connected)? {
        InheritedSocket::Unix(socket) => {
            let stream = UnixStream::from(socket);
            stream.peer_addr()?;
            stream.set_nonblocking(true)?;
            Ok(StreamSocket::Unix(stream))
        }
        InheritedSocket::Tcp(socket) => {
            let stream = TcpStream::from(socket);
            stream.peer_addr()?;
            tcp(stream)
        }
    }
}
