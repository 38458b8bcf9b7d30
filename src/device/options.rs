//! What every device takes on the command line or in `device_add`, whatever its model.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::models;
use crate::object::Options;
use crate::virtio::pluggable::{ModelOptions, ModelType, Named};
use crate::{Error, ErrorKind, Result};

/// The largest queue; a front end may ask for any power of two up to the device's.
pub const QUEUE_SIZE_MAX: u16 = 1024;

/// What [`DeviceOptions::from_options`] takes besides the driver, the id and the options of the model.
const OPTIONS: [Named; 6] = [
    ("context", "string"),
    ("ioeventfd", "bool"),
    ("irqfd", "bool"),
    ("queue-size", "int"),
    ("vhost-user", "string"),
    ("x-data-plane", "bool"),
];

/// How a device reaches its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportOptions {
    /// Over vhost-user: front ends connect to this socket.
    VhostUser(PathBuf),
    /// On the machine that this process runs.
    Machine {
        /// KVM passes the guest's notifications straight to the device's context; else they trap and a vcpu thread does it.
        ioeventfd: bool,
        /// The device's context signals an eventfd, for which KVM interrupts the guest; else it calls KVM.
        irqfd: bool,
    },
}

/// A device to be made: what it is, who serves it and how its guest reaches it.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// The device's name, `/machine/peripheral/<id>`.
    pub id: String,
    /// The model, with the options of its own.
    pub model: Arc<dyn ModelOptions>,
    /// The context that serves it; only together with `data_plane`.
    pub context: Option<String>,
    /// `x-data-plane=on`: the device may leave the main context.
    pub data_plane: bool,
    /// How it reaches its guest.
    pub transport: TransportOptions,
    /// The most entries of a queue.
    pub queue_size: u16,
}

impl DeviceOptions {
    /// A device with default settings, served over vhost-user.
    pub fn new(
        id: impl Into<String>,
        model: impl ModelOptions + 'static,
        vhost_user: impl Into<PathBuf>,
    ) -> Self {
        let transport = TransportOptions::VhostUser(vhost_user.into());
        DeviceOptions::with_defaults(id.into(), Arc::new(model), transport)
    }

    fn with_defaults(
        id: String,
        model: Arc<dyn ModelOptions>,
        transport: TransportOptions,
    ) -> Self {
        DeviceOptions {
            id,
            model,
            context: None,
            data_plane: false,
            transport,
            queue_size: QUEUE_SIZE_MAX,
        }
    }

    /// Reads the options of `-device` or `device_add`.
    ///
    /// # Errors
    /// No such model was [registered](super::register); an option is missing, unknown or not what is expected.
    pub fn from_options(options: Options) -> Result<Self> {
        DeviceOptions::read(options, false)
    }

    /// As [`DeviceOptions::from_options`] where there is a machine: without `vhost-user` the device is the machine's.
    ///
    /// # Errors
    /// As for [`DeviceOptions::from_options`].
    pub fn for_machine(options: Options) -> Result<Self> {
        DeviceOptions::read(options, true)
    }

    fn read(mut options: Options, machine: bool) -> Result<Self> {
        let model = models::find(&options.need_str("driver")?)?;
        let id = options.need_id()?;
        let model = (model.parse)(&id, &mut options)?;
        let transport = transport(&mut options, &id, machine)?;
        let mut device = DeviceOptions::with_defaults(id, model, transport);
        device.context = options.take_str("context")?;
        device.data_plane = options.take_bool("x-data-plane")?.unwrap_or(false);
        if let Some(size) = options.take_int("queue-size")? {
            device.queue_size = device.check_queue_size(size)?;
        }
        options.finish()?;
        Ok(device)
    }

    /// Where front ends connect, if they do.
    pub fn socket(&self) -> Option<&Path> {
        match &self.transport {
            TransportOptions::VhostUser(path) => Some(path),
            TransportOptions::Machine { .. } => None,
        }
    }

    /// Checks the numbers; they may come from a program rather than from [`DeviceOptions::from_options`].
    ///
    /// # Errors
    /// A number is out of range.
    pub(super) fn check_numbers(&self) -> Result<()> {
        self.model.check(&self.id)?;
        self.check_queue_size(self.queue_size.into()).map(drop)
    }

    fn check_queue_size(&self, size: i64) -> Result<u16> {
        let least = self.model.queue_size_min();
        let fits = |fit: &u16| fit.is_power_of_two() && (least..=QUEUE_SIZE_MAX).contains(fit);
        u16::try_from(size).ok().filter(fits).ok_or_else(|| {
            let what =
                format!("queue-size={size} is not a power of two in {least}..={QUEUE_SIZE_MAX}");
            self.error(ErrorKind::InvalidArgument, &what)
        })
    }

    /// An error that names the device.
    pub(super) fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, format!("device '{}': {what}", self.id))
    }
}

/// All options of a device of that model, by name.
pub(super) fn options(model: &ModelType) -> Vec<Named> {
    let mut all = [&OPTIONS, model.options].concat();
    all.sort_unstable();
    all
}

/// What says how the device reaches its guest.
fn transport(options: &mut Options, id: &str, machine: bool) -> Result<TransportOptions> {
    let path = options
        .take_str("vhost-user")?
        .filter(|path| !path.is_empty());
    if let Some(path) = path {
        return Ok(TransportOptions::VhostUser(path.into()));
    }
    if !machine {
        let message = format!("device '{id}' has no transport, expected vhost-user=PATH");
        return Err(Error::new(ErrorKind::MissingArgument, message));
    }
    Ok(TransportOptions::Machine {
        ioeventfd: options.take_bool("ioeventfd")?.unwrap_or(true),
        irqfd: options.take_bool("irqfd")?.unwrap_or(true),
    })
}
