//! A machine: KVM's virtual machine, its memory, its buses and its vcpus.
//!
//! A [`MachineBuilder`] takes devices. [`MachineBuilder::start`] makes a [`Machine`] of it; after that the buses do not change.
//!
//! # Threads
//! Any thread may pause, resume and stop a machine. If the machine ends by itself, it says so once, on the context
//! [`MachineConfig::context`].
#![allow(unsafe_code)] // gives host memory to KVM

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_PIT_SPEAKER_DUMMY, kvm_clock_data, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VmFd};

pub(super) mod virtio;

use super::bus::{Bus, BusDevice};
use super::irq::IrqLine;
use super::ram::Ram;
use super::vcpu::{self, MachineEnd, PrepareVcpu, VcpuInfo, VcpuSet};
use super::{failed, uninterrupted};
use crate::context::affinity::{affinity, set_affinity};
use crate::{Error, ErrorKind, QContext, Result};
use virtio::{MmioLocation, MmioSlots};

/// Three pages that KVM needs on some processors to run real mode, and one page for its page table. They are below 4 GiB, where
/// there is no memory and no device.
const TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// The parts of a machine besides its devices.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The guest physical addresses of memory; see [`super::ram::layout`].
    pub ram: Vec<Range<u64>>,
    /// The number of vcpus.
    pub cpus: u32,
    /// Whether there is an interval timer (8254).
    pub pit: bool,
    /// The addresses and interrupts of virtio devices.
    pub virtio: MmioSlots,
    /// The context on which the machine's callbacks run.
    pub context: QContext,
}

/// A machine that has not started, and takes devices.
#[derive(Debug)]
pub struct MachineBuilder {
    kvm: Kvm,
    vm: Arc<VmFd>,
    config: MachineConfig,
    pio: Bus,
    mmio: Bus,
    controls: MachineControls,
    announcements: Vec<MmioLocation>,
    ram: Ram,
}

/// Ends the machine. For devices and others.
#[derive(Clone, Debug)]
pub struct MachineControls(pub(super) Arc<VcpuSet>);

/// A machine. Dropping it stops its vcpus.
pub struct Machine {
    controls: MachineControls,
    vm: Arc<VmFd>,
    ram: Ram,
    /// The value of KVM's clock when the vcpus were paused; `None` while they run.
    clock: Arc<Mutex<Option<u64>>>,
}

impl MachineControls {
    /// Ends the machine: its vcpus stop, and the callback of [`MachineBuilder::start`] is called. Only the first call counts.
    pub fn end(&self, end: MachineEnd) {
        self.0.end(end);
    }
}

#[doc(hidden)] // for this repository's demo, tests and benchmarks; others pass the builder on to `Device::add_to`
impl MachineBuilder {
    /// A machine without devices, but with interrupt controllers.
    ///
    /// # Errors
    /// As for [`super::open`]; `InvalidArgument` and `LimitExceeded` if a number in the configuration is out of range.
    pub fn new(config: MachineConfig) -> Result<MachineBuilder> {
        let kvm = super::open()?;
        check_cpus(&kvm, config.cpus)?;
        let ram = Ram::new(&config.ram)?;
        let vm = uninterrupted(|| kvm.create_vm()).map_err(failed("make a virtual machine"))?;
        let vm = Arc::new(vm);
        vm.set_identity_map_address(IDENTITY_MAP)
            .map_err(failed("place the identity map"))?;
        vm.set_tss_address(TSS)
            .map_err(failed("place the task state segment"))?;
        map_memory(&vm, &ram)?;
        vm.create_irq_chip()
            .map_err(failed("make interrupt controllers"))?;
        if config.pit {
            let pit = kvm_pit_config {
                flags: KVM_PIT_SPEAKER_DUMMY,
                ..kvm_pit_config::default()
            };
            vm.create_pit2(pit).map_err(failed("make a timer"))?;
        }
        let vcpus = VcpuSet::new(config.context.clone());
        Ok(MachineBuilder {
            kvm,
            vm,
            config,
            pio: Bus::default(),
            mmio: Bus::default(),
            controls: MachineControls(Arc::new(vcpus)),
            announcements: Vec::new(),
            ram,
        })
    }

    /// KVM itself, to ask what it supports.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// KVM's virtual machine.
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// The machine's memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The configuration.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// For devices that can end the machine.
    pub fn controls(&self) -> MachineControls {
        self.controls.clone()
    }

    /// Puts a device at I/O ports.
    ///
    /// # Errors
    /// `InvalidArgument` if they are taken.
    pub fn add_pio(
        &mut self,
        ports: Range<u16>,
        name: &str,
        device: Arc<dyn BusDevice>,
    ) -> Result<()> {
        let ports = u64::from(ports.start)..u64::from(ports.end);
        self.pio.add(ports, name, device)
    }

