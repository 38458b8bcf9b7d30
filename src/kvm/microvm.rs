//! The machine `microvm`, which boots a kernel: processors, memory, virtio-mmio devices and a serial port.
//!
//! A reset ends the [`Machine`] and makes a new one with the same options and devices, and loads the kernel again. So nothing
//! that the guest did to its processors, interrupt controllers and devices survives. The [`MicroVm`] stays the same.
//!
//! * `runstate`: pause, resume, reset and the power button, served one after the other
//! * `cpu`: the processors as objects, `/machine/cpu/0` and so on
//! * `processors`: the registers and features that the processors start with
//!
//! # Threads
//! A machine is made, started, paused, reset and stopped on `qcontext-main`. Any thread may read its state.
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

pub use super::boot::layout::CPUS_MAX;
use cpu::CpuObjects;
pub use cpu::{CpuInfo, register_type};
use runstate::RunStateRequest;
pub use runstate::{MachineEvent, RunState, ShutdownCause};

/// No kernel fits into less.
const MEMORY_MIN: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// The options of a machine.
#[derive(Clone, Copy, Debug)]
pub struct MicroVmOptions {
    /// How many processors.
    pub cpus: u8,
    /// How many bytes of memory, in whole pages.
    pub memory: u64,
    /// Whether a reset boots again. Otherwise it ends the machine, like power-off.
    pub reboot: bool,
}

/// A device that moves to the new machine at a reset.
pub trait MachineDevice: Send + Sync {
    /// Leaves a machine whose vcpus have ended. Calls `done` on any thread when no request is in flight any more.
    fn unplug(&self, done: Box<dyn FnOnce() + Send>);

    /// Stops taking requests of a machine whose vcpus are parked. Calls `done` on any thread when no request is in flight any
    /// more.
    fn hold(&self, done: Box<dyn FnOnce() + Send>);

    /// Takes requests again after [`MachineDevice::hold`].
    fn release(&self);

    /// From now on calls `stop` to stop the machine because a request of the device has failed. The run state is then
    /// [`RunState::IoError`]. Any thread may call it.
    fn stop_machine_by(&self, _stop: Arc<dyn Fn() + Send + Sync>) {}

    /// Joins the new machine.
    ///
    /// # Errors
    /// The machine refuses the device.
    fn plug(&self, machine: &mut MachineBuilder) -> Result<()>;
}

/// Called once on `qcontext-main` when the machine has ended by itself and will not be reset.
type OutcomeCallback = Box<dyn FnOnce(Result<ShutdownCause>) + Send>;
type EventCallback = Arc<dyn Fn(MachineEvent) + Send + Sync>;

/// See the module. Clones are handles of the same machine.
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
    /// Takes devices before the start; `None` afterwards.
    builder: Option<MachineBuilder>,
    /// `None` before the start, between two machines and after the end. Cloned on `qcontext-main` only, for the time of a call.
    machine: Option<Arc<Machine>>,
    /// The line of the machine's power button.
    button: Option<IrqLine>,
    devices: Vec<Arc<dyn MachineDevice>>,
    /// `None` after a stop and after the end.
    ended: Option<OutcomeCallback>,
    tell: Option<EventCallback>,
    status: RunState,
    /// Whether this machine has stopped the virtual clock.
    clock_stopped: bool,
    /// A change of the run state that is not complete; requests wait for it.
    transition: Option<runstate::Transition>,
    requests: VecDeque<RunStateRequest>,
    /// Counts machines. A callback of an earlier machine is ignored.
    generation: u64,
    /// The CPUs set for each processor, for the new thread after a reset.
    affinities: Vec<Option<Vec<usize>>>,
    cpu_objects: Option<CpuObjects>,
}

impl MicroVm {
    /// A machine without virtio devices.
    ///
    /// # Errors
    /// An option is out of range, or as for [`super::open`].
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

    /// Adds the device that `add` makes. Before the start.
    ///
    /// # Errors
    /// `Busy` if the machine has started, or an error of `add`.
    pub fn add<D: MachineDevice + 'static>(
        &self,
        add: impl FnOnce(&mut MachineBuilder) -> Result<Arc<D>>,
    ) -> Result<()> {
        let builder = self.0.lock().builder.take();
        let mut builder =
            builder.ok_or_else(|| Error::new(ErrorKind::Busy, "the machine has started"))?;
        let device = add(&mut builder);
        self.0.lock().builder = Some(builder);
        let device = device?;
        let weak = Arc::downgrade(&self.0);
        device.stop_machine_by(Arc::new(move || runstate::stop_for_error(&weak)));
        self.0.lock().devices.push(device);
        Ok(())
    }

    /// Loads the kernel and runs the machine. If `paused`, it waits for [`MicroVm::resume`]. `tell` is called with each event, and
    /// `ended` once when the machine has ended by itself: with the cause, or with an error if it could not continue. Both are
    /// called on `qcontext-main`.
    ///
    /// The processors appear as `/machine/cpu/N`. The virtual clock runs while the machine runs.
    ///
    /// # Errors
    /// `Busy` if the machine has started; the kernel does not fit into the memory; KVM refuses a call.
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
            self.0.lock().cpu_objects = Some(listed);
            self.0.boot(builder)
        });
        started.inspect_err(|_| self.stop())
    }

    /// Ends the machine and waits for its vcpus. The callback of [`MicroVm::start`] is not called; requests that are waiting fail.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        state.status = RunState::Shutdown;
        // Callbacks that are on their way are ignored.
        state.generation += 1;
        state.abandon();
        let requests = std::mem::take(&mut state.requests);
        let machine = state.machine.take();
        let parts = (
            state.cpu_objects.take(),
            state.builder.take(),
            state.button.take(),
            state.ended.take(),
        );
        drop(state);
        // Without the lock, because this waits.
        if let Some(machine) = machine {
            machine.stop();
        }
        drop(parts);
        self.0.lock().start_clock();
        requests.into_iter().for_each(RunStateRequest::refuse);
    }

    /// How many bytes of the guest's serial output are still to be written; 0 if the output is closed.
    pub fn unsent(&self) -> usize {
        self.0.console.as_ref().map_or(0, Console::unsent)
    }
}

