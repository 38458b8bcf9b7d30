//! The object layer: what has a name, a type and properties, and how people spell them.
//!
//! Contexts are objects under `/objects`, devices under `/machine/peripheral`. The monitor and the command line read
//! and change them through [`tree`]; [`options`] is the one place that knows option strings; [`types`] knows what can
//! be created by `-object` and `object-add`.
//!
//! # Threads
//! Everything here may be called from any thread. No lock of this module is held while an object's code runs.
#![forbid(unsafe_code)]

pub mod options;
mod property;
mod qcontext;
pub mod tree;
pub mod types;

pub use crate::value::{Dict, Value};
pub use options::Options;
pub use property::{Object, Property, expected, not_found, not_writable};

use crate::{Error, ErrorKind, Result};
use std::sync::Arc;

/// Creates the object that `options` describe: `qom-type` and `id` are mandatory, the rest is the type's. Answers the object
/// that was made, also if it was deleted meanwhile.
///
/// # Errors
/// An unknown type or option, a bad or taken id, or what creating the object answers; nothing is left behind.
pub fn object_add(mut options: Options) -> Result<Arc<dyn Object>> {
    let name = options.need_str("qom-type")?;
    let create = types::find(&name)
        .and_then(|found| found.create)
        .ok_or_else(|| unknown_type(&name))?;
    let id = options.need_id()?;
    create(&id, options)
}

/// `Parameter 'qom-type' does not accept value 'nosuch'`
fn unknown_type(name: &str) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("Parameter 'qom-type' does not accept value '{name}'"),
    )
}

/// Deletes the object `/objects/<id>`.
///
/// # Errors
/// `object 'x' not found`, or that it is in use.
pub fn object_del(id: &str) -> Result<()> {
    crate::QContext::delete(id)
}
