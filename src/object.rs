//! Objects: things with a name, a type and properties, and the option strings that describe them.
//!
//! Contexts are objects under `/objects`, devices are objects under `/machine/peripheral`. The monitor and the command line
//! read and change them through [`tree`]. [`options`] parses option strings. [`types`] lists the types, and creates objects
//! for `-object` and `object-add`.
//!
//! # Threads
//! Any thread may call these functions. No lock of this module is held while an object's code runs.
#![forbid(unsafe_code)]

mod cpus;
pub mod options;
mod property;
mod qcontext;
pub mod tree;
// For `-object help` of `qctx`.
#[doc(hidden)]
pub mod types;

#[cfg(feature = "kvm")]
pub(crate) use self::cpus::{AFFINITY, AFFINITY_TYPE, cpu_list, cpus_of};
pub use crate::value::{Dict, Value};
pub use options::Options;
pub use property::{Object, Property, expected, not_found, not_writable};

use crate::{Error, ErrorKind, Result};
use std::sync::Arc;

/// Creates the object that `options` describe. `qom-type` and `id` are mandatory, the others depend on the type. Returns the
/// object, even if another thread has deleted it by then.
///
/// # Errors
/// An unknown type or option, a bad or taken id, or the error of the type's constructor. Nothing is created then.
pub fn object_add(mut options: Options) -> Result<Arc<dyn Object>> {
    let name = options.need_str("qom-type")?;
    let create = types::find(&name)
        .and_then(|found| found.create)
        .ok_or_else(|| options::unknown_type(&name))?;
    let id = options.need_id()?;
    create(&id, options)
}

/// Deletes the object `/objects/<id>`.
///
/// # Errors
/// `object 'x' not found`, or the object is in use.
pub fn object_del(id: &str) -> Result<()> {
    match crate::QContext::delete(id) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        done => return done,
    }
    match tree::remove_object(id)? {
        Some(removed) => drop(removed),
        None => return Err(not_an_object(id)),
    }
    Ok(())
}

/// `object 'x' not found`
fn not_an_object(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("object '{id}' not found"))
}
