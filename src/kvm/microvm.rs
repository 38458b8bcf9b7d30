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
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, VcpuFd};

use super::boot::cpuid::{self, Processor};
use super::boot::{Entry, Image, Platform, layout, registers};
use super::power::{self, Power};
use super::ram;
use super::serial::{self, Console, Serial};
use super::vcpu::Prepare;
use super::{Builder, Config, End, Machine, failed};
use crate::{Error, ErrorKind, QContext, Result};

/// The smallest memory that is worth a try.
const MEMORY_MIN: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many processors.
    pub cpus: u8,
    /// How many bytes of memory, in whole pages.
    pub memory: u64,
    /// The kernel's file: a bzImage, or an ELF file.
    pub kernel: PathBuf,
    /// The initrd's file.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub append: String,
    /// Whether a reset boots again; else it ends the machine, like power-off.
    pub reboot: bool,
}

/// Called once when the machine has ended for good, on `qcontext-main`.
type Ended = Box<dyn FnOnce(Result<()>) + Send>;

/// The machine.
pub struct MicroVm(Arc<Shared>);

struct Shared {
    options: Options,
    image: Image,
    console: Option<Console>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    machine: Option<Machine>,
    /// Gone when the machine was told to stop, or has ended.
    ended: Option<Ended>,
}

impl MicroVm {
    /// A machine with its kernel looked at, and nothing else done.
    ///
    /// # Errors
    /// The kernel or the initrd cannot be booted, or a number is out of range.
    pub fn new(options: Options, console: Option<Console>) -> Result<MicroVm> {
        check(&options)?;
        let initrd = options.initrd.as_deref();
        let image = Image::open(&options.kernel, initrd, &options.append)?;
        Ok(MicroVm(Arc::new(Shared {
            options,
            image,
            console,
            state: Mutex::default(),
        })))
    }

    /// Boots. `ended` is called once when the guest has ended the machine, with an error if it could not go on.
    ///
    /// # Errors
    /// There is no KVM here, or not what the machine needs of it; the kernel does not fit into the memory.
    pub fn start(&self, ended: impl FnOnce(Result<()>) + Send + 'static) -> Result<()> {
        let machine = self.0.boot()?;
        let mut state = self.0.lock();
        state.machine = Some(machine);
        state.ended = Some(Box::new(ended));
        drop(state);
        Ok(())
    }

    /// Ends the machine and waits for its vcpus. Nobody is told.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        let machine = state.machine.take();
        state.ended = None;
        drop(state);
        // Outside of the lock: this waits.
        drop(machine);
    }

    /// Whether everything that the guest has written to its serial port is out.
    pub fn is_quiet(&self) -> bool {
        self.0.console.as_ref().is_none_or(Console::is_quiet)
    }
}

impl Shared {
    /// Makes a machine and lets it run.
    fn boot(self: &Arc<Self>) -> Result<Machine> {
        let options = &self.options;
        let mut builder = Builder::new(Config {
            ram: ram::layout(options.memory),
            cpus: options.cpus.into(),
            pit: false,
            context: QContext::main(),
        })?;
        let power = Power::new(builder.controls().clone());
        builder.add_pio(power::PORTS, "power", Arc::new(power))?;
        if let Some(console) = &self.console {
            add_serial(&mut builder, console)?;
        }
        let platform = Platform {
            cpus: options.cpus,
            virtio: Vec::new(),
            serial: self.console.is_some(),
        };
        let entry = self.image.load(&builder.ram().map()?, &platform)?;
        let prepare = prepare(options.cpus, entry)?;
        let this = Arc::downgrade(self);
        builder.start(prepare, false, move |end| {
            if let Some(this) = this.upgrade() {
                this.ended(end);
            }
        })
    }

    /// The machine has ended by itself.
    fn ended(self: &Arc<Self>, end: End) {
        // Its threads are about to end; the next machine gets memory and devices that nobody else uses.
        let machine = self.lock().machine.take();
        drop(machine);
        let outcome = match end {
            End::PowerOff => Ok(()),
            End::Failed(error) => Err(error),
            End::Reset | End::TripleFault if self.options.reboot => return self.reboot(),
            End::Reset | End::TripleFault => Ok(()),
        };
        self.tell(outcome);
    }

    fn reboot(self: &Arc<Self>) {
        if self.lock().ended.is_none() {
            return;
        }
        match self.boot() {
            Ok(machine) => self.lock().machine = Some(machine),
            Err(error) => self.tell(Err(error)),
        }
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

fn add_serial(builder: &mut Builder, console: &Console) -> Result<()> {
    let line = builder.line(layout::SERIAL_GSI, true)?;
    let device = Serial::new(console, Arc::new(move || line.raise()));
    let ports = layout::SERIAL..layout::SERIAL + serial::REGISTERS;
    builder.add_pio(ports, "serial", Arc::new(device))
}

/// How the processors begin: the first one at the kernel's entry, the others when the first one wakes them.
fn prepare(cpus: u8, entry: Entry) -> Result<Prepare> {
    let kvm = super::open()?;
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("ask what processors it supports"))?;
    let supported: Vec<kvm_cpuid_entry2> = supported.as_slice().to_vec();
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    Ok(Arc::new(move |index, vcpu: &VcpuFd| {
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        let processor = Processor {
            index,
            count: cpus,
            tsc_deadline,
        };
        set_features(vcpu, &cpuid::leaves(&supported, processor))?;
        if index > 0 {
            return Ok(());
        }
        let reset = vcpu.get_sregs().map_err(failed("read registers"))?;
        vcpu.set_sregs(&registers::system(entry, reset))
            .map_err(failed("set system registers"))?;
        vcpu.set_regs(&registers::general(entry))
            .map_err(failed("set registers"))
    }))
}

fn set_features(vcpu: &VcpuFd, leaves: &[kvm_cpuid_entry2]) -> Result<()> {
    let too_many = |_| {
        Error::new(
            ErrorKind::LimitExceeded,
            "KVM: too many features of a processor",
        )
    };
    let leaves = CpuId::from_entries(leaves).map_err(too_many)?;
    vcpu.set_cpuid2(&leaves)
        .map_err(failed("set a processor's features"))?;
    let msrs = Msrs::from_entries(&cpuid::msrs()).map_err(too_many)?;
    let set = vcpu
        .set_msrs(&msrs)
        .map_err(failed("set model-specific registers"))?;
    match cpuid::msrs().get(set) {
        None => Ok(()),
        Some(entry) => {
            let message = format!("KVM: cannot set model-specific register {:#x}", entry.index);
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}
