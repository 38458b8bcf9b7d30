//! What `--export` and `block-export-add` take. Names, order and error texts are QEMU's.
#![forbid(unsafe_code)]

use super::fuse::FUSE;
use super::kind::{ExportType, NewExport};
use super::nbd::NBD;
use super::vhost_user_blk::VHOST_USER_BLK;
use crate::block::Node;
use crate::object::Options;
use crate::schema::{self, Case, Member, ObjectType, ValueType, Variants};
use crate::{Error, ErrorKind, QContext, Result};

const TYPES: [&ExportType; 3] = [&NBD, &VHOST_USER_BLK, &FUSE];

/// What describes an export.
pub static EXPORT_OPTIONS: ObjectType = ObjectType::tagged(
    "BlockExportOptions",
    &[
        Member::new("id", ValueType::Str),
        Member::optional("fixed-iothread", ValueType::Bool),
        Member::optional("iothread", ValueType::Str),
        Member::new("node-name", ValueType::Str),
        Member::optional("writable", ValueType::Bool),
        Member::optional("writethrough", ValueType::Bool),
        Member::optional("allow-inactive", ValueType::Bool),
    ],
    Variants {
        tag: "type",
        tag_type: "BlockExportType",
        cases: || {
            let case = |one: &&ExportType| Case::new(one.name, one.members);
            TYPES.iter().map(case).collect()
        },
    },
);

/// An export to be made.
pub(super) struct WantedExport {
    pub(super) kind: &'static ExportType,
    pub(super) id: String,
    /// The options that are not read yet.
    rest: Options,
}

impl WantedExport {
    /// Checks the types of the options, and takes what does not depend on anything else.
    pub(super) fn check(options: Options) -> Result<WantedExport> {
        let mut options = schema::check(&EXPORT_OPTIONS, options)?;
        let name = options.need_str("type")?;
        let kind = TYPES.iter().find(|kind| kind.name == name);
        let kind = kind.ok_or_else(|| invalid("Parameter 'type' is not that of an export"))?;
        let id = options
            .need_id()
            .map_err(|_| invalid("Invalid block export id"))?;
        // Exports stay on their context, and nodes are always active.
        options.take("fixed-iothread");
        options.take("allow-inactive");
        Ok(WantedExport {
            kind,
            id,
            rest: options,
        })
    }

    /// Finds what the options name. What is left are the options of the type.
    pub(super) fn resolve(self) -> Result<(&'static ExportType, NewExport, Options)> {
        let mut rest = self.rest;
        let node = Node::find_by_node_name(&rest.need_str("node-name")?)?;
        let context = match rest.take_str("iothread")? {
            Some(name) => Some(find_context(&name)?),
            None => None,
        };
        let writable = rest.take_bool("writable")?.unwrap_or(false);
        if writable && node.is_read_only() {
            return Err(invalid("Cannot export read-only node as writable"));
        }
        if rest.take_bool("writethrough")?.unwrap_or(false) {
            let message = "writethrough=on is not supported: the client decides when to flush";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let new = NewExport {
            id: self.id,
            node,
            writable,
            context,
        };
        Ok((self.kind, new, rest))
    }
}

fn find_context(name: &str) -> Result<QContext> {
    QContext::find(name).map_err(|_| {
        let message = format!("iothread \"{name}\" not found");
        Error::new(ErrorKind::NotFound, message)
    })
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
