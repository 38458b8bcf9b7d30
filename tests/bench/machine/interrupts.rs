//! What an interrupt costs the thread that raises it, by irqfd and by calls, alone.
//!
//! The guest has interrupts off and halts, so none is taken and no thread competes for the processor. Both ways end in the
//! same interrupt controllers; by irqfd KVM may get there on a thread of the kernel's, which is not in the figure, while the
//! raising thread makes both calls, up and down, itself.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the measurement

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qcontext::QContext;
use qcontext::kvm::irq::IrqLine;
use qcontext::kvm::vcpu::RealMode;
use qcontext::kvm::{Machine, MachineBuilder};
use qcontext::virtio::Signal;
use support::guest;

/// Interrupts in a row.
const COUNT: u32 = 20_000;

/// The ways, with the lines that they raise.
pub(crate) const WAYS: [(&str, u32); 2] = [("irqfd", 5), ("calls", 10)];

/// `cli; hlt; jmp` to the halt.
const SLEEP: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

/// A machine that sleeps, and its lines.
pub(crate) struct Rig {
    lines: [IrqLine; 2],
    machine: Machine,
    home: QContext,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        let home = QContext::anonymous(true).unwrap();
        let builder = MachineBuilder::new(guest::config(1, &home)).unwrap();
        let lines = WAYS.map(|(way, gsi)| builder.line(gsi, way == "irqfd").unwrap());
        assert!(builder.ram().memory().write(0x1000, &SLEEP));
        let prepare = |_: u32, vcpu: &_| {
            let begin = RealMode {
                segment: 0x100,
                ip: 0,
                sp: 0x8000,
                ax: 0,
            };
            begin.prepare(vcpu)
        };
        let told = |end| panic!("the guest has ended: {end:?}");
        let machine = builder.start(Arc::new(prepare), false, told).unwrap();
        Rig {
            lines,
            machine,
            home,
        }
    }

    /// The time of one interrupt.
    pub(crate) fn raise(&self, way: usize) -> Duration {
        let line = &self.lines[way];
        let since = Instant::now();
        for _ in 0..COUNT {
            line.signal();
        }
        let took = since.elapsed();
        assert!(self.machine.is_running());
        took / COUNT
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.machine.stop();
        let _ = self.home.stop();
    }
}

/// The table of the medians.
pub(crate) fn table(medians: [Duration; 2]) -> String {
    let mut text = format!(
        "\nraised {COUNT} times in a row by one thread, at a guest that sleeps with interrupts off:\n\n\
         | interrupt | for the raising thread |\n\
         |-----------|-----------------------:|\n"
    );
    for ((way, _), median) in WAYS.iter().zip(medians) {
        writeln!(text, "| {way:9} | {:19} ns |", median.as_nanos()).unwrap();
    }
    text
}
