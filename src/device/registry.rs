//! Which devices there are, by id.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Device;
use crate::{Error, ErrorKind, Result};

/// One name, and the device once it is complete.
struct Entry {
    id: String,
    device: Option<Arc<Device>>,
}

static REGISTRY: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// An id that is taken; free again when dropped.
pub(super) struct Reservation(String);

impl Reservation {
    /// Takes an id.
    ///
    /// # Errors
    /// It is taken.
    pub(super) fn new(id: &str) -> Result<Reservation> {
        let mut entries = lock();
        if entries.iter().any(|entry| entry.id == id) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("Duplicate device ID '{id}'"),
            ));
        }
        entries.push(Entry {
            id: id.to_string(),
            device: None,
        });
        drop(entries);
        Ok(Reservation(id.to_string()))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut entries = lock();
        let index = entries.iter().position(|entry| entry.id == self.0);
        let gone = index.map(|index| entries.remove(index));
        drop(entries);
        // Outside of the lock: it may be the last reference.
        drop(gone);
    }
}

/// Shows a device under the id that was reserved for it.
pub(super) fn complete(device: &Arc<Device>) {
    let mut entries = lock();
    if let Some(entry) = entries.iter_mut().find(|entry| entry.id == device.id()) {
        entry.device = Some(Arc::clone(device));
    }
}

pub(super) fn find(id: &str) -> Option<Arc<Device>> {
    lock()
        .iter()
        .find(|entry| entry.id == id)
        .and_then(|entry| entry.device.clone())
}

pub(super) fn list() -> Vec<Arc<Device>> {
    lock()
        .iter()
        .filter_map(|entry| entry.device.clone())
        .collect()
}

fn lock() -> MutexGuard<'static, Vec<Entry>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}
