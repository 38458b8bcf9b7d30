//! A disk offered to virtual machines: node, device, transport and context tied together under one name.
//!
//! Made by the command line and by `device_add`, found again by id, and an object under `/machine/peripheral`. Each queue has
//! an AioContext of its own and the transport another; all of them are attached to the context that the device is assigned
//! to, which it claims, so that the context is not deleted under it.
//!
//! # Threads
//! Devices are made, found and shut down from any thread. `done` callbacks run on the thread of the device's context.
//!
//! # Invariants
//! 1. An id is in the registry from before anything is made for it until everything is gone, so two devices of one id never
//!    exist, not even for a moment.
//! 2. No lock is held while code of other modules runs.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gsource::AioContext;

use crate::block::{self, Node};
use crate::context::Claim;
#[cfg(feature = "kvm")]
use crate::kvm::Board;
use crate::object::Object;
use crate::object::tree::{self, PERIPHERAL};
use crate::vhost_user::{Listener, Served};
use crate::virtio::blk::{Blk, QueueStats};
use crate::{Error, ErrorKind, QContext, Result};

#[cfg(feature = "kvm")]
mod machine;
mod object;
mod options;
mod registry;
mod transport;

pub use object::{MODEL, register_type};
pub use options::{DeviceOptions, QUEUE_SIZE_MAX, QUEUES_MAX, TransportOptions};
use registry::Reservation;
use transport::Transport;

/// A virtio-blk device with its transport.
pub struct Device {
    options: DeviceOptions,
    context: QContext,
    node: Arc<Node>,
    control: AioContext,
    /// Gone when the device is.
    live: Mutex<Option<Live>>,
    end: Mutex<End>,
}

/// Called once when a device is gone.
type Done = Box<dyn FnOnce() + Send>;

/// How far a device's end has come, and who waits for it.
#[derive(Default)]
struct End {
    going: bool,
    gone: bool,
    waiting: Vec<Done>,
}

/// What a device has while it exists. The fields go in this order.
struct Live {
    transport: Arc<Transport>,
    blk: Arc<Blk>,
    _attached: Attached,
    _claim: Claim,
    _reservation: Reservation,
}

/// AioContexts on a context; taken off when dropped.
struct Attached {
    context: QContext,
    contexts: Vec<AioContext>,
}

