//! The machine `microvm`: processors, memory, virtio-mmio devices and a serial port, which boots a kernel.
//!
//! Used by the command line. A [`MicroVm`] outlives the [`Machine`]s that it makes: a reset ends one and makes the next
//! from the same parts, in the same memory layout, with the kernel loaded afresh. So whatever a guest did to its
//! processors, its interrupt controllers and its devices is gone.
//!
//! * `orders`: stop, go on, reset, power button: what somebody outside asks for, one after the other
//! * `cpu`: the processors as objects, `/machine/cpu/0` and so on
//! * `processors`: how they begin
//!
//! # Threads
//! Made, started, directed and stopped on `qcontext-main`, which also makes the next machine. Anybody may look.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::boot::{KernelImage, MmioWindow, Platform, layout};
use super::irq::IrqLine;
use super::power::{self, Keyboard, Power};
use super::ram;
use super::serial::{self, Console, Serial};
use super::{Machine, MachineBuilder, MachineConfig, MachineEnd, MmioLocation, MmioSlots};
use crate::virtio::notify::Signal;
use crate::{Error, ErrorKind, QContext, Result, start_virtual_clock, stop_virtual_clock};

mod cpu;
mod processors;
mod runstate;

use cpu::CpuObjects;
pub use cpu::{CpuInfo, register_type};
use runstate::RunStateRequest;
pub use runstate::{MachineEvent, RunState, ShutdownCause};

/// The smallest memory that is worth a try.
const MEMORY_MIN: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// What a machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct MicroVmOptions {
    /// How many processors.
    pub cpus: u8,
    /// How many bytes of memory, in whole pages.
    pub memory: u64,
    /// Whether a reset boots again; else it ends the machine, like power-off.
    pub reboot: bool,
}

/// A device that goes from one machine to the next when the guest resets itself.
pub trait MachineDevice: Send + Sync {
    /// Leaves a machine whose vcpus have ended, and calls `done` when nothing is in flight any more, on any thread.
    fn unplug(&self, done: Box<dyn FnOnce() + Send>);

    /// Takes no more requests of a machine whose vcpus are parked, and calls `done` when nothing is in flight any more, on
    /// any thread.
    fn hold(&self, done: Box<dyn FnOnce() + Send>);

    /// Goes on after [`MachineDevice::hold`].
    fn release(&self);

    /// Goes on the next machine.
    ///
    /// # Errors
    /// The machine refuses it.
    fn plug(&self, machine: &mut MachineBuilder) -> Result<()>;
}

/// Called once when the machine has ended for good, on `qcontext-main`.
type OutcomeCallback = Box<dyn FnOnce(Result<ShutdownCause>) + Send>;
type EventCallback = Arc<dyn Fn(MachineEvent) + Send + Sync>;

/// The machine. Clones are the same one.
#[derive(Clone)]
pub struct MicroVm(Arc<MicroVmCore>);

struct MicroVmCore {
    options: MicroVmOptions,
    image: KernelImage,
    console: Option<Console>,
    state: Mutex<MicroVmState>,
}

#[derive(Default)]
struct MicroVmState {
    /// The machine that is being put together, before it starts.
    builder: Option<MachineBuilder>,
    /// Others hold it on `qcontext-main` only, while they direct it.
    machine: Option<Arc<Machine>>,
    /// The line of the power button, of the machine that is there.
    button: Option<IrqLine>,
    devices: Vec<Arc<dyn MachineDevice>>,
    /// Gone when the machine was told to stop, or has ended.
    ended: Option<OutcomeCallback>,
    tell: Option<EventCallback>,
    status: RunState,
    /// Whether the virtual clock stands because of this machine.
    stands: bool,
    /// What goes on at the moment; orders wait for its end.
    doing: Option<runstate::Transition>,
    orders: VecDeque<RunStateRequest>,
    /// Counts machines, so that what is said about one that is gone is not heard.
    generation: u64,
    /// Of each processor whose threads were told where to run.
    affinities: Vec<Option<Vec<usize>>>,
    listed: Option<CpuObjects>,
}

