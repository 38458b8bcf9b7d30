//! Machines for tests that run a few bytes of real-mode code.
#![deny(unsafe_code)]
#![allow(clippy::single_range_in_vec_init)] // memory is a list of ranges, often of one

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::deadline::DEADLINE;
use kvm_ioctls::VcpuFd;
use qcontext::QContext;
use qcontext::kvm::bus::BusDevice;
use qcontext::kvm::vcpu::RealMode;
use qcontext::kvm::{
    self, Machine, MachineBuilder, MachineConfig, MachineControls, MachineEnd, MmioSlots,
};

/// The port at which the guest reports bytes, and the one after it, at which it switches the machine off.
pub const REPORT: u16 = 0x10;

/// Why no machine can be had here.
pub fn missing() -> Option<String> {
    kvm::open().err().map(|error| error.to_string())
}

/// Virtio devices right below the first megabyte, on lines of both interrupt controllers.
pub fn slots() -> MmioSlots {
    MmioSlots {
        start: 0xd_0000,
        stride: 0x200,
        lines: vec![5, 10, 11],
    }
}

/// A machine with half a megabyte of memory and a report port.
pub struct Bench {
    pub builder: MachineBuilder,
    pub reports: Receiver<Vec<u8>>,
    pub context: QContext,
}

struct Report {
    sender: Mutex<Sender<Vec<u8>>>,
    controls: MachineControls,
    reads: AtomicU32,
}

impl BusDevice for Report {
    /// Counts its reads.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        data[0] = self.reads.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0];
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match offset {
            0 => self.sender.lock().unwrap().send(data.to_vec()).unwrap(),
            _ => self.controls.end(MachineEnd::PowerOff),
        }
    }
}

impl Bench {
    pub fn new(cpus: u32) -> Bench {
        let context = QContext::anonymous(true).unwrap();
        let config = MachineConfig {
            ram: vec![0..0x8_0000],
            cpus,
            pit: false,
            virtio: slots(),
            context: context.clone(),
        };
        let mut builder = MachineBuilder::new(config).unwrap();
        let (sender, reports) = channel();
        let report = Arc::new(Report {
            sender: Mutex::new(sender),
            controls: builder.controls(),
            reads: AtomicU32::new(0),
        });
        builder
            .add_pio(REPORT..REPORT + 2, "report", report)
            .unwrap();
        Bench {
            builder,
            reports,
            context,
        }
    }

    /// Runs `code` from address 0x1000 on every vcpu, whose AX holds its number.
    pub fn start(self, code: &[u8], paused: bool) -> Running {
        self.start_with(code, paused, |_| {})
    }

    /// The same, with more to set on each vcpu.
    pub fn start_with(
        self,
        code: &[u8],
        paused: bool,
        set: impl Fn(&VcpuFd) + Send + Sync + 'static,
    ) -> Running {
        assert!(self.builder.ram().memory().write(0x1000, code));
        let (sender, ended) = channel();
        let prepare = move |cpu: u32, vcpu: &VcpuFd| {
            set(vcpu);
            let cpu = u16::try_from(cpu).unwrap();
            let begin = RealMode {
                segment: 0x100,
                ip: 0,
                sp: 0x8000 - 0x100 * cpu,
                ax: cpu,
            };
            begin.prepare(vcpu)
        };
        let machine = self
            .builder
            .start(Arc::new(prepare), paused, move |end| {
                sender.send(end).unwrap();
            })
            .unwrap();
        Running {
            machine,
            reports: self.reports,
            ended,
            _context: self.context,
        }
    }
}

/// A started machine.
pub struct Running {
    pub machine: Machine,
    pub reports: Receiver<Vec<u8>>,
    pub ended: Receiver<MachineEnd>,
    _context: QContext,
}

impl Running {
    pub fn next(&self) -> Vec<u8> {
        self.reports.recv_timeout(DEADLINE).expect("a report")
    }

    pub fn end(&self) -> MachineEnd {
        self.ended.recv_timeout(DEADLINE).expect("an end")
    }
}
