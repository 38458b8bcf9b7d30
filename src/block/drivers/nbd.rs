//! `nbd`: the export of an NBD server.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::DriverType;
use crate::block::common::CommonOptions;
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::errand;
use crate::block::gate::Gate;
use crate::block::request::SECTOR;
use crate::block::way::Way;
use crate::block::way::nbd::server::{ServerOptions, TlsOptions};
use crate::block::way::nbd::{NbdExport, NbdWay};
use crate::nbd::tls_creds::TlsCreds;
use crate::object::Options;
use crate::schema::{Member, ValueType};
use crate::socket_address::{SOCKET_ADDRESS, SocketAddress};
use crate::{Error, ErrorKind, Result};

#[cfg(test)]
mod fake;
mod file_name;
#[cfg(test)]
mod tests;

pub(in crate::block) use file_name::parse_file_name;

/// The driver `nbd`.
pub(super) const NBD: DriverType = DriverType {
    name: "nbd",
    members: &[
        Member::new("server", ValueType::Object(&SOCKET_ADDRESS)),
        Member::optional("export", ValueType::Str),
        Member::optional("tls-creds", ValueType::Str),
        Member::optional("tls-hostname", ValueType::Str),
        Member::optional("x-dirty-bitmap", ValueType::Str),
        Member::optional("reconnect-delay", ValueType::Uint(32)),
        Member::optional("open-timeout", ValueType::Uint(32)),
    ],
    open,
};

const SECOND_NS: i64 = 1_000_000_000;

/// A node whose data is with a server.
#[derive(Debug)]
struct NbdDriver {
    export: NbdExport,
    file_name: Option<String>,
    read_only: bool,
}

/// Opens what `-blockdev driver=nbd` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    let mut server = keys.take_group("server")?;
    let address = SocketAddress::take(&mut server)?;
    server.finish()?;
    let export = keys.take_str("export")?.unwrap_or_default();
    if keys.take_str("x-dirty-bitmap")?.is_some() {
        let message = "x-dirty-bitmap is not supported";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let options = ServerOptions {
        tls: take_tls(keys, &address)?,
        address,
        export,
        reconnect_delay_ns: take_seconds(keys, "reconnect-delay")?,
        open_timeout_ns: take_seconds(keys, "open-timeout")?,
    };
    connect(options, node.common)
}

/// The certificates and the name of the server, if it is to be TLS.
fn take_tls(keys: &mut Options, address: &SocketAddress) -> Result<Option<TlsOptions>> {
    let name = keys.take_str("tls-hostname")?;
    let Some(id) = keys.take_str("tls-creds")? else {
        return Ok(None);
    };
    let creds = TlsCreds::find(&id)?;
    creds.client()?;
    let name = name.or_else(|| match address {
        SocketAddress::Inet(address) => Some(address.host.clone()),
        SocketAddress::Unix(_) | SocketAddress::Fd(_) => None,
    });
    let invalid = |message| Error::new(ErrorKind::InvalidArgument, message);
    let name = name.ok_or_else(|| invalid("No hostname for certificate validation"))?;
    let name = ServerName::try_from(name);
    let name = name.map_err(|_| invalid("tls-hostname is not a name of a host"))?;
    Ok(Some(TlsOptions { creds, name }))
}

fn take_seconds(keys: &mut Options, name: &str) -> Result<i64> {
    let seconds = keys.take_uint(name, 0..=u32::MAX.into())?.unwrap_or(0);
    Ok(i64::try_from(seconds).unwrap_or(0) * SECOND_NS)
}

/// Opens what a file name describes that [`parse_file_name`] has read.
pub(in crate::block) fn connect(
    options: ServerOptions,
    common: &CommonOptions,
) -> Result<Box<dyn BlockDriver>> {
    let file_name = file_name::file_name(&options.address, &options.export);
    let export = errand::run(|layer| NbdExport::open(layer.queue().aio().clone(), options))??;
    let mut read_only = common.read_only.unwrap_or(false);
    if export.server.facts.is_read_only() && !read_only {
        if common.auto_read_only != Some(true) {
            let message = "Could not open image: the NBD server's export is read-only, and neither read-only=on nor \
                           auto-read-only=on is set";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        read_only = true;
    }
    Ok(Box::new(NbdDriver {
        export,
        file_name,
        read_only,
    }))
}

impl BlockDriver for NbdDriver {
    fn driver(&self) -> Driver {
        Driver::Nbd
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        Way::Nbd(Box::new(NbdWay::open(&self.export, gate)))
    }

    /// The server may count single bytes. What is missing of the last block reads as zeroes.
    fn length(&self) -> Result<u64> {
        let size = self.export.server.size();
        Ok(size.next_multiple_of(self.block_size()))
    }

    fn set_length(&self, length: u64) -> Result<()> {
        if length == self.length()? {
            return Ok(());
        }
        let message = "Cannot resize NBD nodes";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    fn block_size(&self) -> u64 {
        u64::from(self.export.server.facts.limits.minimum).max(SECTOR)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn filename(&self) -> Option<String> {
        self.file_name.clone()
    }
}
