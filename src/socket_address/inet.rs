//! TCP ports of hosts, with QEMU's options: `ipv4`, `ipv6`, `numeric`, `to`, `keep-alive`.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use super::tcp_options::{keep_alive, listen_ipv6_only};
use crate::object::Options;
use crate::schema::{Member, ValueType};
use crate::{Error, ErrorKind, Result};

/// How long one address of a host may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What describes an address.
pub(crate) static INET_MEMBERS: [Member; 8] = [
    Member::new("host", ValueType::Str),
    Member::new("port", ValueType::Str),
    Member::optional("numeric", ValueType::Bool),
    Member::optional("to", ValueType::Uint(16)),
    Member::optional("ipv4", ValueType::Bool),
    Member::optional("ipv6", ValueType::Bool),
    Member::optional("keep-alive", ValueType::Bool),
    Member::optional("mptcp", ValueType::Bool),
];

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InetAddress {
    /// A name or a number.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The last port to try, for a server.
    to: u16,
    family: InetFamily,
    /// The host must be a number.
    numeric: bool,
    keep_alive: bool,
}

/// Which addresses of a host count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InetFamily {
    Any,
    V4,
    V6,
}

impl InetAddress {
    /// A port of a host, whatever its addresses.
    pub(crate) fn new(host: &str, port: u16) -> InetAddress {
        InetAddress {
            host: host.to_owned(),
            port,
            to: port,
            family: InetFamily::Any,
            numeric: false,
            keep_alive: false,
        }
    }

    /// Takes it out of its options.
    ///
    /// # Errors
    /// Something is missing, makes no sense, or is not supported.
    pub(crate) fn take(options: &mut Options) -> Result<InetAddress> {
        let host = options.need_str("host")?;
        let text = options.need_str("port")?;
        let port = text
            .parse()
            .map_err(|_| invalid(format!("can't convert to a number: {text}")))?;
        let mut flag = |name| options.take_bool(name);
        let (ipv4, ipv6) = (flag("ipv4")?, flag("ipv6")?);
        let numeric = flag("numeric")?.unwrap_or(false);
        let keep_alive = flag("keep-alive")?.unwrap_or(false);
        if flag("mptcp")?.unwrap_or(false) {
            let message = "mptcp=on is not supported";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let to = options.take_uint("to", 0..=u16::MAX.into())?;
        let to = to.map_or(port, |to| u16::try_from(to).unwrap_or(port));
        if to < port {
            return Err(invalid(format!("to={to} is less than port={port}")));
        }
        Ok(InetAddress {
            host,
            port,
            to,
            family: family(ipv4, ipv6)?,
            numeric,
            keep_alive,
        })
    }

    /// Tries the addresses in turn. It blocks.
    ///
    /// # Errors
    /// There is no such host, or nothing listens.
    pub(super) fn connect(&self) -> io::Result<TcpStream> {
        let mut last = no_family();
        for address in self.targets()? {
            match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
                Ok(stream) => {
                    if self.keep_alive {
                        keep_alive(stream.as_fd())?;
                    }
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Listens at the first port that is free. To look up the name of a host can take its time.
    ///
    /// # Errors
    /// There is no such host, or no such port.
    pub(crate) fn listen(&self) -> Result<TcpListener> {
        for port in self.port..=self.to {
            let listener = self.bind(port).and_then(|listener| {
                if self.keep_alive {
                    keep_alive(listener.as_fd())?;
                }
                listener.set_nonblocking(true).map(|()| listener)
            });
            match listener {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && port < self.to => {}
                outcome => {
                    let what = match &outcome {
                        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                            "Failed to find an available port"
                        }
                        _ => return outcome.map_err(|error| self.unbound(error)),
                    };
                    return outcome.map_err(|error| Error::os(what, error));
                }
            }
        }
        Err(invalid(format!(
            "there is no port between {} and {}",
            self.port, self.to
        )))
    }

    fn unbound(&self, error: io::Error) -> Error {
        Error::os(format!("Failed to bind socket to {self}"), error)
    }

    fn bind(&self, port: u16) -> io::Result<TcpListener> {
        let is_any = self.host.is_empty() || self.host == "::";
        if is_any && self.family == InetFamily::V6 {
            return listen_ipv6_only(port);
        }
        let mut last = no_family();
        for address in self.resolve(port)? {
            if self.family == InetFamily::V6 && address.is_ipv4() {
                continue;
            }
            match TcpListener::bind(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The addresses of the host. With `ipv6` alone, they may be of IPv4 all the same.
    fn resolve(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        let any: IpAddr = match self.family {
            InetFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        };
        let addresses = if self.host.is_empty() {
            vec![SocketAddr::new(any, port)]
        } else if self.numeric {
            let number = self.host.parse::<IpAddr>();
            let number = number.map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidInput, "the host is not a number")
            })?;
            vec![SocketAddr::new(number, port)]
        } else {
            (self.host.as_str(), port).to_socket_addrs()?.collect()
        };
        let fits = |address: &SocketAddr| self.family != InetFamily::V4 || address.is_ipv4();
        Ok(addresses.into_iter().filter(fits).collect())
    }

    /// The addresses to connect to. A socket of IPv6 reaches those of IPv4, too, if the host has no others.
    fn targets(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addresses = self.resolve(self.port)?;
        if self.family != InetFamily::V6 {
            return Ok(addresses);
        }
        if addresses.iter().any(SocketAddr::is_ipv6) {
            addresses.retain(SocketAddr::is_ipv6);
        }
        for address in &mut addresses {
            if let IpAddr::V4(ip) = address.ip() {
                address.set_ip(ip.to_ipv6_mapped().into());
            }
        }
        Ok(addresses)
    }
}

/// QEMU's rule: what is not said is what is left.
fn family(ipv4: Option<bool>, ipv6: Option<bool>) -> Result<InetFamily> {
    match (ipv4, ipv6) {
        (Some(false), Some(false)) => Err(invalid(
            "Cannot disable IPv4 and IPv6 at same time".to_owned(),
        )),
        (None, None) | (Some(true), Some(true)) => Ok(InetFamily::Any),
        (Some(true), _) | (None, Some(false)) => Ok(InetFamily::V4),
        (_, Some(true)) | (Some(false), None) => Ok(InetFamily::V6),
    }
}

fn no_family() -> io::Error {
    let message = "Address family for hostname not supported";
    io::Error::new(io::ErrorKind::AddrNotAvailable, message)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

impl fmt::Display for InetAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_of_a_family_is_what_is_left() {
        let cases = [
            (None, None, Some(InetFamily::Any)),
            (Some(true), None, Some(InetFamily::V4)),
            (None, Some(true), Some(InetFamily::V6)),
            (Some(false), None, Some(InetFamily::V6)),
            (None, Some(false), Some(InetFamily::V4)),
            (Some(true), Some(true), Some(InetFamily::Any)),
            (Some(true), Some(false), Some(InetFamily::V4)),
            (Some(false), Some(true), Some(InetFamily::V6)),
            (Some(false), Some(false), None),
        ];
        for (ipv4, ipv6, expected) in cases {
            assert_eq!(family(ipv4, ipv6).ok(), expected, "{ipv4:?} {ipv6:?}");
        }
    }
}
