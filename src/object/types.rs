//! The types that exist, for `qom-list-types`, `qom-list-properties` and `object-add`.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use super::{Object, Options, Property, qcontext};
use crate::Result;

/// Creates an object of a type from its id and its other options.
pub type Create = fn(id: &str, options: Options) -> Result<Arc<dyn Object>>;

/// A type of object.
#[derive(Clone, Debug)]
pub struct Type {
    /// The type's name.
    pub name: &'static str,
    /// The type it is a kind of; `object` at the top.
    pub parent: &'static str,
    /// The properties its objects have.
    pub properties: Vec<Property>,
    /// The options that creating one takes besides `id`, with their types.
    pub options: Vec<(&'static str, &'static str)>,
    /// How `-object` and `object-add` make one, if they can.
    pub create: Option<Create>,
}

fn container() -> Type {
    Type {
        name: "container",
        parent: "object",
        properties: vec![Property::new("type", "string")],
        options: Vec::new(),
        create: None,
    }
}

fn qcontext() -> Type {
    Type {
        name: qcontext::TYPE,
        parent: "object",
        properties: qcontext::properties(),
        options: qcontext::OPTIONS.to_vec(),
        create: Some(qcontext::create),
    }
}

static TYPES: Mutex<Vec<Type>> = Mutex::new(Vec::new());

/// Makes a type known; a device model does so before it is used. The last one of a name counts.
pub fn register(new: Type) {
    let mut types = TYPES.lock().unwrap_or_else(PoisonError::into_inner);
    types.retain(|old| old.name != new.name);
    types.push(new);
}

/// All types.
pub fn list() -> Vec<Type> {
    let mut types = vec![container(), qcontext()];
    types.extend_from_slice(&TYPES.lock().unwrap_or_else(PoisonError::into_inner));
    types
}

/// The type of that name.
pub fn find(name: &str) -> Option<Type> {
    list().into_iter().find(|known| known.name == name)
}

/// The types that are `name` or a kind of it.
pub fn implementing(name: &str) -> Vec<Type> {
    let types = list();
    let is_a = |one: &&Type| ancestry(&types, one.name).any(|ancestor| ancestor == name);
    types.iter().filter(is_a).cloned().collect()
}

fn ancestry(types: &[Type], start: &'static str) -> impl Iterator<Item = &'static str> {
    let parent_of = move |name: &&'static str| {
        types
            .iter()
            .find(|known| known.name == *name)
            .map(|known| known.parent)
    };
    // A registered type may name itself its ancestor; the walk ends all the same.
    std::iter::successors(Some(start), parent_of).take(types.len() + 1)
}
