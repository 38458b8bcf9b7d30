//! The machine `microvm`: processors, memory, virtio-mmio devices and a serial port, which boots a kernel.
//!
//! Used by the command line. A [`MicroVm`] outlives the [`Machine`]s that it makes: a reset ends one and makes the next
//! from the same parts, in the same memory layout, with the kernel loaded afresh. So whatever a guest did to its
//! processors, its interrupt controllers and its devices is gone.
//!
//! # Threads
//! Made, started and stopped on `qcontext-main`, which also makes the next machine.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvm_ioctls::VmFd;

use super::boot::{Image, Platform, Window, layout};
use super::power::{self, Keyboard, Power};
use super::ram;
use super::serial::{self, Console, Serial};
use super::{Announcement, Builder, Config, End, Machine, Slots, failed};
use crate::virtio::notify::Signal;
use crate::{Error, ErrorKind, QContext, Result};

mod processors;

/// The smallest memory that is worth a try.
const MEMORY_MIN: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// What a machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many processors.
    pub cpus: u8,
    /// How many bytes of memory, in whole pages.
    pub memory: u64,
    /// Whether a reset boots again; else it ends the machine, like power-off.
    pub reboot: bool,
}

/// A device that goes from one machine to the next when the guest resets itself.
pub trait Device: Send + Sync {
    /// Leaves a machine whose vcpus have ended, and calls `done` when nothing is in flight any more, on any thread.
    fn unplug(&self, done: Box<dyn FnOnce() + Send>);

    /// Goes on the next machine.
    ///
    /// # Errors
    /// The machine refuses it.
    fn plug(&self, machine: &mut Builder) -> Result<()>;
}

/// Called once when the machine has ended for good, on `qcontext-main`.
type Ended = Box<dyn FnOnce(Result<()>) + Send>;

/// The machine.
pub struct MicroVm(Arc<Shared>);

/// A machine's power button; it does not keep the machine.
#[derive(Clone)]
pub struct PowerButton(Weak<Shared>);

struct Shared {
    options: Options,
    image: Image,
    console: Option<Console>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The machine that is being put together, before it starts.
    builder: Option<Builder>,
    machine: Option<Machine>,
    devices: Vec<Arc<dyn Device>>,
    /// Gone when the machine was told to stop, or has ended.
    ended: Option<Ended>,
}

impl MicroVm {
    /// A machine without virtio devices.
    ///
    /// # Errors
    /// A number is out of range; there is no KVM here, or not what the machine needs of it.
    pub fn new(options: Options, image: Image, console: Option<Console>) -> Result<MicroVm> {
        check(&options)?;
        let builder = builder(&options, console.as_ref())?;
        let state = State {
            builder: Some(builder),
            ..State::default()
        };
        Ok(MicroVm(Arc::new(Shared {
            options,
            image,
            console,
            state: Mutex::new(state),
        })))
    }

    /// Puts a device on the machine, which has not started yet. `add` makes it there.
    ///
    /// # Errors
    /// `Busy` if the machine has started, or what `add` answers.
    pub fn add<D: Device + 'static>(
        &self,
        add: impl FnOnce(&mut Builder) -> Result<Arc<D>>,
    ) -> Result<()> {
        let builder = self.0.lock().builder.take();
        let mut builder =
            builder.ok_or_else(|| Error::new(ErrorKind::Busy, "the machine has started"))?;
        let device = add(&mut builder);
        self.0.lock().builder = Some(builder);
        self.0.lock().devices.push(device?);
        Ok(())
    }

    /// Boots. `ended` is called once when the guest has ended the machine, with an error if it could not go on.
    ///
    /// # Errors
    /// `Busy` if the machine has started; the kernel does not fit into the memory; KVM refuses something.
    pub fn start(&self, ended: impl FnOnce(Result<()>) + Send + 'static) -> Result<()> {
        let builder = self.0.lock().builder.take();
        let builder =
            builder.ok_or_else(|| Error::new(ErrorKind::Busy, "the machine has started"))?;
        self.0.lock().ended = Some(Box::new(ended));
        self.0.boot(builder).inspect_err(|_| self.stop())
    }

    /// Ends the machine and waits for its vcpus. Nobody is told.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        let parts = (
            state.builder.take(),
            state.machine.take(),
            state.ended.take(),
        );
        drop(state);
        // Outside of the lock: this waits.
        drop(parts);
    }

    /// Its power button.
    pub fn power_button(&self) -> PowerButton {
        PowerButton(Arc::downgrade(&self.0))
    }

    /// Whether everything that the guest has written to its serial port is out.
    pub fn is_quiet(&self) -> bool {
        self.0.console.as_ref().is_none_or(Console::is_quiet)
    }
}

impl PowerButton {
    /// Presses it. What comes of that is the guest's business; one that is just being reset, or is gone, does not see it.
    ///
    /// # Errors
    /// `Os` if KVM refuses.
    pub fn press(&self) -> Result<()> {
        let Some(vm) = self.0.upgrade().and_then(|shared| shared.vm()) else {
            return Ok(());
        };
        for level in [true, false] {
            vm.set_irq_line(layout::BUTTON_GSI, level)
                .map_err(failed("press the power button"))?;
        }
        Ok(())
    }
}

