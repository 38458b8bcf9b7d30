//! What a device on the command line or in `device_add` asks for.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::Node;
use crate::object::Options;
use crate::{Error, ErrorKind, QContext, Result};

/// The most queues of one device.
pub const QUEUES_MAX: u16 = 64;
/// The largest queue; a front end may ask for any power of two up to the device's.
pub const QUEUE_SIZE_MAX: u16 = 1024;

/// What [`DeviceOptions::from_options`] takes besides the id.
pub(super) const OPTIONS: [(&str, &str); 9] = [
    ("context", "string"),
    ("drive", "string"),
    ("ioeventfd", "bool"),
    ("irqfd", "bool"),
    ("num-queues", "int"),
    ("queue-size", "int"),
    ("serial", "string"),
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
        /// Notifications go straight to the device's context; else they trap and a vcpu's thread passes them on.
        ioeventfd: bool,
        /// Interrupts are KVM's business once the device's context has signalled an eventfd; else it calls KVM.
        irqfd: bool,
    },
}

/// A virtio-blk device and its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// The device's name, `/machine/peripheral/<id>`.
    pub id: String,
    /// The node name or `-drive` id of what is served.
    pub drive: String,
    /// The context that serves it; only together with `data_plane`.
    pub context: Option<String>,
    /// `x-data-plane=on`: the device may leave the main context.
    pub data_plane: bool,
    /// How it reaches its guest.
    pub transport: TransportOptions,
    /// How many queues a front end may use.
    pub num_queues: u16,
    /// The most entries of a queue.
    pub queue_size: u16,
    /// What the guest reads as the disk's serial number; the id of the drive if absent.
    pub serial: Option<String>,
}

impl DeviceOptions {
    /// A device with default settings, served over vhost-user.
    pub fn new(
        id: impl Into<String>,
        drive: impl Into<String>,
        vhost_user: impl Into<PathBuf>,
    ) -> Self {
        DeviceOptions {
            id: id.into(),
            drive: drive.into(),
            context: None,
            data_plane: false,
            transport: TransportOptions::VhostUser(vhost_user.into()),
            num_queues: 1,
            queue_size: QUEUE_SIZE_MAX,
            serial: None,
        }
    }

    /// Reads the options of `-device virtio-blk,...` or `device_add`, the driver's name already taken.
    ///
    /// # Errors
    /// An option is missing, unknown or not what is expected.
    pub fn from_options(options: Options) -> Result<Self> {
        DeviceOptions::read(options, false)
    }

    /// As [`DeviceOptions::from_options`] where there is a machine: without `vhost-user` the device is the machine's.
    ///
    /// # Errors
    /// An option is missing, unknown or not what is expected.
    pub fn for_machine(options: Options) -> Result<Self> {
        DeviceOptions::read(options, true)
    }

    fn read(mut options: Options, machine: bool) -> Result<Self> {
        let id = options.need_id()?;
        let drive = required(&mut options, &id, "drive", "has no drive", "drive=ID")?;
        let transport = transport(&mut options, &id, machine)?;
        let mut device = DeviceOptions::new(id, drive, PathBuf::new());
        device.transport = transport;
        device.context = options.take_str("context")?;
        device.data_plane = options.take_bool("x-data-plane")?.unwrap_or(false);
        device.serial = options.take_str("serial")?;
        let queues = options.take_uint("num-queues", 1..=u64::from(QUEUES_MAX))?;
        let size = options.take_uint("queue-size", 2..=u64::from(QUEUE_SIZE_MAX))?;
        device.num_queues = narrow(queues, device.num_queues);
        device.queue_size = narrow(size, device.queue_size);
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

    /// The context that the options ask for.
    ///
    /// # Errors
    /// `context=` without `x-data-plane=on`; there is no such context; it has no thread that would serve the device.
    pub(super) fn find_context(&self) -> Result<QContext> {
        let Some(name) = &self.context else {
            return Ok(QContext::main());
        };
        if !self.data_plane {
            let what = format!("context={name} needs x-data-plane=on");
            return Err(self.error(ErrorKind::InvalidArgument, &what));
        }
        let context = QContext::find(name).map_err(|_| {
            let what = format!("context '{name}' not found, expected the id of a qcontext object");
            self.error(ErrorKind::NotFound, &what)
        })?;
        let main = QContext::main();
        if !context.is_threaded() && context.id() != main.id() {
            let what = format!(
                "context '{name}' has no thread to serve a device, expected one with threaded=yes"
            );
            return Err(self.error(ErrorKind::InvalidArgument, &what));
        }
        Ok(context)
    }

    /// The node that the options name.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn find_node(&self) -> Result<Arc<Node>> {
        Node::find(&self.drive).map_err(|_| {
            let what = format!(
                "drive '{}' not found, expected the id of a -drive or a node-name",
                self.drive
            );
            self.error(ErrorKind::NotFound, &what)
        })
    }

    /// Checks the numbers; they may come from a program rather than from [`DeviceOptions::from_options`].
    ///
    /// # Errors
    /// A number is out of range.
    pub(super) fn check_numbers(&self) -> Result<()> {
        if !(1..=QUEUES_MAX).contains(&self.num_queues) {
            let what = format!("num-queues={} is not in 1..={QUEUES_MAX}", self.num_queues);
            return Err(self.error(ErrorKind::InvalidArgument, &what));
        }
        let size = self.queue_size;
        if !size.is_power_of_two() || !(2..=QUEUE_SIZE_MAX).contains(&size) {
            let what = format!("queue-size={size} is not a power of two in 2..={QUEUE_SIZE_MAX}");
            return Err(self.error(ErrorKind::InvalidArgument, &what));
        }
        Ok(())
    }

    /// An error that names the device.
    pub(super) fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, format!("device '{}': {what}", self.id))
    }
}

/// What says how the device reaches its guest.
fn transport(options: &mut Options, id: &str, machine: bool) -> Result<TransportOptions> {
    let given = options
        .peek("vhost-user")
        .is_some_and(|path| !path.is_empty());
    if given || !machine {
        let complaint = "has no transport";
        let path = required(options, id, "vhost-user", complaint, "vhost-user=PATH")?;
        return Ok(TransportOptions::VhostUser(path.into()));
    }
    options.take_str("vhost-user")?;
    Ok(TransportOptions::Machine {
        ioeventfd: options.take_bool("ioeventfd")?.unwrap_or(true),
        irqfd: options.take_bool("irqfd")?.unwrap_or(true),
    })
}

fn required(
    options: &mut Options,
    id: &str,
    name: &str,
    complaint: &str,
    expected: &str,
) -> Result<String> {
    let given = options.take_str(name)?.filter(|value| !value.is_empty());
    given.ok_or_else(|| {
        Error::new(
            ErrorKind::MissingArgument,
            format!("device '{id}' {complaint}, expected {expected}"),
        )
    })
}

fn narrow(value: Option<u64>, default: u16) -> u16 {
    value
        .and_then(|value| u16::try_from(value).ok())
        .unwrap_or(default)
}