impl MicroVmCore {
    /// Loads the kernel, starts the machine, and resumes it if the run state says so.
    fn boot(self: &Arc<Self>, builder: MachineBuilder) -> Result<()> {
        let platform = Platform {
            cpus: self.options.cpus,
            virtio: builder.virtio_devices().iter().map(window).collect(),
            serial: self.console.is_some(),
        };
        let entry = self.image.load(&builder.ram().map()?, &platform)?;
        let prepare = processors::prepare(self.options.cpus, entry)?;
        let weak = Arc::downgrade(self);
        let ended = move |end| with(&weak, |this| this.ended(end));
        let machine = builder.start(prepare, true, ended)?;
        let mut state = self.lock();
        for (index, cpus) in state.affinities.iter().enumerate() {
            if let Some(cpus) = cpus {
                machine.set_affinity(index, cpus)?;
            }
        }
        if state.status == RunState::Running {
            state.start_clock();
            machine.resume();
        } else {
            state.stop_clock();
        }
        state.machine = Some(Arc::new(machine));
        drop(state);
        Ok(())
    }

    /// The machine has ended: by the guest, by a failure, or for a reset.
    fn ended(self: &Arc<Self>, end: MachineEnd) {
        let mut state = self.lock();
        // Stopped meanwhile.
        if state.ended.is_none() {
            return;
        }
        let machine = state.machine.take();
        let button = state.button.take();
        state.generation += 1;
        let requested = state.abandon();
        drop(state);
        // Its threads are ending, so this does not wait long.
        if let Some(machine) = machine {
            machine.stop();
        }
        drop(button);
        let cause = match (&end, requested) {
            (MachineEnd::PowerOff, _) => ShutdownCause::GuestShutdown,
            (_, true) => ShutdownCause::HostReset,
            (_, false) => ShutdownCause::GuestReset,
        };
        match end {
            MachineEnd::Failed(error) => self.finish(RunState::InternalError, Err(error)),
            MachineEnd::Reset | MachineEnd::TripleFault if self.options.reboot => self.reset(cause),
            MachineEnd::PowerOff | MachineEnd::Reset | MachineEnd::TripleFault => {
                self.finish(RunState::Shutdown, Ok(cause));
            }
        }
    }

    /// Takes the devices off the machine that has ended, and then makes the new one.
    fn reset(self: &Arc<Self>, cause: ShutdownCause) {
        let mut state = self.lock();
        state.transition = Some(runstate::Transition::Reset);
        let devices = state.devices.clone();
        drop(state);
        let weak = Arc::downgrade(self);
        let next = move || with(&weak, |this| this.boot_again(cause));
        let next = when_all(devices.len(), next);
        for device in devices {
            device.unplug(Box::new(next.clone()));
        }
        next();
    }

    fn boot_again(self: &Arc<Self>, cause: ShutdownCause) {
        // Stopped meanwhile.
        if self.lock().ended.is_none() {
            return;
        }
        let booted = self.next_builder().and_then(|builder| self.boot(builder));
        if let Err(error) = booted {
            return self.finish(RunState::InternalError, Err(error));
        }
        let mut state = self.lock();
        state.transition = None;
        if state.status != RunState::Running {
            state.status = RunState::Prelaunch;
        }
        drop(state);
        self.emit(MachineEvent::Reset(cause));
        self.serve();
    }

    /// A new machine with the same devices.
    fn next_builder(&self) -> Result<MachineBuilder> {
        let (mut builder, button) = builder(&self.options, self.console.as_ref())?;
        let devices = self.lock().devices.clone();
        for device in devices {
            device.plug(&mut builder)?;
        }
        self.lock().button = Some(button);
        Ok(builder)
    }

    /// Ends for good: fails the waiting requests and reports the outcome.
    fn finish(&self, status: RunState, outcome: Result<ShutdownCause>) {
        let mut state = self.lock();
        state.status = status;
        state.transition = None;
        state.start_clock();
        let requests = std::mem::take(&mut state.requests);
        let ended = state.ended.take();
        drop(state);
        requests.into_iter().for_each(RunStateRequest::refuse);
        if let Some(ended) = ended {
            ended(outcome);
        }
    }

    fn emit(&self, event: MachineEvent) {
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
    fn stop_clock(&mut self) {
        self.clock_stopped = true;
        stop_virtual_clock();
    }

    /// Also called at the end, so that the clock does not stay stopped.
    fn start_clock(&mut self) {
        if std::mem::take(&mut self.clock_stopped) {
            start_virtual_clock();
        }
    }
}

impl Drop for MicroVmCore {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.start_clock();
        state.abandon();
        std::mem::take(&mut state.requests)
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

/// Runs `action` if the machine still exists. Callbacks hold it weakly, so they keep neither the machine nor its console.
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

/// A function that is to be called by each of the `others` and once by the caller, from any threads. The last call makes
/// `qcontext-main` run `next`.
fn when_all(others: usize, next: impl FnOnce() + Send + 'static) -> impl Fn() + Clone + Send {
    let left = Arc::new(AtomicUsize::new(others + 1));
    let next = Arc::new(Mutex::new(Some(next)));
    move || {
        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let next = next.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Does not fail: the main context cannot be stopped.
            let _ = next.map(|next| QContext::main().invoke(next));
        }
    }
}

/// A machine with all parts but virtio devices, and its power button.
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
