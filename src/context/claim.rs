//! A device's use of a context.
#![forbid(unsafe_code)]

use super::{ContextCore, QContext, lock};
use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::sync::Arc;

/// Proof that a device uses a context. The context cannot be deleted while it exists.
pub struct ContextClaim {
    core: Arc<ContextCore>,
    device: String,
}

impl QContext {
    /// Records that `device` uses this context.
    ///
    /// # Errors
    /// `Closed` when the context has been deleted.
    pub fn claim(&self, device: &str) -> Result<ContextClaim> {
        match &mut *lock(&self.core().devices) {
            Some(devices) => devices.push(device.to_owned()),
            None => return Err(self.core().closed()),
        }
        Ok(ContextClaim {
            core: Arc::clone(self.core()),
            device: device.to_owned(),
        })
    }
}

impl ContextCore {
    /// Refuses new claims, if no device holds one.
    pub(super) fn close_to_devices(&self) -> Result<()> {
        let mut devices = lock(&self.devices);
        let holder = devices.as_ref().and_then(|devices| devices.first());
        if let Some(device) = holder {
            let id = &self.id;
            let message =
                format!("object '{id}' is in use by device '{device}', can not be deleted");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        *devices = None;
        drop(devices);
        Ok(())
    }
}

impl Drop for ContextClaim {
    fn drop(&mut self) {
        if let Some(devices) = &mut *lock(&self.core.devices)
            && let Some(index) = devices.iter().position(|device| *device == self.device)
        {
            devices.swap_remove(index);
        }
    }
}

impl fmt::Debug for ContextClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextClaim")
            .field("context", &self.core.id)
            .field("device", &self.device)
            .finish()
    }
}
