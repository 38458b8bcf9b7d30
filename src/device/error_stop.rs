//! The stop of a guest whose request failed, and its end: `werror=stop` and `werror=enospc`.
//!
//! A machine of this process stops as a whole. Beside it, and where there is none, the machine is another process's, which runs on; so
//! the device takes no more requests. Either lasts until somebody lets the guest go on, who has made space for example. Then the queues
//! repeat what has failed.
#![forbid(unsafe_code)]

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::virtio::fault::IoStatus;
use crate::virtio::pluggable::PluggableDevice;

/// Stops the machine that the device is part of, soon. Any thread may call it.
type StopMachine = Arc<dyn Fn() + Send + Sync>;

/// See the head of this file.
pub(super) struct ErrorStop {
    device: Weak<dyn PluggableDevice>,
    /// Set if the device is part of a machine.
    machine: OnceLock<StopMachine>,
    /// Locked also while the device is held and released, so that both are in order. Never taken with a queue's lock held.
    state: Mutex<StopState>,
}

#[derive(Default)]
struct StopState {
    status: IoStatus,
    /// The device is held.
    is_held: bool,
}

impl ErrorStop {
    /// Failed requests stop the queues of `device`.
    pub(super) fn new(device: &Arc<dyn PluggableDevice>) -> ErrorStop {
        ErrorStop {
            device: Arc::downgrade(device),
            machine: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    /// Failed requests stop the machine.
    #[cfg(feature = "kvm")]
    pub(super) fn set_machine(&self, stop: StopMachine) {
        // Once, when the device joins its machine.
        let _ = self.machine.set(stop);
    }

    /// What is stopped, for messages. Takes no lock.
    pub(super) fn describe(&self) -> &'static str {
        match self.machine.get() {
            None => "the device takes no more requests until 'cont'",
            Some(_) => "the machine stops until 'cont'",
        }
    }

    /// Whether requests wait. The first error counts.
    pub(super) fn status(&self) -> IoStatus {
        self.lock().status
    }

    /// Notes why requests wait, and holds a device that is part of no machine.
    pub(super) fn begin(&self, status: IoStatus) {
        let mut state = self.lock();
        if state.status == IoStatus::Ok {
            state.status = status;
        }
        if self.machine.get().is_none()
            && !mem::replace(&mut state.is_held, true)
            && let Some(device) = self.device.upgrade()
        {
            device.hold(Box::new(|| ()));
        }
    }

    /// Stops the machine, after [`ErrorStop::begin`] and after the event that says why.
    pub(super) fn stop_machine(&self) {
        if let Some(stop) = self.machine.get() {
            stop();
        }
    }

    /// Lets the device go on. A machine has to go on by itself.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.status = IoStatus::Ok;
        if mem::take(&mut state.is_held)
            && let Some(device) = self.device.upgrade()
        {
            device.release();
        }
    }

    /// What is behind it is consistent after every single step.
    fn lock(&self) -> MutexGuard<'_, StopState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
