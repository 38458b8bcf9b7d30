//! The object tree: the containers `/`, `/objects`, `/machine`, `/machine/peripheral` and `/machine/cpu` with their objects.
//!
//! Each named context is under `/objects`; the tree asks the registry of contexts. All other objects are added and removed
//! here. As in QOM, a path is absolute (`/objects/ctx1`) or the end of an absolute path (`ctx1`, `peripheral/disk0`).
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use super::{Object, Property, Value, not_found, not_writable};
use crate::{Error, ErrorKind, QContext, Result};

/// The container of devices.
pub const PERIPHERAL: &str = "/machine/peripheral";
/// The container of a machine's processors.
pub(crate) const CPUS: &str = "/machine/cpu";
const OBJECTS: &str = "/objects";

/// All containers, each with the containers in it.
const CONTAINERS: [(&str, &[&str]); 5] = [
    ("/", &["objects", "machine"]),
    (OBJECTS, &[]),
    ("/machine", &["peripheral", "cpu"]),
    (CPUS, &[]),
    (PERIPHERAL, &[]),
];

struct Child {
    path: String,
    object: Arc<dyn Object>,
}

/// Runs `work` on the added objects under their lock. No code of an object may run in it, not even a destructor.
fn with_added<T>(work: impl FnOnce(&mut Vec<Child>) -> T) -> T {
    static ADDED: Mutex<Vec<Child>> = Mutex::new(Vec::new());
    work(&mut ADDED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Adds an object to a container.
///
/// # Errors
/// The parent is not a container, or the name is taken.
pub fn add_child(path: &str, object: Arc<dyn Object>) -> Result<()> {
    let (parent, name) = split(path).ok_or_else(|| no_device(path))?;
    if child(parent, name).is_some() {
        return Err(duplicate(name));
    }
    let refused = insert(Child {
        path: path.to_owned(),
        object,
    });
    refused.map_or(Ok(()), |_| Err(duplicate(name)))
}

/// Adds a child. Returns it if its path is taken, so that the caller drops it without the lock: it may hold the last
/// reference.
fn insert(new: Child) -> Option<Child> {
    with_added(|added| {
        if added.iter().any(|known| known.path == new.path) {
            return Some(new);
        }
        added.push(new);
        None
    })
}

/// Removes an added object from the tree and returns it.
pub fn remove_child(path: &str) -> Option<Arc<dyn Object>> {
    with_added(|added| {
        let index = added.iter().position(|known| known.path == path)?;
        Some(added.remove(index).object)
    })
}

/// Retires an object of `/objects` and removes it. `None` if it was not added there.
///
/// # Errors
/// The object is in use.
pub(super) fn remove_object(id: &str) -> Result<Option<Arc<dyn Object>>> {
    let path = join(OBJECTS, id);
    let find = |added: &mut Vec<Child>| {
        let known = added.iter().find(|known| known.path == path)?;
        Some(Arc::clone(&known.object))
    };
    let Some(object) = with_added(find) else {
        return Ok(None);
    };
    object.retire()?;
    Ok(with_added(|added| {
        let index = added
            .iter()
            .position(|known| Arc::ptr_eq(&known.object, &object))?;
        Some(added.remove(index).object)
    }))
}

/// The properties and children of the object at `path`.
///
/// # Errors
/// The path matches no object, or more than one.
pub fn list(path: &str) -> Result<Vec<Property>> {
    Ok(resolve(path)?.properties())
}

/// A property of the object at `path`.
///
/// # Errors
/// The path matches no single object, or the object's error.
pub fn get(path: &str, property: &str) -> Result<Value> {
    resolve(path)?.get(property)
}

/// Changes a property of the object at `path`.
///
/// # Errors
/// The path matches no single object, or the object's error.
pub fn set(path: &str, property: &str, value: Value) -> Result<()> {
    resolve(path)?.set(property, value)
}

/// The object at `path`.
///
/// # Errors
/// The path matches no object, or more than one.
pub fn resolve(path: &str) -> Result<Arc<dyn Object>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if path.starts_with('/') {
        return absolute(&parts).ok_or_else(|| no_device(path));
    }
    let mut found = partial(&parts);
    match (found.pop(), found.is_empty()) {
        (Some(object), true) => Ok(object),
        (None, _) => Err(no_device(path)),
        _ => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("Path '{path}' is ambiguous"),
        )),
    }
}

