//! The types of objects, for `qom-list-types`, `qom-list-properties` and `object-add`.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use super::{Object, Options, Property, qcontext};
use crate::Result;
use crate::schema::ObjectType;

/// The constructor of a type. It receives the id and the other options.
pub type Create = fn(id: &str, options: Options) -> Result<Arc<dyn Object>>;

/// A type of object.
#[derive(Clone, Debug)]
pub struct Type {
    /// The type's name.
    pub name: &'static str,
    /// Its parent type. The topmost type is `object`.
    pub parent: &'static str,
    /// The properties of its objects.
    pub properties: Vec<Property>,
    /// The constructor's options besides `id`, with their types.
    pub options: Vec<(&'static str, &'static str)>,
    /// Those of the options' types that are objects.
    pub option_types: &'static [&'static ObjectType],
    /// The constructor for `-object` and `object-add`, if they may create such objects.
    pub create: Option<Create>,
}

fn container() -> Type {
    Type {
        name: "container",
        parent: "object",
        properties: vec![Property::new("type", "string")],
        options: Vec::new(),
        option_types: &[],
        create: None,
    }
}

fn qcontext() -> Type {
    Type {
        name: qcontext::TYPE,
        parent: "object",
        properties: qcontext::properties(),
        options: qcontext::OPTIONS.to_vec(),
        option_types: &[],
        create: Some(qcontext::create),
    }
}

/// QEMU's event loop, which is a context with a thread.
fn iothread() -> Type {
    Type {
        name: qcontext::IOTHREAD,
        parent: "object",
        properties: qcontext::properties(),
        options: qcontext::IOTHREAD_OPTIONS.to_vec(),
        option_types: &[],
        create: Some(qcontext::create_iothread),
    }
}

static TYPES: Mutex<Vec<Type>> = Mutex::new(Vec::new());

/// Adds a type. A device model calls this before its first use. A type of the same name is replaced.
pub fn register(new: Type) {
    let mut types = TYPES.lock().unwrap_or_else(PoisonError::into_inner);
    types.retain(|old| old.name != new.name);
    types.push(new);
}

/// All types.
pub fn list() -> Vec<Type> {
    let mut types = vec![container(), qcontext(), iothread()];
    types.extend_from_slice(&TYPES.lock().unwrap_or_else(PoisonError::into_inner));
    types
}

/// The type of that name.
pub fn find(name: &str) -> Option<Type> {
    list().into_iter().find(|known| known.name == name)
}

/// The type `name` and all types below it.
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
