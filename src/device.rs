//! What `-device` makes: a model and a transport, tied together under one id and served by one context.
//!
//! Made by the command line and by `device_add`, found again by id, and an object under `/machine/peripheral`. The model says
//! what the device is; this module knows it by `virtio::pluggable` alone. The transport is how the guest reaches it.
//! Each queue has an AioContext of its own and the transport another, the control context; all of them are attached to the
//! context that the device is assigned to, which the device claims, so that the context is not deleted under it.
//!
//! * `models`: the models that `-device` finds by name
//! * `options`: what every device takes
//! * `contexts`: the context and the AioContexts attached to it
//! * `transport`: vhost-user, or the machine of this process; `machine`: stop, continue and reset with that machine
//! * `life`: the end of a device
//! * `faults`, `event`: what goes wrong with it, for those who run the host; `error_stop`: the stop of a guest whose request failed
//! * `object`: its properties
//! * `registry`: devices by id
//!
//! # Threads
//! Devices are made, found and shut down from any thread. Callbacks run on the thread of the device's context.
//!
//! # Invariants
//! 1. An id is reserved before anything is made for a device, and free again when everything of the device is gone.
//! 2. No lock is held while code of other modules runs.
#![forbid(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gsource::AioContext;

use crate::context::ContextClaim;
#[cfg(feature = "kvm")]
use crate::kvm::Board;
use crate::object::Object;
use crate::object::tree::{self, PERIPHERAL};
use crate::unix_socket::ListeningSocket;
use crate::virtio::fault::FaultWatcher;
use crate::virtio::pluggable::PluggableDevice;
use crate::{Error, ErrorKind, QContext, Result};

mod contexts;
mod error_stop;
mod event;
mod faults;
mod life;
#[cfg(feature = "kvm")]
mod machine;
mod models;
mod object;
mod options;
mod registry;
mod transport;

use contexts::AttachedContexts;
pub use event::{DEVICE_FAULT, DeviceEvent, on_event};
use faults::FaultLog;
use life::Shutdown;
pub use models::register;
pub use options::{DeviceOptions, QUEUE_SIZE_MAX, TransportOptions};
use registry::IdReservation;
use transport::{Transport, TransportSetup};

/// A device: its model, its transport and the context that serves it.
pub struct Device {
    options: DeviceOptions,
    context: QContext,
    control: AioContext,
    /// `None` when the device is gone.
    parts: Mutex<Option<DeviceParts>>,
    faults: Arc<FaultLog>,
    shutdown: Mutex<Shutdown>,
}

/// What a device has while it exists. The fields are dropped in this order.
struct DeviceParts {
    transport: Arc<Transport>,
    model: Arc<dyn PluggableDevice>,
    _contexts: AttachedContexts,
    _claim: ContextClaim,
    /// `None` if the device is its owner's alone.
    reservation: Option<IdReservation>,
}

impl Device {
    /// Makes the device that `options` describe. Front ends can connect when this returns.
    ///
    /// # Errors
    /// The id is taken; the context, or what the model needs, does not exist, is in use or cannot serve a device; the socket
    /// cannot be bound. Nothing is left behind then.
    pub fn add(options: DeviceOptions) -> Result<Arc<Device>> {
        Device::add_with(options, |setup| match setup.options.socket() {
            Some(path) => Transport::listen(setup, path),
            None => {
                let what = "there is no machine that takes devices, expected vhost-user=PATH";
                Err(setup.options.error(ErrorKind::InvalidArgument, what))
            }
        })
    }

    /// Makes the device that `options` describe on a machine that has not started yet, or, if they ask for vhost-user,
    /// beside it.
    ///
    /// # Errors
    /// As for [`Device::add`]; `LimitExceeded` if the machine has no room for it.
    #[cfg(feature = "kvm")]
    pub fn add_to(machine: &mut dyn Board, options: DeviceOptions) -> Result<Arc<Device>> {
        Device::add_with(options, |setup| Transport::plug(setup, machine))
    }

    /// Makes the device that `options` describe for an owner that keeps it: it is served at `socket`, and neither found by id
    /// nor in the object tree.
    ///
    /// # Errors
    /// As for [`Device::add`].
    pub(crate) fn private(options: DeviceOptions, socket: ListeningSocket) -> Result<Arc<Device>> {
        options.check_numbers()?;
        let device = Device::build(options, None, |setup| Transport::serve(setup, socket))?;
        Ok(Arc::new(device))
    }