impl Shared {
    /// KVM's virtual machine, if there is one now.
    fn vm(&self) -> Option<Arc<VmFd>> {
        let state = self.lock();
        state
            .machine
            .as_ref()
            .map(|machine| Arc::clone(machine.vm()))
    }

    /// Loads the kernel and lets the machine run.
    fn boot(self: &Arc<Self>, builder: Builder) -> Result<()> {
        let platform = Platform {
            cpus: self.options.cpus,
            virtio: builder.virtio_devices().iter().map(window).collect(),
            serial: self.console.is_some(),
        };
        let entry = self.image.load(&builder.ram().map()?, &platform)?;
        let prepare = processors::prepare(self.options.cpus, entry)?;
        let this = Arc::downgrade(self);
        let machine = builder.start(prepare, false, move |end| {
            if let Some(this) = this.upgrade() {
                this.ended(end);
            }
        })?;
        self.lock().machine = Some(machine);
        Ok(())
    }

    /// The machine has ended by itself.
    fn ended(self: &Arc<Self>, end: End) {
        // Its threads are about to end; nobody else uses what comes next.
        let machine = self.lock().machine.take();
        drop(machine);
        let outcome = match end {
            End::PowerOff => Ok(()),
            End::Failed(error) => Err(error),
            End::Reset | End::TripleFault if self.options.reboot => return self.reset(),
            End::Reset | End::TripleFault => Ok(()),
        };
        self.tell(outcome);
    }

    /// Takes the devices off the machine that has ended, then makes the next one.
    fn reset(self: &Arc<Self>) {
        let devices = self.lock().devices.clone();
        let left = Arc::new(AtomicUsize::new(devices.len() + 1));
        let this = Arc::clone(self);
        let one_less = move || {
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let this = Arc::clone(&this);
                // Without a main context nobody wants to go on.
                let _ = QContext::main().invoke(move || this.boot_again());
            }
        };
        for device in devices {
            device.unplug(Box::new(one_less.clone()));
        }
        one_less();
    }

    fn boot_again(self: &Arc<Self>) {
        // Told to stop in between.
        if self.lock().ended.is_none() {
            return;
        }
        let booted = self.next().and_then(|builder| self.boot(builder));
        if let Err(error) = booted {
            self.tell(Err(error));
        }
    }

    /// The next machine, with the devices of the one before.
    fn next(&self) -> Result<Builder> {
        let mut builder = builder(&self.options, self.console.as_ref())?;
        let devices = self.lock().devices.clone();
        for device in devices {
            device.plug(&mut builder)?;
        }
        Ok(builder)
    }

    fn tell(&self, outcome: Result<()>) {
        let ended = self.lock().ended.take();
        if let Some(ended) = ended {
            ended(outcome);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MicroVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MicroVm")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PowerButton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PowerButton")
    }
}

fn check(options: &Options) -> Result<()> {
    let bad = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
    if !(1..=layout::CPUS_MAX).contains(&options.cpus) {
        let max = layout::CPUS_MAX;
        return bad(format!("{} processors, expected 1 to {max}", options.cpus));
    }
    if options.memory < MEMORY_MIN || !options.memory.is_multiple_of(PAGE) {
        let memory = options.memory;
        return bad(format!(
            "{memory} bytes of memory, expected whole pages and at least 2 MiB"
        ));
    }
    Ok(())
}

/// A machine with everything but virtio devices.
fn builder(options: &Options, console: Option<&Console>) -> Result<Builder> {
    let mut builder = Builder::new(Config {
        ram: ram::layout(options.memory),
        cpus: options.cpus.into(),
        pit: false,
        virtio: Slots {
            start: layout::VIRTIO,
            stride: layout::VIRTIO_STRIDE,
            lines: layout::VIRTIO_GSIS.to_vec(),
        },
        context: QContext::main(),
    })?;
    let keyboard = Keyboard::new(builder.controls().clone());
    builder.add_pio(power::KEYBOARD_PORTS, "keyboard", Arc::new(keyboard))?;
    let power = Power::new(builder.controls().clone());
    builder.add_pio(power::PORTS, "power", Arc::new(power))?;
    if let Some(console) = console {
        add_serial(&mut builder, console)?;
    }
    Ok(builder)
}

fn window(place: &Announcement) -> Window {
    Window {
        address: place.registers.start,
        length: place.registers.end - place.registers.start,
        gsi: place.gsi,
    }
}

fn add_serial(builder: &mut Builder, console: &Console) -> Result<()> {
    let line = builder.line(layout::SERIAL_GSI, true)?;
    let device = Serial::new(console, Arc::new(move || line.signal()));
    let ports = layout::SERIAL..layout::SERIAL + serial::REGISTERS;
    builder.add_pio(ports, "serial", Arc::new(device))
}
