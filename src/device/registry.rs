//! Which devices there are, by id.
//!
//! An id is reserved before anything is made for the device and free again when everything of it is gone, so two devices
//! of one id never exist, not even for a moment.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Device;
use crate::{Error, ErrorKind, Result};

/// A reserved id, and the device once it is complete.
struct NamedDevice {
    id: String,
    device: Option<Arc<Device>>,
}

static REGISTRY: Mutex<Vec<NamedDevice>> = Mutex::new(Vec::new());

/// An id that is taken; free again when dropped.
pub(super) struct IdReservation(String);

impl IdReservation {
    /// Takes an id.
    ///
    /// # Errors
    /// It is taken.
    pub(super) fn new(id: &str) -> Result<IdReservation> {
        let mut devices = lock();
        if devices.iter().any(|named| named.id == id) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("Duplicate device ID '{id}'"),
            ));
        }
        devices.push(NamedDevice {
            id: id.to_string(),
            device: None,
        });
        drop(devices);
        Ok(IdReservation(id.to_string()))
    }
}

impl Drop for IdReservation {
    fn drop(&mut self) {
        let mut devices = lock();
        let index = devices.iter().position(|named| named.id == self.0);
        let removed = index.map(|index| devices.remove(index));
        drop(devices);
        // Outside of the lock: it may be the last reference.
        drop(removed);
    }
}

/// Shows a device under the id that was reserved for it.
pub(super) fn complete(device: &Arc<Device>) {
    let mut devices = lock();
    if let Some(named) = devices.iter_mut().find(|named| named.id == device.id()) {
        named.device = Some(Arc::clone(device));
    }
}

/// The device of that id.
pub(super) fn find(id: &str) -> Option<Arc<Device>> {
    lock()
        .iter()
        .find(|named| named.id == id)
        .and_then(|named| named.device.clone())
}

/// All devices, in the order in which they were made.
pub(super) fn list() -> Vec<Arc<Device>> {
    lock()
        .iter()
        .filter_map(|named| named.device.clone())
        .collect()
}

fn lock() -> MutexGuard<'static, Vec<NamedDevice>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}