    /// Puts a device at memory addresses.
    ///
    /// # Errors
    /// `InvalidArgument` if they are taken, by another device or by memory.
    pub(crate) fn add_mmio(
        &mut self,
        addresses: Range<u64>,
        name: &str,
        device: Arc<dyn BusDevice>,
    ) -> Result<()> {
        let overlaps = |ram: &Range<u64>| ram.start < addresses.end && addresses.start < ram.end;
        if self.ram.ranges().any(|ram| overlaps(&ram)) {
            let start = addresses.start;
            let message = format!("device '{name}' at {start:#x} overlaps memory");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.mmio.add(addresses, name, device)
    }

    /// Connects to an input of the interrupt controllers; see [`IrqLine`].
    ///
    /// # Errors
    /// `Os` if there is no such input.
    pub fn line(&self, gsi: u32, irqfd: bool) -> Result<IrqLine> {
        IrqLine::new(&self.vm, gsi, irqfd)
    }

    /// Makes the vcpus and runs them. If `paused`, they wait for [`Machine::resume`]. `prepare` sets the registers of each vcpu.
    /// `ended` is called once if the machine ends by itself.
    ///
    /// # Errors
    /// `Os` if resources for vcpus or threads have run out, or an error of `prepare`.
    pub fn start(
        self,
        prepare: PrepareVcpu,
        paused: bool,
        ended: impl FnOnce(MachineEnd) + Send + 'static,
    ) -> Result<Machine> {
        let mut vcpus = Vec::new();
        for index in 0..self.config.cpus {
            let vcpu = self
                .vm
                .create_vcpu(u64::from(index))
                .map_err(failed(format_args!("make vcpu {index}")))?;
            vcpus.push(vcpu);
        }
        for (index, vcpu) in (0..).zip(&vcpus) {
            prepare(index, vcpu)?;
        }
        let machine = Machine {
            controls: self.controls,
            vm: self.vm,
            ram: self.ram,
            clock: Arc::default(),
        };
        let buses = vcpu::Buses {
            pio: Arc::new(self.pio),
            mmio: Arc::new(self.mmio),
        };
        let set = &machine.controls.0;
        set.start(vcpus, &buses, Box::new(ended))?;
        if !paused {
            set.resume();
        }
        Ok(machine)
    }
}

impl Machine {
    /// Pauses the vcpus between two instructions, and then calls `done` on the machine's context.
    pub fn pause(&self, done: impl FnOnce() + Send + 'static) {
        let (vm, clock) = (Arc::clone(&self.vm), Arc::clone(&self.clock));
        self.controls.0.pause(Box::new(move || {
            // Fails on hosts without this clock.
            let now = vm.get_clock().ok().map(|now| now.clock);
            let mut clock = clock.lock().unwrap_or_else(PoisonError::into_inner);
            *clock = clock.or(now);
            drop(clock);
            done();
        }));
    }

    /// Resumes paused vcpus. KVM's clock, which the guest can read, continues where it was.
    pub fn resume(&self) {
        let paused_at = self
            .clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(clock) = paused_at {
            let clock = kvm_clock_data {
                clock,
                ..kvm_clock_data::default()
            };
            if let Err(error) = self.vm.set_clock(&clock) {
                // The guest sees its clock jump.
                let error = io::Error::from(error);
                glib::g_message!("qcontext", "machine: cannot set the clock back: {error}");
            }
        }
        self.controls.0.resume();
    }

    /// Whether the vcpus are to run: not paused and not ended.
    pub fn is_running(&self) -> bool {
        self.controls.0.is_running()
    }

    /// The kernel's thread id of each vcpu.
    pub fn thread_ids(&self) -> Vec<i64> {
        let vcpus = self.vcpus();
        vcpus.iter().map(|vcpu| vcpu.thread_id).collect()
    }

    /// The state of each vcpu.
    pub fn vcpus(&self) -> Vec<VcpuInfo> {
        self.controls.0.vcpus()
    }

    /// The host's CPUs that a vcpu's thread may run on, in ascending order.
    ///
    /// # Errors
    /// `NotFound` if there is no such vcpu or its thread has ended.
    pub fn affinity(&self, vcpu: usize) -> Result<Vec<usize>> {
        affinity(self.thread_id(vcpu)?)
    }

    /// Restricts a vcpu's thread to these CPUs of the host.
    ///
    /// # Errors
    /// As for [`Machine::affinity`]; `InvalidArgument` if the list is empty, or the process may not use one of them.
    pub(crate) fn set_affinity(&self, vcpu: usize, cpus: &[usize]) -> Result<()> {
        set_affinity(self.thread_id(vcpu)?, cpus)
    }

    fn thread_id(&self, vcpu: usize) -> Result<i64> {
        let vcpus = self.vcpus();
        let found = vcpus.get(vcpu).filter(|found| found.thread_id > 0);
        found.map(|found| found.thread_id).ok_or_else(|| {
            let message = format!("vcpu {vcpu} has no thread");
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// For others that can end the machine.
    pub fn controls(&self) -> &MachineControls {
        &self.controls
    }

    /// The machine's memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// KVM's virtual machine.
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Stops the vcpus and waits for their threads, for as long as one access to a device takes. The callback of
    /// [`MachineBuilder::start`] is not called. Must not be called on a vcpu's thread.
    pub fn stop(&self) {
        self.controls.0.stop();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("controls", &self.controls)
            .field("ram", &self.ram)
            .finish_non_exhaustive()
    }
}

fn check_cpus(kvm: &Kvm, cpus: u32) -> Result<()> {
    let most = kvm.get_max_vcpus();
    if cpus == 0 || usize::try_from(cpus).unwrap_or(usize::MAX) > most {
        let message = format!("{cpus} vcpus cannot be had, expected 1 to {most}");
        return Err(Error::new(ErrorKind::LimitExceeded, message));
    }
    Ok(())
}

fn map_memory(vm: &VmFd, ram: &Ram) -> Result<()> {
    for (slot, area) in (0..).zip(ram.areas()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: area.guest.start,
            memory_size: area.guest.end - area.guest.start,
            userspace_addr: area.host as u64,
        };
        // SAFETY: the range is mapped as long as the machine's memory lives, which outlives its vcpus (invariant 1 of `ram`), and
        // only the guest uses it.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(failed(format_args!("show {:#x?} to the guest", area.guest)))?;
    }
    Ok(())
}
