//! The device models that `-device` finds by name.
//!
//! A program registers those that it offers, once, before it reads options.
#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use super::{object, options};
use crate::object::types::{self, Type};
use crate::virtio::pluggable::ModelType;
use crate::{Error, ErrorKind, Result};

static MODELS: Mutex<Vec<&'static ModelType>> = Mutex::new(Vec::new());

/// Makes a device model known to `-device`, `device_add`, `-device help`, `qom-list-types` and `qom-list-properties`. The last
/// one of a name counts.
pub fn register(model: &'static ModelType) {
    types::register(Type {
        name: model.name,
        parent: "device",
        properties: object::properties(model),
        options: options::options(model),
        option_types: &[],
        create: None,
    });
    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    models.retain(|known| known.name != model.name);
    models.push(model);
}

/// The model of that name.
///
/// # Errors
/// None was registered.
pub(super) fn find(name: &str) -> Result<&'static ModelType> {
    let models = MODELS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let found = models.into_iter().find(|model| model.name == name);
    found.ok_or_else(|| {
        let message = format!("'{name}' is not a valid device model name");
        Error::new(ErrorKind::InvalidArgument, message)
    })
}