    fn add_with(
        options: DeviceOptions,
        connect: impl FnOnce(&TransportSetup<'_>) -> Result<Transport>,
    ) -> Result<Arc<Device>> {
        options.check_numbers()?;
        let reservation = IdReservation::new(&options.id)?;
        let name = format!("device '{}'", options.id);
        let built = Device::build(options, Some(reservation), connect);
        let device = Arc::new(built.map_err(|error| error.of(&name))?);
        let object: Arc<dyn Object> = Arc::<Device>::clone(&device);
        tree::add_child(&device.path(), object).inspect_err(|_| {
            let live = device.lock().take();
            drop(live);
        })?;
        registry::complete(&device);
        Ok(device)
    }

    fn build(
        options: DeviceOptions,
        reservation: Option<IdReservation>,
        connect: impl FnOnce(&TransportSetup<'_>) -> Result<Transport>,
    ) -> Result<Device> {
        let context = contexts::find(&options)?;
        let claim = context.claim(&options.id)?;
        let control = AioContext::new()?;
        let queues = (0..options.model.queue_count())
            .map(|_| AioContext::new())
            .collect::<Result<Vec<_>>>()?;
        let model = options.model.build(&options.id, queues.clone())?;
        let path = reservation.as_ref().map(|_| path_of(&options.id));
        let faults = FaultLog::new(&options.id, path, &model, &control);
        let watcher: Arc<dyn FaultWatcher> = Arc::<FaultLog>::clone(&faults);
        model.watch_faults(Arc::downgrade(&watcher));
        let transport = connect(&TransportSetup {
            options: &options,
            model: &model,
            control: &control,
        })?;
        let contexts = AttachedContexts::new(&context, &options.id, &control, queues)?;
        Ok(Device {
            parts: Mutex::new(Some(DeviceParts {
                transport: Arc::new(transport),
                model,
                _contexts: contexts,
                _claim: claim,
                reservation,
            })),
            options,
            context,
            control,
            faults,
            shutdown: Mutex::default(),
        })
    }

    /// The device of that id.
    ///
    /// # Errors
    /// There is none.
    pub fn find(id: &str) -> Result<Arc<Device>> {
        registry::find(id).ok_or_else(|| {
            Error::new(
                ErrorKind::DeviceNotFound,
                format!("Device '{id}' not found"),
            )
        })
    }

    /// All devices, in the order in which they were made.
    pub fn list() -> Vec<Arc<Device>> {
        registry::list()
    }

    /// The device's name.
    pub fn id(&self) -> &str {
        &self.options.id
    }

    /// What the device was made from.
    pub fn options(&self) -> &DeviceOptions {
        &self.options
    }

    /// The context that serves the device.
    pub fn context(&self) -> &QContext {
        &self.context
    }

    /// The device as its model knows it, if it is of the model `M` and not gone.
    pub fn model<M: PluggableDevice>(&self) -> Option<Arc<M>> {
        let model: Arc<dyn Any + Send + Sync> = self.parts(|parts| Arc::clone(&parts.model))?;
        model.downcast().ok()
    }

    /// True while a front end is connected or, on a machine, while a driver has the device running.
    pub fn is_connected(&self) -> bool {
        self.transport()
            .is_some_and(|transport| transport.is_connected())
    }

    /// Lets the device go on that takes no more requests because one has failed; that one is repeated. One that is part of a
    /// machine goes on with the machine.
    pub fn go_on(&self) {
        self.faults.stop().end();
    }

    /// The transport, while the device exists.
    fn transport(&self) -> Option<Arc<Transport>> {
        self.parts(|parts| Arc::clone(&parts.transport))
    }

    /// Looks at the parts, while the device exists.
    fn parts<T>(&self, look: impl FnOnce(&mut DeviceParts) -> T) -> Option<T> {
        self.lock().as_mut().map(look)
    }

    fn lock(&self) -> MutexGuard<'_, Option<DeviceParts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_shutdown(&self) -> MutexGuard<'_, Shutdown> {
        self.shutdown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its place in the object tree.
    fn path(&self) -> String {
        path_of(self.id())
    }
}

fn path_of(id: &str) -> String {
    format!("{PERIPHERAL}/{id}")
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("options", &self.options)
            .field("context", &self.context.id())
            .finish_non_exhaustive()
    }
}
