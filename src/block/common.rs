//! The options that nodes of all drivers have.
//!
//! Names and defaults are QEMU's, with one exception: discards reach the storage unless `discard=ignore` says otherwise.
#![forbid(unsafe_code)]

use crate::object::options::check_id;
use crate::object::{Dict, Options, Value};
use crate::schema::{EnumType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result};

static CACHE: ObjectType = ObjectType::new(
    "BlockdevCacheOptions",
    &[
        Member::optional("direct", ValueType::Bool),
        Member::optional("no-flush", ValueType::Bool),
    ],
);

const DISCARD: EnumType = EnumType::new("BlockdevDiscardOptions", &["ignore", "unmap"]);
const DETECT_ZEROES: EnumType =
    EnumType::new("BlockdevDetectZeroesOptions", &["off", "on", "unmap"]);

/// The members of every `BlockdevOptions` besides `driver`.
pub(super) const MEMBERS: [Member; 7] = [
    Member::optional("node-name", ValueType::Str),
    Member::optional("discard", ValueType::Enum(DISCARD)),
    Member::optional("cache", ValueType::Object(&CACHE)),
    Member::optional("read-only", ValueType::Bool),
    Member::optional("auto-read-only", ValueType::Bool),
    Member::optional("force-share", ValueType::Bool),
    Member::optional("detect-zeroes", ValueType::Enum(DETECT_ZEROES)),
];

/// What a node's options say about every node. `None` stands for an option that is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CommonOptions {
    pub(super) read_only: Option<bool>,
    pub(super) auto_read_only: Option<bool>,
    /// `cache.direct`
    pub(super) direct: Option<bool>,
    /// False for `discard=ignore`.
    pub(super) discard: Option<bool>,
    pub(super) force_share: Option<bool>,
    pub(super) detect_zeroes: DetectZeroes,
}

/// What becomes of writes that are all zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// They are writes as all others.
    #[default]
    Off,
    /// They are written as zeroes.
    On,
    /// They are written as zeroes and may become holes.
    Unmap,
}

impl DetectZeroes {
    fn take(keys: &mut Options) -> Result<DetectZeroes> {
        let mode = keys.take_str("detect-zeroes")?;
        let modes = [DetectZeroes::Off, DetectZeroes::On, DetectZeroes::Unmap];
        let Some(mode) = mode else {
            return Ok(DetectZeroes::Off);
        };
        let named = modes.into_iter().find(|known| known.name() == mode);
        named.ok_or_else(|| {
            let message = format!("Invalid parameter '{mode}'");
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }

    /// The name in options.
    pub fn name(self) -> &'static str {
        match self {
            DetectZeroes::Off => "off",
            DetectZeroes::On => "on",
            DetectZeroes::Unmap => "unmap",
        }
    }
}

impl CommonOptions {
    /// Takes them out of a node's options.
    ///
    /// # Errors
    /// A value that is not what is expected, or that is not supported.
    pub(super) fn take(keys: &mut Options) -> Result<CommonOptions> {
        if keys.take_bool("cache.no-flush")?.unwrap_or(false) {
            return Err(unsafe_cache("cache.no-flush=on"));
        }
        let detect_zeroes = DetectZeroes::take(keys)?;
        let discard = match keys.take_str("discard")?.as_deref() {
            None => None,
            Some("unmap" | "on") => Some(true),
            Some("ignore" | "off") => Some(false),
            Some(_) => return Err(invalid("Invalid discard option")),
        };
        let common = CommonOptions {
            read_only: keys.take_bool("read-only")?,
            auto_read_only: keys.take_bool("auto-read-only")?,
            direct: keys.take_bool("cache.direct")?,
            discard,
            force_share: keys.take_bool("force-share")?,
            detect_zeroes,
        };
        if detect_zeroes == DetectZeroes::Unmap && discard != Some(true) {
            return Err(invalid(
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
            ));
        }
        if common.force_share == Some(true) && common.read_only != Some(true) {
            return Err(invalid(
                "force-share=on can only be used with read-only images",
            ));
        }
        Ok(common)
    }

    /// As they are given in options.
    pub(super) fn to_dict(&self) -> Dict {
        let mut given: Dict = self.passed_on().into_iter().collect();
        given.extend(self.own_of_file());
        if self.detect_zeroes != DetectZeroes::Off {
            given.push(("detect-zeroes".to_owned(), self.detect_zeroes.name().into()));
        }
        given
    }

    /// Those of the file of a drive that has these.
    pub(super) fn of_file(&self) -> CommonOptions {
        CommonOptions {
            detect_zeroes: DetectZeroes::Off,
            ..self.clone()
        }
    }

    /// Those that the file of a drive does not take over from the node above it.
    pub(super) fn own_of_file(&self) -> Option<(String, Value)> {
        let value = if self.discard? { "unmap" } else { "ignore" };
        Some(("discard".to_owned(), value.into()))
    }

    /// Passes on to a child that is described in place what its own options leave open.
    pub(super) fn pass_on(&self, child: &mut Options) {
        for (name, value) in self.passed_on() {
            child.set_default(&name, value);
        }
    }

    fn passed_on(&self) -> Vec<(String, Value)> {
        let passed = [
            ("read-only", self.read_only),
            ("auto-read-only", self.auto_read_only),
            ("cache.direct", self.direct),
            ("force-share", self.force_share),
        ];
        let given = passed.into_iter();
        given
            .filter_map(|(name, value)| Some((name.to_owned(), Value::Bool(value?))))
            .collect()
    }
}

/// The longest name of a node, in bytes. It is QEMU's.
const NAME_LEN: usize = 31;

/// Checks a name that options give to a node.
///
/// # Errors
/// It is too long or not an identifier.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.len() > NAME_LEN {
        return Err(invalid("Node name too long"));
    }
    check_id(name, "node-name").map_err(|_| {
        let message = format!("Invalid node-name: '{name}'");
        Error::new(ErrorKind::InvalidArgument, message)
    })
}

/// Another node has that name.
pub(super) fn duplicate_node(name: &str) -> Error {
    let message = format!("Duplicate nodes with node-name='{name}'");
    Error::new(ErrorKind::AlreadyExists, message)
}

/// A way to lose what a guest has flushed.
pub(super) fn unsafe_cache(option: &str) -> Error {
    let message = format!("{option} is not supported: a flush always reaches the file");
    Error::new(ErrorKind::Unsupported, message)
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
