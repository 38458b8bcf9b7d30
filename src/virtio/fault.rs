//! What goes wrong with a device, from where it is noticed to the owner of the device.
//!
//! A guest sees its request fail and its queue stop; the people who run the host do not. So queue workers, models and
//! transports report every failure here. The owner of the device watches it, and shows what it hears of.
//!
//! # Threads
//! Any thread reports, also with locks held: a watcher neither blocks nor calls foreign code.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::object::Dict;
use crate::schema::EventType;

/// Something that keeps a device or a queue from serving its driver, or a front end that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFault {
    /// The queue, if it is about one.
    pub queue: Option<u16>,
    /// What has happened and why.
    pub reason: String,
}

/// A request that failed, though the queue is not broken.
#[derive(Clone, Debug)]
pub struct RequestFailure {
    /// The queue from which it came.
    pub queue: u16,
    /// What was asked for and why it failed.
    pub reason: String,
    /// The event for management, if the host is the cause. Its data are without the device's path.
    pub event: Option<(&'static EventType, Dict)>,
    /// The request is kept and the guest is to be stopped until somebody lets it go on; then the request is repeated. The status
    /// that the device has until then.
    pub stops: Option<IoStatus>,
}

/// Whether requests of a device wait because they failed, with QEMU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoStatus {
    /// None waits.
    #[default]
    Ok,
    /// Some do, because there is no space.
    NoSpace,
    /// Some do, for another reason.
    Failed,
}

impl IoStatus {
    /// QEMU's name of it.
    pub fn name(self) -> &'static str {
        match self {
            IoStatus::Ok => "ok",
            IoStatus::NoSpace => "nospace",
            IoStatus::Failed => "failed",
        }
    }
}

/// The owner of a device, which hears what goes wrong with it.
pub trait FaultWatcher: Send + Sync {
    /// The device or a queue does not serve its driver.
    fn broken(&self, fault: DeviceFault);

    /// A request failed.
    fn request_failed(&self, failure: RequestFailure);
}

/// The way of reports to the watcher of a device. Clones are the same one.
#[derive(Clone, Default)]
pub struct FaultReporter(Arc<Mutex<Option<Weak<dyn FaultWatcher>>>>);

impl FaultReporter {
    /// From now on `watcher` hears of failures, in place of an earlier one.
    pub fn set_watcher(&self, watcher: Weak<dyn FaultWatcher>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
    }

    /// Reports that the device or a queue does not serve its driver.
    pub fn broken(&self, fault: DeviceFault) {
        if let Some(watcher) = self.watcher() {
            watcher.broken(fault);
        }
    }

    /// Reports a failed request, which is described if there is a watcher.
    pub fn request_failed(&self, describe: impl FnOnce() -> RequestFailure) {
        if let Some(watcher) = self.watcher() {
            watcher.request_failed(describe());
        }
    }

    /// Whether somebody hears of failures, who can stop the guest and let it go on.
    pub fn is_watched(&self) -> bool {
        self.watcher().is_some()
    }

    fn watcher(&self) -> Option<Arc<dyn FaultWatcher>> {
        let watcher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watcher.as_ref().and_then(Weak::upgrade)
    }
}

impl fmt::Debug for FaultReporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultReporter").finish_non_exhaustive()
    }
}
