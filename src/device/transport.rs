//! How a device reaches its guest.
//!
//! * vhost-user: the device listens at a Unix socket, and a virtual machine of another process connects as its front end.
//! * virtio-mmio: the device has registers and an interrupt line on the machine that this process runs.
//!
//! A transport starts and stops the device's queues as the guest's driver asks; from [`Transport::shutdown`] on it starts none.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use gsource::AioContext;

use super::DeviceOptions;
#[cfg(feature = "kvm")]
use super::TransportOptions;
use crate::Result;
#[cfg(feature = "kvm")]
use crate::kvm::mmio::Mmio;
#[cfg(feature = "kvm")]
use crate::kvm::{Board, MmioDevice, MmioLocation};
use crate::unix_socket::ListeningSocket;
use crate::vhost_user::{Listener, OfferedDevice};
use crate::virtio::pluggable::PluggableDevice;

/// A running transport.
pub(super) enum Transport {
    /// Front ends connect to a socket.
    VhostUser(Listener),
    /// Registers and an interrupt line on the machine of this process.
    #[cfg(feature = "kvm")]
    Machine(Arc<Mmio>, MmioLocation),
}

/// What a transport is made for.
pub(super) struct TransportSetup<'a> {
    pub(super) options: &'a DeviceOptions,
    pub(super) model: &'a Arc<dyn PluggableDevice>,
    /// The transport works in the callbacks of this one.
    pub(super) control: &'a AioContext,
}

impl Transport {
    /// Offers the device at the socket `path`; messages are handled in the callbacks of `control`.
    pub(super) fn listen(setup: &TransportSetup<'_>, path: &Path) -> Result<Transport> {
        let offered = Transport::offered(setup);
        let listener = Listener::new(&setup.options.id, path, setup.control, offered)?;
        Ok(Transport::VhostUser(listener))
    }

    /// Offers the device at a socket that listens already.
    pub(super) fn serve(setup: &TransportSetup<'_>, socket: ListeningSocket) -> Result<Transport> {
        let offered = Transport::offered(setup);
        let listener = Listener::serve(socket, setup.control, offered)?;
        Ok(Transport::VhostUser(listener))
    }

    fn offered(setup: &TransportSetup<'_>) -> OfferedDevice {
        OfferedDevice {
            device: Arc::<dyn PluggableDevice>::clone(setup.model),
            queue_size_max: setup.options.queue_size,
        }
    }

    /// Puts the device on a machine that has not started yet, or, if it asks for vhost-user, beside it.
    #[cfg(feature = "kvm")]
    pub(super) fn plug(setup: &TransportSetup<'_>, machine: &mut dyn Board) -> Result<Transport> {
        let (ioeventfd, irqfd) = match &setup.options.transport {
            TransportOptions::Machine { ioeventfd, irqfd } => (*ioeventfd, *irqfd),
            TransportOptions::VhostUser(path) => return Transport::listen(setup, path),
        };
        let (mmio, place) = machine.add_virtio(MmioDevice {
            id: setup.options.id.clone(),
            device: Arc::<dyn PluggableDevice>::clone(setup.model),
            queue_size_max: setup.options.queue_size,
            control: setup.control.clone(),
            ioeventfd,
            irqfd,
        })?;
        Ok(Transport::Machine(mmio, place))
    }

    /// Whether a driver is there that can use the device.
    pub(super) fn is_connected(&self) -> bool {
        match self {
            Transport::VhostUser(listener) => listener.is_connected(),
            #[cfg(feature = "kvm")]
            Transport::Machine(mmio, _) => mmio.is_driven(),
        }
    }

    /// Stops all queues for good, and calls `done` on the home thread when no request is in flight.
    pub(super) fn shutdown(&self, done: impl FnOnce() + Send + 'static) {
        match self {
            Transport::VhostUser(listener) => listener.shutdown(done),
            #[cfg(feature = "kvm")]
            Transport::Machine(mmio, _) => mmio.shutdown(done),
        }
    }

    /// Takes no more requests of our machine, and calls `done` when none is in flight. Other machines run on.
    #[cfg(feature = "kvm")]
    pub(super) fn hold(&self, done: impl FnOnce() + Send + 'static) {
        match self {
            Transport::VhostUser(_) => done(),
            Transport::Machine(mmio, _) => mmio.hold(done),
        }
    }

    /// Takes requests again after [`Transport::hold`].
    #[cfg(feature = "kvm")]
    pub(super) fn release(&self) {
        match self {
            Transport::VhostUser(_) => {}
            Transport::Machine(mmio, _) => mmio.release(),
        }
    }

    /// The address of the registers and the interrupt line; `None` if the device is not on a machine.
    pub(super) fn place(&self) -> Option<(u64, u32)> {
        match self {
            Transport::VhostUser(_) => None,
            #[cfg(feature = "kvm")]
            Transport::Machine(_, place) => Some((place.registers.start, place.gsi)),
        }
    }
}
