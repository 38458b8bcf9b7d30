//! The socket at which the NBD server listens.
#![forbid(unsafe_code)]

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use crate::inherited_socket::{self, InheritedSocket, SocketState};
use crate::nbd::stream::{NbdStream, StreamSocket};
use crate::object::Options;
use crate::socket_address::{self, InetAddress};
use crate::unix_socket::{ListenError, ListeningSocket, SocketAccess};
use crate::{Error, ErrorKind, Result};

/// A non-blocking socket that listens.
#[derive(Debug)]
pub(in crate::export) enum NbdListener {
    Unix(ListeningSocket),
    Tcp(TcpListener),
}

impl NbdListener {
    /// Listens where `address` says. To look up the name of a host can take its time.
    ///
    /// # Errors
    /// There can be no such socket.
    pub(in crate::export) fn open(kind: &str, address: &mut Options) -> Result<NbdListener> {
        match kind {
            "unix" => unix(&socket_address::take_path(address)?),
            "inet" => InetAddress::take(address)?.listen().map(NbdListener::Tcp),
            "fd" => inherited(&address.need_str("str")?),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                "Only socket address types 'unix', 'inet' and 'fd' are supported",
            )),
        }
    }

    /// Takes the next connection.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` if there is none.
    pub(super) fn accept(&self) -> io::Result<NbdStream> {
        let socket = match self {
            NbdListener::Unix(listener) => {
                let socket = listener.accept()?;
                socket.set_nonblocking(true)?;
                StreamSocket::Unix(socket)
            }
            NbdListener::Tcp(listener) => {
                let (socket, _) = listener.accept()?;
                socket.set_nonblocking(true)?;
                socket.set_nodelay(true)?;
                StreamSocket::Tcp(socket)
            }
        };
        Ok(NbdStream::plain(socket))
    }
}

impl AsRawFd for NbdListener {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            NbdListener::Unix(listener) => listener.as_raw_fd(),
            NbdListener::Tcp(listener) => listener.as_raw_fd(),
        }
    }
}

fn unix(path: &Path) -> Result<NbdListener> {
    let opened = ListeningSocket::open(path, SocketAccess::Umask);
    opened.map(NbdListener::Unix).map_err(|error| match error {
        ListenError::Os(error) => Error::os(
            format!("Failed to bind socket to {}", path.display()),
            error,
        ),
        other => other.describe("NBD server: ", &format!("'{}'", path.display())),
    })
}

/// The socket that the process has inherited under this number.
fn inherited(number: &str) -> Result<NbdListener> {
    let fd = inherited_socket::parse_number(number)?;
    let socket = inherited_socket::duplicate(fd, SocketState::Listening);
    let listener = socket.and_then(|socket| match socket {
        InheritedSocket::Unix(socket) => ListeningSocket::of_fd(socket).map(NbdListener::Unix),
        InheritedSocket::Tcp(socket) => {
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            Ok(NbdListener::Tcp(listener))
        }
    });
    listener.map_err(|error| {
        let what = format!("File descriptor '{number}' is not a listening socket");
        Error::os(what, error)
    })
}
