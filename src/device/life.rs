//! The end of a device, without blocking: the transport stops its queues, the model finishes its work, all parts go.
//!
//! The steps run on the thread of the device's context, each in an iteration of its own, as callers up the stack may still
//! use what the next step frees.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Device, registry};
use crate::object::tree;
use crate::virtio::fault::{DeviceFault, FaultWatcher};
use crate::{Error, ErrorKind, Result};

/// Called once when a device is gone.
pub(super) type GoneCallback = Box<dyn FnOnce() + Send>;

/// How far a device's end has come.
#[derive(Default)]
pub(super) struct Shutdown {
    begun: bool,
    gone: bool,
    callbacks: Vec<GoneCallback>,
}

impl Device {
    /// Ends the device: no front end is served any more, requests in flight are finished, the model finishes its work, the
    /// socket is removed, and when all is gone `done` is called on the context's thread.
    ///
    /// # Errors
    /// `Busy` if the device is being shut down already; `done` is not called then.
    pub fn shutdown(self: &Arc<Self>, done: impl FnOnce() + Send + 'static) -> Result<()> {
        let mut shutdown = self.lock_shutdown();
        if std::mem::replace(&mut shutdown.begun, true) {
            let message = format!("device '{}' is being deleted already", self.id());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        shutdown.callbacks.push(Box::new(done));
        drop(shutdown);
        self.stop_transport();
        Ok(())
    }

    /// Ends all devices, also those whose end has begun, and calls `done` when the last one is gone: on the thread of that
    /// one's context, or at once if there is no device.
    pub fn shutdown_all(done: impl FnOnce() + Send + 'static) {
        let devices = registry::list();
        let left = Arc::new(AtomicUsize::new(devices.len() + 1));
        let done: Arc<Mutex<Option<GoneCallback>>> = Arc::new(Mutex::new(Some(Box::new(done))));
        let one_less = move || {
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
                done.into_iter().for_each(|done| done());
            }
        };
        for device in devices {
            device.join_shutdown(Box::new(one_less.clone()));
        }
        one_less();
    }

    /// Ends the device unless its end has begun, and calls `done` when it is gone.
    fn join_shutdown(self: &Arc<Self>, done: GoneCallback) {
        let mut shutdown = self.lock_shutdown();
        if shutdown.gone {
            drop(shutdown);
            return done();
        }
        shutdown.callbacks.push(done);
        let is_first = !std::mem::replace(&mut shutdown.begun, true);
        drop(shutdown);
        if is_first {
            self.stop_transport();
        }
    }

    fn stop_transport(self: &Arc<Self>) {
        let this = Arc::clone(self);
        if let Some(transport) = self.transport() {
            transport.shutdown(move || this.finish_model());
        }
    }

    /// The transport is down and no request is in flight.
    fn finish_model(self: Arc<Self>) {
        let aio = self.control.clone();
        aio.schedule_oneshot("device-finish", move || {
            let Some(model) = self.parts(|parts| Arc::clone(&parts.model)) else {
                return;
            };
            let control = self.control.clone();
            let finished = move |outcome: Result<()>| {
                if let Err(error) = outcome {
                    self.faults.broken(DeviceFault {
                        queue: None,
                        reason: error.to_string(),
                    });
                }
                self.leave();
            };
            model.finish(&control, Box::new(finished));
        });
    }

    /// Frees the parts outside of the device's own AioContexts, because these are among them.
    fn leave(self: Arc<Self>) {
        let context = self.context.clone();
        let this = Arc::clone(&self);
        if context.invoke(move || this.free()).is_err() {
            // The context is being torn down, so nothing of the device runs any more.
            self.free();
        }
    }

    fn free(&self) {
        self.faults.flush();
        let is_listed = self.parts(|parts| parts.reservation.is_some());
        if is_listed == Some(true) {
            tree::remove_child(&self.path());
        }
        let parts = self.lock().take();
        drop(parts);
        let callbacks = {
            let mut shutdown = self.lock_shutdown();
            shutdown.gone = true;
            std::mem::take(&mut shutdown.callbacks)
        };
        callbacks.into_iter().for_each(|done| done());
    }
}
