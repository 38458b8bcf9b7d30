//! `nbd`: nodes for clients of the NBD protocol, and the server at which they connect.
//!
//! * [`server`], [`listener`]: where clients come from
//! * [`negotiation`]: the options of a client, up to the export that it chooses
//! * [`offer`]: an export and its clients
//! * [`connection`], [`socket`], [`requests`]: the transmission phase
//! * [`execute`], [`status`], [`reply`]: one request; [`bitmaps`]: dirty bitmaps that clients may ask for
//!
//! A client's negotiation is a task on the main context. Its transmission is a task on the context of the export. There is one
//! server, as in QEMU; its exports end with it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::kind::{ExportType, Exported, NewExport};
use crate::nbd::protocol::MAX_STRING;
use crate::object::Options;
use crate::schema::{AlternateType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result};

mod bitmaps;
mod connection;
mod execute;
pub(super) mod listener;
mod negotiation;
mod offer;
mod reply;
mod requests;
pub(super) mod server;
mod socket;
mod status;

use offer::{ExportedOffer, NbdOffer, OfferedAs};
use status::StatusContexts;

/// The type `nbd`.
pub(super) const NBD: ExportType = ExportType {
    name: "nbd",
    members: &MEMBERS,
    ends_at_once: true,
    open,
};

static MEMBERS: [Member; 4] = [
    Member::optional("name", ValueType::Str),
    Member::optional("description", ValueType::Str),
    Member::optional("bitmaps", ValueType::Array(&ValueType::Alternate(&BITMAP))),
    Member::optional("allocation-depth", ValueType::Bool),
];

static BITMAP: AlternateType = AlternateType {
    name: "BlockDirtyBitmapOrStr",
    branches: &[
        ValueType::Str,
        ValueType::Object(&ObjectType::new(
            "BlockDirtyBitmap",
            &[
                Member::new("node", ValueType::Str),
                Member::new("name", ValueType::Str),
            ],
        )),
    ],
};

/// Opens what `--export nbd` describes.
fn open(new: NewExport, options: &mut Options) -> Result<Arc<dyn Exported>> {
    if !server::is_running() {
        return Err(not_running());
    }
    let name = options.take_str("name")?;
    let name = name.unwrap_or_else(|| new.node.name().to_owned());
    check_len("export name", &name)?;
    let description = options.take_str("description")?;
    if let Some(description) = &description {
        check_len("description", description)?;
    }
    let held = bitmaps::take(options, &new.node, new.writable)?;
    let shown = held.iter().map(|hold| Arc::clone(hold.bitmap()));
    let depth = options.take_bool("allocation-depth")?.unwrap_or(false);
    let seen = OfferedAs {
        name,
        description,
        contexts: StatusContexts::of_export(depth, shown.collect()),
    };
    Ok(Arc::new(ExportedOffer(NbdOffer::open(new, seen, held)?)))
}

pub(super) fn not_running() -> Error {
    invalid("NBD server not running".to_owned())
}

fn check_len(what: &str, text: &str) -> Result<()> {
    match text.len() > MAX_STRING {
        true => Err(invalid(format!("{what} '{text}' too long"))),
        false => Ok(()),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
