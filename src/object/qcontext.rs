//! The context as an object.
#![forbid(unsafe_code)]

use super::{Object, Options, Property, Value, not_found, not_writable};
use crate::{QContext, Result};

/// The type's name.
pub(super) const TYPE: &str = "qcontext";

/// What `-object qcontext` takes besides `id`.
pub(super) const OPTIONS: [(&str, &str); 1] = [("threaded", "bool")];

/// What `qom-list` shows; `thread-id` is answered as well, but not listed.
pub(super) fn properties() -> Vec<Property> {
    let all = [
        ("type", "string"),
        ("id", "string"),
        ("threaded", "bool"),
        ("thread_id", "int"),
    ];
    all.into_iter()
        .map(|(name, type_name)| Property::new(name, type_name))
        .collect()
}

/// Creates `/objects/<id>` from what is left of `options`; it lasts until it is deleted.
pub(super) fn create(id: &str, mut options: Options) -> Result<()> {
    let threaded = options.take_bool("threaded")?.unwrap_or(false);
    options.finish()?;
    QContext::new(id, threaded)?.keep();
    Ok(())
}

impl Object for QContext {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn properties(&self) -> Vec<Property> {
        properties()
    }

    fn get(&self, name: &str) -> Result<Value> {
        Ok(match name {
            "type" => TYPE.into(),
            "id" => self.id().into(),
            "threaded" => self.is_threaded().into(),
            "thread_id" | "thread-id" => self.thread_id().into(),
            _ => return Err(not_found(TYPE, name)),
        })
    }

    fn set(&self, name: &str, _: Value) -> Result<()> {
        self.get(name)?;
        Err(not_writable(TYPE, name))
    }
}
