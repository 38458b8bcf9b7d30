//! A machine: KVM's virtual machine, its memory, its buses and its vcpus.
//!
//! Used by the command line. A [`MachineBuilder`] takes devices until [`MachineBuilder::start`] makes a [`Machine`] of it, after which
//! nothing on the buses changes any more.
//!
//! # Threads
//! Any thread may direct a machine. Its end is told once, on the context that [`MachineConfig::context`] names.
#![allow(unsafe_code)] // shows host memory to KVM

use std::fmt;
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
use crate::{Error, ErrorKind, QContext, Result};
use virtio::{MmioLocation, MmioSlots};

/// Three pages that KVM needs on some processors to run real mode, and one more for its page table; below 4 GiB, where
/// no memory and no device is.
const TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// What a machine consists of, besides its devices.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Where memory is, in guest physical addresses; see [`super::ram::layout`].
    pub ram: Vec<Range<u64>>,
    /// The number of vcpus.
    pub cpus: u32,
    /// Whether there is an interval timer (8254).
    pub pit: bool,
    /// Where virtio devices go.
    pub virtio: MmioSlots,
    /// The context on which the machine's end is told.
    pub context: QContext,
}

/// A machine that is being put together.
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

/// A device's, or anybody's, way to end the machine.
#[derive(Clone, Debug)]
pub struct MachineControls(pub(super) Arc<VcpuSet>);

/// A machine. Dropping it stops its vcpus.
pub struct Machine {
    controls: MachineControls,
    vm: Arc<VmFd>,
    ram: Ram,
    /// Where the clock that KVM shows to guests stood when the vcpus were paused.
    clock: Arc<Mutex<Option<u64>>>,
}

impl MachineControls {
    /// Ends the machine: its vcpus stop, and whoever started it is told. The first end counts.
    pub fn end(&self, end: MachineEnd) {
        self.0.end(end);
    }
}

impl MachineBuilder {
    /// A machine without devices, but with interrupt controllers.
    ///
    /// # Errors
    /// As for [`super::open`]; `InvalidArgument` and `LimitExceeded` if the configuration cannot be had.
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
        show_memory(&vm, &ram)?;
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

    /// KVM itself, for what it supports.
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

    /// What the machine was made from.
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
    pub fn add_mmio(
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

    /// Makes the vcpus and lets them run, or, if `paused`, wait for [`Machine::resume`]. `prepare` sets a vcpu's
    /// registers; without it vcpus begin as KVM makes them. `ended` is called once if the machine ends by itself.
    ///
    /// # Errors
    /// `Os` if there are no resources for the vcpus or their threads, or what `prepare` answers.
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
    /// Stops the vcpus between two instructions of theirs and then calls `done`, on the machine's context.
    pub fn pause(&self, done: impl FnOnce() + Send + 'static) {
        let (vm, clock) = (Arc::clone(&self.vm), Arc::clone(&self.clock));
        self.controls.0.pause(Box::new(move || {
            // Some hosts have no such clock.
            let now = vm.get_clock().ok().map(|now| now.clock);
            let mut clock = clock.lock().unwrap_or_else(PoisonError::into_inner);
            *clock = clock.or(now);
            drop(clock);
            done();
        }));
    }

    /// Lets paused vcpus run on. For guests that read KVM's clock no time has passed.
    pub fn resume(&self) {
        let stood = self
            .clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(clock) = stood {
            let clock = kvm_clock_data {
                clock,
                ..kvm_clock_data::default()
            };
            let _ = self.vm.set_clock(&clock);
        }
        self.controls.0.resume();
    }

    /// Whether the vcpus were asked to run and have not ended.
    pub fn is_running(&self) -> bool {
        self.controls.0.is_running()
    }

    /// The kernel's ids of the vcpus' threads, by vcpu.
    pub fn thread_ids(&self) -> Vec<i64> {
        let vcpus = self.vcpus();
        vcpus.iter().map(|vcpu| vcpu.thread_id).collect()
    }

    /// The vcpus as they are now.
    pub fn vcpus(&self) -> Vec<VcpuInfo> {
        self.controls.0.vcpus()
    }

    /// The host's processors that a vcpu's thread may run on, in ascending order.
    ///
    /// # Errors
    /// `NotFound` if there is no such vcpu or its thread has ended.
    pub fn affinity(&self, vcpu: usize) -> Result<Vec<usize>> {
        vcpu::affinity(self.thread_id(vcpu)?)
    }

    /// Lets a vcpu's thread run on these processors of the host only.
    ///
    /// # Errors
    /// As for [`Machine::affinity`]; `InvalidArgument` if there are none, or one that is not there for this process.
    pub fn set_affinity(&self, vcpu: usize, cpus: &[usize]) -> Result<()> {
        vcpu::set_affinity(self.thread_id(vcpu)?, cpus)
    }

    fn thread_id(&self, vcpu: usize) -> Result<i64> {
        let vcpus = self.vcpus();
        let found = vcpus.get(vcpu).filter(|found| found.thread_id > 0);
        found.map(|found| found.thread_id).ok_or_else(|| {
            let message = format!("vcpu {vcpu} has no thread");
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// For whoever else may end the machine.
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

    /// Ends the vcpus and waits for their threads, which takes no longer than an access of theirs to a device. Nobody
    /// is told. Not to be called on a vcpu's thread.
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

fn show_memory(vm: &VmFd, ram: &Ram) -> Result<()> {
    for (slot, area) in (0..).zip(ram.areas()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: area.guest.start,
            memory_size: area.guest.end - area.guest.start,
            userspace_addr: area.host as u64,
        };
        // SAFETY: the range is mapped for as long as the machine's memory lives, which is longer than its vcpus run
        // (invariant 1 of the memory); it belongs to the guest alone.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(failed(format_args!("show {:#x?} to the guest", area.guest)))?;
    }
    Ok(())
}