impl MicroVm {
    /// A machine without virtio devices.
    ///
    /// # Errors
    /// A number is out of range; there is no KVM here, or not what the machine needs of it.
    pub fn new(
        options: MicroVmOptions,
        image: KernelImage,
        console: Option<Console>,
    ) -> Result<MicroVm> {
        check(&options)?;
        let (builder, button) = builder(&options, console.as_ref())?;
        let state = MicroVmState {
            builder: Some(builder),
            button: Some(button),
            affinities: vec![None; options.cpus.into()],
            ..MicroVmState::default()
        };
        Ok(MicroVm(Arc::new(MicroVmCore {
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
    pub fn add<D: MachineDevice + 'static>(
        &self,
        add: impl FnOnce(&mut MachineBuilder) -> Result<Arc<D>>,
    ) -> Result<()> {
        let builder = self.0.lock().builder.take();
        let mut builder =
            builder.ok_or_else(|| Error::new(ErrorKind::Busy, "the machine has started"))?;
        let device = add(&mut builder);
        self.0.lock().builder = Some(builder);
        self.0.lock().devices.push(device?);
        Ok(())
    }

    /// Boots, or, if `paused`, gets ready to. `tell` hears of what happens to the machine, and `ended` is called once when
    /// the guest has ended it, with the cause, or an error if it could not go on. Both on `qcontext-main`.
    ///
    /// The processors appear as `/machine/cpu/N`, and the virtual clock runs and stands with the machine.
    ///
    /// # Errors
    /// `Busy` if the machine has started; the kernel does not fit into the memory; KVM refuses something.
    pub fn start(
        &self,
        paused: bool,
        tell: impl Fn(MachineEvent) + Send + Sync + 'static,
        ended: impl FnOnce(Result<ShutdownCause>) + Send + 'static,
    ) -> Result<()> {
        let builder = self.0.lock().builder.take();
        let builder =
            builder.ok_or_else(|| Error::new(ErrorKind::Busy, "the machine has started"))?;
        let mut state = self.0.lock();
        state.ended = Some(Box::new(ended));
        state.tell = Some(Arc::new(tell));
        state.status = match paused {
            true => RunState::Prelaunch,
            false => RunState::Running,
        };
        drop(state);
        let started = CpuObjects::new(&self.0).and_then(|listed| {
            self.0.lock().listed = Some(listed);
            self.0.boot(builder)
        });
        started.inspect_err(|_| self.stop())
    }

    /// Ends the machine and waits for its vcpus. Nobody is told but those whose orders were not carried out.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        state.status = RunState::Shutdown;
        // Nothing that was begun goes on.
        state.generation += 1;
        state.abandon();
        let orders = std::mem::take(&mut state.orders);
        let machine = state.machine.take();
        let parts = (
            state.listed.take(),
            state.builder.take(),
            state.button.take(),
            state.ended.take(),
        );
        drop(state);
        // Outside of the lock: this waits.
        if let Some(machine) = machine {
            machine.stop();
        }
        drop(parts);
        self.0.lock().let_clock_run();
        orders.into_iter().for_each(RunStateRequest::refuse);
    }

    /// How many bytes that the guest has written to its serial port are not out yet; none if they cannot get out.
    pub fn unsent(&self) -> usize {
        self.0.console.as_ref().map_or(0, Console::unsent)
    }
}

impl MicroVmCore {
    /// Loads the kernel and lets the machine run, if it is to.
    fn boot(self: &Arc<Self>, builder: MachineBuilder) -> Result<()> {
        let platform = Platform {
            cpus: self.options.cpus,
            virtio: builder.virtio_devices().iter().map(window).collect(),
            serial: self.console.is_some(),
        };
        let entry = self.image.load(&builder.ram().map()?, &platform)?;
        let prepare = processors::prepare(self.options.cpus, entry)?;
        let there = Arc::downgrade(self);
        let ended = move |end| with(&there, |this| this.ended(end));
        let machine = builder.start(prepare, true, ended)?;
        let mut state = self.lock();
        for (index, cpus) in state.affinities.iter().enumerate() {
            if let Some(cpus) = cpus {
                machine.set_affinity(index, cpus)?;
            }
        }
        if state.status == RunState::Running {
            state.let_clock_run();
            machine.resume();
        } else {
            state.let_clock_stand();
        }
        state.machine = Some(Arc::new(machine));
        drop(state);
        Ok(())
    }

    /// The machine has ended by itself, or because it is to be reset.
    fn ended(self: &Arc<Self>, end: MachineEnd) {
        let mut state = self.lock();
        // Told to stop in between.
        if state.ended.is_none() {
            return;
        }
        let machine = state.machine.take();
        let button = state.button.take();
        state.generation += 1;
        let ordered = state.abandon();
        drop(state);
        // Its threads are about to end; nobody else uses what comes next.
        if let Some(machine) = machine {
            machine.stop();
        }
        drop(button);
        let cause = match (&end, ordered) {
            (MachineEnd::PowerOff, _) => ShutdownCause::GuestShutdown,
            (_, true) => ShutdownCause::HostReset,
            (_, false) => ShutdownCause::GuestReset,
        };
        match end {
            MachineEnd::Failed(error) => self.over(RunState::InternalError, Err(error)),
            MachineEnd::Reset | MachineEnd::TripleFault if self.options.reboot => self.reset(cause),
            MachineEnd::PowerOff | MachineEnd::Reset | MachineEnd::TripleFault => {
                self.over(RunState::Shutdown, Ok(cause));
            }
        }
    }

    /// Takes the devices off the machine that has ended, then makes the next one.
    fn reset(self: &Arc<Self>, cause: ShutdownCause) {
        let mut state = self.lock();
        state.doing = Some(runstate::Transition::Reset);
        let devices = state.devices.clone();
        drop(state);
        let there = Arc::downgrade(self);
        let next = move || with(&there, |this| this.boot_again(cause));
        let next = when_all(devices.len(), next);
        for device in devices {
            device.unplug(Box::new(next.clone()));
        }
        next();
    }

    fn boot_again(self: &Arc<Self>, cause: ShutdownCause) {
        // Told to stop in between.
        if self.lock().ended.is_none() {
            return;
        }
        let booted = self.next().and_then(|builder| self.boot(builder));
        if let Err(error) = booted {
            return self.over(RunState::InternalError, Err(error));
        }
        let mut state = self.lock();
        state.doing = None;
        if state.status != RunState::Running {
            state.status = RunState::Prelaunch;
        }
        drop(state);
        self.tell(MachineEvent::Reset(cause));
        self.serve();
    }

    /// The next machine, with the devices of the one before.
    fn next(&self) -> Result<MachineBuilder> {
        let (mut builder, button) = builder(&self.options, self.console.as_ref())?;
        let devices = self.lock().devices.clone();
        for device in devices {
            device.plug(&mut builder)?;
        }
        self.lock().button = Some(button);
        Ok(builder)
    }

    /// The end for good.
    fn over(&self, status: RunState, outcome: Result<ShutdownCause>) {
        let mut state = self.lock();
        state.status = status;
        state.doing = None;
        state.let_clock_run();
        let orders = std::mem::take(&mut state.orders);
        let ended = state.ended.take();
        drop(state);
        orders.into_iter().for_each(RunStateRequest::refuse);
        if let Some(ended) = ended {
            ended(outcome);
        }
    }

    fn tell(&self, event: MachineEvent) {
        let tell = self.lock().tell.clone();
        if let Some(tell) = tell {
            tell(event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, MicroVmState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MicroVmState {
    fn let_clock_stand(&mut self) {
        self.stands = true;
        stop_virtual_clock();
    }

    /// Also when the machine is gone: then nobody else would.
    fn let_clock_run(&mut self) {
        if std::mem::take(&mut self.stands) {
            start_virtual_clock();
        }
    }
}

impl Drop for MicroVmCore {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.let_clock_run();
        state.abandon();
        std::mem::take(&mut state.orders)
            .into_iter()
            .for_each(RunStateRequest::refuse);
    }
}

impl fmt::Debug for MicroVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MicroVm")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

/// What comes later comes to nothing if the machine is gone; it does not keep the machine, nor its console.
fn with(machine: &Weak<MicroVmCore>, action: impl FnOnce(&Arc<MicroVmCore>)) {
    if let Some(machine) = machine.upgrade() {
        action(&machine);
    }
}

fn check(options: &MicroVmOptions) -> Result<()> {
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

/// Something that is to be called once more than there are `others`, from any threads; the last call makes
/// `qcontext-main` do `next`.
fn when_all(others: usize, next: impl FnOnce() + Send + 'static) -> impl Fn() + Clone + Send {
    let left = Arc::new(AtomicUsize::new(others + 1));
    let next = Arc::new(Mutex::new(Some(next)));
    move || {
        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let next = next.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Without a main context nobody wants to go on.
            let _ = next.map(|next| QContext::main().invoke(next));
        }
    }
}

/// A machine with everything but virtio devices, and its power button.
fn builder(
    options: &MicroVmOptions,
    console: Option<&Console>,
) -> Result<(MachineBuilder, IrqLine)> {
    let mut builder = MachineBuilder::new(MachineConfig {
        ram: ram::layout(options.memory),
        cpus: options.cpus.into(),
        pit: false,
        virtio: MmioSlots {
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
    let button = builder.line(layout::BUTTON_GSI, true)?;
    Ok((builder, button))
}

fn window(place: &MmioLocation) -> MmioWindow {
    MmioWindow {
        address: place.registers.start,
        length: place.registers.end - place.registers.start,
        gsi: place.gsi,
    }
}

fn add_serial(builder: &mut MachineBuilder, console: &Console) -> Result<()> {
    let line = builder.line(layout::SERIAL_GSI, true)?;
    let device = Serial::new(console, Arc::new(move || line.signal()));
    let ports = layout::SERIAL..layout::SERIAL + serial::REGISTERS;
    builder.add_pio(ports, "serial", Arc::new(device))
}
