//! How much space a new image takes at once.
#![forbid(unsafe_code)]

use crate::Result;
use crate::object::Options;
use crate::schema::EnumType;

/// How much space is taken at once before anyone writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preallocation {
    /// None.
    Off,
    /// For the tables of an image, and addresses for its data.
    Metadata,
    /// Without writing.
    Falloc,
    /// By writing zeroes.
    Full,
}

/// The option's values.
pub(super) const PREALLOCATION: EnumType =
    EnumType::new("PreallocMode", &["off", "metadata", "falloc", "full"]);

impl Preallocation {
    /// Takes the option.
    pub(super) fn take(options: &mut Options) -> Result<Preallocation> {
        Ok(match options.take_str("preallocation")?.as_deref() {
            Some("metadata") => Preallocation::Metadata,
            Some("falloc") => Preallocation::Falloc,
            Some("full") => Preallocation::Full,
            _ => Preallocation::Off,
        })
    }
}