fn absolute(parts: &[&str]) -> Option<Arc<dyn Object>> {
    let Some((name, parents)) = parts.split_last() else {
        return Some(Arc::new(Container("/")));
    };
    let parent = format!("/{}", parents.join("/"));
    child(&parent, name)
}

/// All objects whose path ends with `parts`. Without parts, all containers.
fn partial(parts: &[&str]) -> Vec<Arc<dyn Object>> {
    let containers = CONTAINERS.iter().map(|(path, _)| *path);
    containers
        .flat_map(|path| {
            let parents: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            match parts.split_last() {
                None => vec![Arc::new(Container(path)) as Arc<dyn Object>],
                Some((name, rest)) if parents.ends_with(rest) => {
                    child(path, name).into_iter().collect()
                }
                Some(_) => Vec::new(),
            }
        })
        .collect()
}

/// The child `name` of the container at `parent`.
fn child(parent: &str, name: &str) -> Option<Arc<dyn Object>> {
    let path = join(parent, name);
    if let Some((known, _)) = CONTAINERS.iter().find(|(known, _)| *known == path) {
        return Some(Arc::new(Container(known)));
    }
    if parent == OBJECTS
        && let Ok(context) = QContext::find(name)
    {
        return Some(Arc::new(context));
    }
    with_added(|added| {
        let known = added.iter().find(|known| known.path == path);
        known.map(|known| known.object.clone())
    })
}

/// The children of the container at `parent`, with their names.
fn children(parent: &str) -> Vec<(String, Arc<dyn Object>)> {
    let contexts = (parent == OBJECTS).then(QContext::list).unwrap_or_default();
    let contexts = contexts.into_iter().map(|context| {
        let id = context.id().to_owned();
        (id, Arc::new(context) as Arc<dyn Object>)
    });
    let fixed = CONTAINERS.iter().find(|(path, _)| *path == parent);
    let fixed = fixed.map_or(&[][..], |(_, names)| names).iter();
    let fixed = fixed.filter_map(|name| Some(((*name).to_owned(), child(parent, name)?)));
    fixed.chain(contexts).chain(added(parent)).collect()
}

fn added(parent: &str) -> Vec<(String, Arc<dyn Object>)> {
    let below = |known: &Child| {
        let (its_parent, name) = split(&known.path)?;
        (its_parent == parent).then(|| (name.to_owned(), known.object.clone()))
    };
    with_added(|added| added.iter().filter_map(below).collect())
}

/// Parent and name. `None` if the parent is not a container or the name is empty.
fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    let parent = if parent.is_empty() { "/" } else { parent };
    let known = CONTAINERS.iter().any(|(container, _)| *container == parent);
    (known && !name.is_empty()).then_some((parent, name))
}

fn join(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

/// `Device '/objects/nosuch' not found`
fn no_device(path: &str) -> Error {
    Error::new(
        ErrorKind::DeviceNotFound,
        format!("Device '{path}' not found"),
    )
}

/// `attempt to add duplicate property 'ctx1' to object (type 'container')`
fn duplicate(name: &str) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("attempt to add duplicate property '{name}' to object (type 'container')"),
    )
}

/// One of [`CONTAINERS`].
struct Container(&'static str);

const CONTAINER: &str = "container";

impl Object for Container {
    fn type_name(&self) -> &'static str {
        CONTAINER
    }

    fn properties(&self) -> Vec<Property> {
        let children = children(self.0)
            .into_iter()
            .map(|(name, object)| Property::new(name, format!("child<{}>", object.type_name())));
        std::iter::once(Property::new("type", "string"))
            .chain(children)
            .collect()
    }

    fn get(&self, name: &str) -> Result<Value> {
        match child(self.0, name) {
            _ if name == "type" => Ok(CONTAINER.into()),
            Some(_) => Ok(join(self.0, name).into()),
            None => Err(not_found(CONTAINER, name)),
        }
    }

    fn set(&self, name: &str, _: Value) -> Result<()> {
        self.get(name)?;
        Err(not_writable(CONTAINER, name))
    }
}

#[cfg(test)]
mod tests;
