//! The trait of objects, and their properties.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::Value;
use crate::{Error, ErrorKind, Result};

/// The name and type of a property, as `qom-list` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// The property's name.
    pub name: Cow<'static, str>,
    /// The property's type as QOM spells it: `int`, `bool`, `string`, `child<qcontext>`.
    pub type_name: Cow<'static, str>,
}

impl Property {
    /// A property of that name and type.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        type_name: impl Into<Cow<'static, str>>,
    ) -> Property {
        Property {
            name: name.into(),
            type_name: type_name.into(),
        }
    }
}

/// An object in the tree.
///
/// Any thread may call any method. `type` is among the properties of every object.
pub trait Object: Send + Sync {
    /// The name of the object's type.
    fn type_name(&self) -> &'static str;

    /// The properties that are listed, `type` first.
    fn properties(&self) -> Vec<Property>;

    /// The value of a property.
    ///
    /// # Errors
    /// [`not_found`], or the value cannot be read.
    fn get(&self, name: &str) -> Result<Value>;

    /// Changes a property.
    ///
    /// # Errors
    /// [`not_found`], [`not_writable`], [`expected`], or the value is refused.
    fn set(&self, name: &str, value: Value) -> Result<()>;

    /// Prepares the object's end, for `object-del`. Only objects that `-object` creates are deleted.
    ///
    /// # Errors
    /// The object is in use. It stays then.
    fn retire(&self) -> Result<()> {
        Ok(())
    }
}

/// `Property 'qcontext.nosuch' not found`
pub fn not_found(type_name: &str, property: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("Property '{type_name}.{property}' not found"),
    )
}

/// `Property 'qcontext.id' is not writable`
pub fn not_writable(type_name: &str, property: &str) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("Property '{type_name}.{property}' is not writable"),
    )
}

/// `Invalid parameter type for 'path', expected: string`
pub fn expected(parameter: &str, type_name: &str) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("Invalid parameter type for '{parameter}', expected: {type_name}"),
    )
}
