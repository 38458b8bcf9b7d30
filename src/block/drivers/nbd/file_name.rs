//! File names that stand for NBD exports: `nbd:unix:PATH`, `nbd:HOST:PORT`, and URIs with the schemes `nbd`, `nbd+tcp` and
//! `nbd+unix`.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt::Write;

use crate::block::way::nbd::server::ServerOptions;
use crate::nbd::protocol::PORT;
use crate::socket_address::{InetAddress, SocketAddress};
use crate::{Error, ErrorKind, Result};

/// Reads a file name. `None` if it is the name of a file.
///
/// # Errors
/// It begins like that of an export, and is none.
pub(in crate::block) fn parse_file_name(name: &str) -> Result<Option<ServerOptions>> {
    let schemes = ["nbd", "nbd+tcp", "nbd+unix"];
    let parts = match name.split_once("://") {
        Some((scheme, rest)) if schemes.contains(&scheme) => {
            parse_uri(scheme, rest).ok_or_else(|| invalid("No valid URL specified".into()))?
        }
        _ => match name.strip_prefix("nbd:") {
            Some(rest) => parse_old(rest)?,
            None => return Ok(None),
        },
    };
    let (address, export) = parts;
    Ok(Some(ServerOptions {
        address,
        export,
        tls: None,
        reconnect_delay_ns: 0,
        open_timeout_ns: 0,
    }))
}

type AddressAndExport = (SocketAddress, String);

/// The form without slashes.
fn parse_old(text: &str) -> Result<AddressAndExport> {
    let (address, export) = text.split_once(":exportname=").unwrap_or((text, ""));
    if address.is_empty() {
        return Err(invalid("NBD server address missing".into()));
    }
    let address = match address.strip_prefix("unix:") {
        Some(path) => SocketAddress::Unix(path.into()),
        None => {
            let wrong = || invalid(format!("error parsing address '{address}'"));
            let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
            inet(host, port).ok_or_else(wrong)?
        }
    };
    Ok((address, export.to_owned()))
}

fn parse_uri(scheme: &str, rest: &str) -> Option<AddressAndExport> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let export = decode(path)?.into_owned();
    if scheme == "nbd+unix" {
        let socket = query.strip_prefix("socket=")?;
        let is_alone = authority.is_empty() && !socket.is_empty() && !socket.contains('&');
        let socket = decode(socket)?.into_owned();
        return is_alone.then(|| (SocketAddress::Unix(socket.into()), export));
    }
    let default = PORT.to_string();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, default.as_str()),
    };
    let address = inet(host, port).filter(|_| query.is_empty())?;
    Some((address, export))
}

fn inet(host: &str, port: &str) -> Option<SocketAddress> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    let port = port.parse().ok().filter(|_| !host.is_empty())?;
    Some(SocketAddress::Inet(InetAddress::new(host, port)))
}

/// Decodes `%XX`.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(text.into());
    }
    let mut pieces = text.split('%');
    let mut bytes = Vec::from(pieces.next()?);
    for piece in pieces {
        let digits = piece.get(..2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(piece[2..].bytes());
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// The URI of an export, if its server can be found by it.
pub(super) fn file_name(address: &SocketAddress, export: &str) -> Option<String> {
    let mut name = match address {
        SocketAddress::Unix(_) => "nbd+unix://".to_owned(),
        SocketAddress::Inet(address) => format!("nbd://{address}"),
        SocketAddress::Fd(_) => return None,
    };
    if !export.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(name, "/{export}");
    }
    if let SocketAddress::Unix(path) = address {
        let _ = write!(name, "?socket={}", path.display());
    }
    Some(name)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &str, export: &str) -> Option<AddressAndExport> {
        Some((SocketAddress::Unix(path.into()), export.into()))
    }

    fn tcp(host: &str, port: &str, export: &str) -> Option<AddressAndExport> {
        Some((inet(host, port)?, export.into()))
    }

    fn parse(name: &str) -> Result<Option<AddressAndExport>> {
        let server = parse_file_name(name)?;
        Ok(server.map(|server| (server.address, server.export)))
    }

    #[test]
    fn names_of_exports() {
        let cases = [
            ("/images/nbd:a", None),
            ("nbdkit", None),
            ("nbds://x", None),
            ("nbd:unix:/run/a b", unix("/run/a b", "")),
            ("nbd:unix:/run/s:exportname=a:b", unix("/run/s", "a:b")),
            ("nbd:host:1", tcp("host", "1", "")),
            ("nbd:[::1]:7:exportname=x", tcp("::1", "7", "x")),
            ("nbd://host", tcp("host", "10809", "")),
            ("nbd://host:3/a%20b", tcp("host", "3", "a b")),
            ("nbd+tcp://[::1]/x/y", tcp("::1", "10809", "x/y")),
            ("nbd+unix:///?socket=/run/s", unix("/run/s", "")),
            ("nbd+unix:///x?socket=/run/%73", unix("/run/s", "x")),
        ];
        for (name, expected) in cases {
            assert_eq!(parse(name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn names_that_are_wrong() {
        let cases = [
            ("nbd:", "NBD server address missing"),
            ("nbd:host", "error parsing address 'host'"),
            ("nbd:host:port", "error parsing address 'host:port'"),
            ("nbd://", "No valid URL specified"),
            ("nbd://host:x", "No valid URL specified"),
            ("nbd://host/a?b=c", "No valid URL specified"),
            ("nbd://host/%zz", "No valid URL specified"),
            ("nbd+unix:///x", "No valid URL specified"),
            ("nbd+unix://host/x?socket=s", "No valid URL specified"),
            ("nbd+unix:///x?socket=", "No valid URL specified"),
        ];
        for (name, expected) in cases {
            assert_eq!(parse(name).unwrap_err().to_string(), expected, "{name}");
        }
    }

    #[test]
    fn names_of_nodes() {
        let name = |parts: Option<AddressAndExport>| {
            let (address, export) = parts.unwrap();
            file_name(&address, &export).unwrap()
        };
        assert_eq!(name(unix("/run/s", "x")), "nbd+unix:///x?socket=/run/s");
        assert_eq!(name(unix("/run/s", "")), "nbd+unix://?socket=/run/s");
        assert_eq!(name(tcp("host", "1", "x")), "nbd://host:1/x");
    }
}