impl Device {
    /// Makes the device that `options` describe. Front ends can connect when this returns.
    ///
    /// # Errors
    /// The id is taken, drive or context do not exist, are in use or cannot serve a device, or the socket cannot be bound.
    /// Nothing is left behind then.
    pub fn add(options: DeviceOptions) -> Result<Arc<Device>> {
        Device::add_with(options, |options, parts| match options.socket() {
            Some(path) => parts.listen(options, path),
            None => {
                let what = "there is no machine that takes devices, expected vhost-user=PATH";
                Err(options.error(ErrorKind::InvalidArgument, what))
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
        Device::add_with(options, |options, parts| match options.transport {
            TransportOptions::Machine { .. } => parts.plug(options, machine),
            TransportOptions::VhostUser(ref path) => parts.listen(options, path),
        })
    }

    fn add_with(
        options: DeviceOptions,
        connect: impl FnOnce(&DeviceOptions, &Parts<'_>) -> Result<Transport>,
    ) -> Result<Arc<Device>> {
        options.check_numbers()?;
        let reservation = Reservation::new(&options.id)?;
        let device = Arc::new(Device::build(options, reservation, connect)?);
        let object: Arc<dyn Object> = Arc::<Device>::clone(&device);
        tree::add_child(&device.path(), object).inspect_err(|_| drop(device.lock().take()))?;
        registry::complete(&device);
        Ok(device)
    }

    fn build(
        options: DeviceOptions,
        reservation: Reservation,
        connect: impl FnOnce(&DeviceOptions, &Parts<'_>) -> Result<Transport>,
    ) -> Result<Device> {
        let context = options.find_context()?;
        let node = options.find_node()?;
        let claim = context.claim(&options.id)?;
        let control = AioContext::new()?;
        let queues = (0..options.num_queues)
            .map(|_| AioContext::new())
            .collect::<Result<Vec<_>>>()?;
        let serial = options.serial.as_deref().unwrap_or(&options.drive);
        let blk = Arc::new(Blk::new(Arc::clone(&node), queues.clone(), serial)?);
        let parts = Parts {
            blk: &blk,
            control: &control,
        };
        let transport = connect(&options, &parts)?;
        let attached = Attached::new(&context, &options.id, &control, queues)?;
        Ok(Device {
            live: Mutex::new(Some(Live {
                transport: Arc::new(transport),
                blk,
                _attached: attached,
                _claim: claim,
                _reservation: reservation,
            })),
            options,
            context,
            node,
            control,
            end: Mutex::default(),
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

    /// The node on offer.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// True while a front end is connected.
    pub fn is_connected(&self) -> bool {
        self.transport()
            .is_some_and(|transport| transport.is_connected())
    }

    /// What all queues together have done so far.
    pub fn stats(&self) -> QueueStats {
        let blk = self.lock().as_ref().map(|live| Arc::clone(&live.blk));
        blk.map(|blk| self.sum(&blk)).unwrap_or_default()
    }

    /// Ends the device: no front end is served any more, requests in flight are finished, the drive is flushed, the socket
    /// is removed, and when all is gone `done` is called on the context's thread.
    ///
    /// # Errors
    /// `Busy` if the device is being shut down already; `done` is not called then.
    pub fn shutdown(self: &Arc<Self>, done: impl FnOnce() + Send + 'static) -> Result<()> {
        let mut end = self.lock_end();
        if std::mem::replace(&mut end.going, true) {
            let message = format!("device '{}' is being deleted already", self.id());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        end.waiting.push(Box::new(done));
        drop(end);
        self.begin_end();
        Ok(())
    }

    /// Ends all devices, those that are ending already included, and calls `done` when the last one is gone: on its
    /// context's thread, or at once if there is none.
    pub fn shutdown_all(done: impl FnOnce() + Send + 'static) {
        let devices = registry::list();
        let left = Arc::new(AtomicUsize::new(devices.len() + 1));
        let done: Arc<Mutex<Option<Done>>> = Arc::new(Mutex::new(Some(Box::new(done))));
        let one_less = move || {
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
                done.into_iter().for_each(|done| done());
            }
        };
        for device in devices {
            device.join_end(Box::new(one_less.clone()));
        }
        one_less();
    }

    fn join_end(self: &Arc<Self>, done: Done) {
        let mut end = self.lock_end();
        if end.gone {
            drop(end);
            return done();
        }
        end.waiting.push(done);
        let is_first = !std::mem::replace(&mut end.going, true);
        drop(end);
        if is_first {
            self.begin_end();
        }
    }

    fn begin_end(self: &Arc<Self>) {
        let this = Arc::clone(self);
        if let Some(transport) = self.transport() {
            transport.shutdown(move || this.quiet());
        }
    }

    /// The transport is down and nothing is in flight. Goes on in an iteration of its own, when nobody up the stack holds
    /// a part of the device.
    fn quiet(self: Arc<Self>) {
        let control = self.control.clone();
        control.schedule_oneshot("device-flush", move || {
            let this = Arc::clone(&self);
            block::flush(&self.node, &self.control, move |result| {
                if let Err(error) = result {
                    this.report(&error);
                }
                this.leave();
            });
        });
    }

    fn report(&self, error: &Error) {
        let (id, drive) = (self.id(), &self.options.drive);
        glib::g_message!(
            "qcontext",
            "device '{id}': the last flush of drive '{drive}' failed: {error}"
        );
    }

    /// Lets go of everything, outside of the AioContexts that go.
    fn leave(self: Arc<Self>) {
        let context = self.context.clone();
        let this = Arc::clone(&self);
        if context.invoke(move || this.finish()).is_err() {
            // The context is being torn down, so nothing of the device runs any more.
            self.finish();
        }
    }

    fn finish(&self) {
        tree::remove_child(&self.path());
        let live = self.lock().take();
        drop(live);
        let waiting = {
            let mut end = self.lock_end();
            end.gone = true;
            std::mem::take(&mut end.waiting)
        };
        waiting.into_iter().for_each(|done| done());
    }

    /// The transport, while the device exists.
    fn transport(&self) -> Option<Arc<Transport>> {
        let live = self.lock();
        live.as_ref().map(|live| Arc::clone(&live.transport))
    }

    fn lock_end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self) -> String {
        format!("{PERIPHERAL}/{}", self.id())
    }

    fn sum(&self, blk: &Blk) -> QueueStats {
        let mut sum = QueueStats::default();
        for index in 0..self.options.num_queues {
            let queue = blk.stats(index);
            sum.reads += queue.reads;
            sum.writes += queue.writes;
            sum.flushes += queue.flushes;
            sum.discards += queue.discards;
            sum.bytes_read += queue.bytes_read;
            sum.bytes_written += queue.bytes_written;
            sum.errors += queue.errors;
            sum.kicks += queue.kicks;
            sum.calls += queue.calls;
        }
        sum
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("options", &self.options)
            .field("context", &self.context.id())
            .finish_non_exhaustive()
    }
}

/// What a device's transport is connected to.
struct Parts<'a> {
    blk: &'a Arc<Blk>,
    control: &'a AioContext,
}

impl Parts<'_> {
    fn listen(&self, options: &DeviceOptions, path: &Path) -> Result<Transport> {
        let served = Served {
            device: Arc::<Blk>::clone(self.blk),
            queue_size_max: options.queue_size,
        };
        let listener = Listener::new(&options.id, path, self.control, served)?;
        Ok(Transport::VhostUser(listener))
    }
}

impl Attached {
    /// Attaches the control context, then the queues.
    fn new(
        context: &QContext,
        id: &str,
        control: &AioContext,
        queues: Vec<AioContext>,
    ) -> Result<Attached> {
        let mut attached = Attached {
            context: context.clone(),
            contexts: Vec::with_capacity(1 + queues.len()),
        };
        attached.attach(control.clone(), &format!("{id}.control"))?;
        for (index, queue) in queues.into_iter().enumerate() {
            attached.attach(queue, &format!("{id}.queue{index}"))?;
        }
        Ok(attached)
    }

    fn attach(&mut self, aio: AioContext, name: &str) -> Result<()> {
        self.context.attach(&aio, Some(name))?;
        self.contexts.push(aio);
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        for aio in &self.contexts {
            self.context.detach(aio);
        }
    }
}
