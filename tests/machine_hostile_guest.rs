//! Guests that write garbage into every register and every ring: at worst the device stops. Other devices go on, and a reset
//! makes it work again.
//!
//! The guest under KVM says SKIP without /dev/kvm; the driver in this process needs none.
#![allow(unsafe_code)] // symbols of the assembler
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::arch::global_asm;
use std::sync::Arc;
use std::sync::mpsc::channel;

use qcontext::QContext;
use qcontext::kvm::vcpu::RealMode;
use qcontext::kvm::{Machine, MachineEnd};
use support::embedded_guest::{DEADLINE, Disk, Rig, stats};
use support::guest::{self, Job};
use support::in_process::InProcessMachine;
use support::random::Random;
use support::skip::skip;

global_asm!(
    include_str!("machine_hostile_guest/garbage.s"),
    options(att_syntax, raw)
);

unsafe extern "C" {
    static garbage_guest_start: u8;
    static garbage_guest_end: u8;
}

fn garbage_guest() -> &'static [u8] {
    let (start, end) = (&raw const garbage_guest_start, &raw const garbage_guest_end);
    // SAFETY: both labels are of one read-only section, in this order.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Random numbers for registers.
struct Dice(Random);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    fn long(&mut self) -> u32 {
        u32::try_from(self.0.number() >> 32).unwrap()
    }

    /// Small, an address in the second disk's memory, or anything.
    fn value(&mut self) -> u32 {
        match self.below(3) {
            0 => self.long() & 0xf,
            1 => 0x2_0000 | self.long() & 0xffff,
            _ => self.long(),
        }
    }
}

/// The memory of the second disk, and its registers.
const MEMORY: u64 = 0x2_0000;
const REGISTERS: u64 = 0xd_0200;

fn two_disks(blocks: u16) -> [Disk; 2] {
    [1, 2].map(|seed| {
        Disk::new(Job {
            seed,
            blocks,
            ..Job::default()
        })
    })
}

/// One thing that a driver should not do.
fn misbehave(machine: &InProcessMachine, random: &mut Dice) {
    let write = |register: u64, value: u32| {
        machine
            .bus()
            .write(REGISTERS + register, &value.to_le_bytes());
    };
    match random.below(10) {
        0..3 => write(random.below(0x80) * 4, random.value()),
        3 => {
            let mut bytes = vec![0; usize::try_from(1 + random.below(8)).unwrap()];
            let register = random.below(0x208);
            machine.bus().read(REGISTERS + register, &mut bytes);
            machine.bus().write(REGISTERS + register, &bytes);
        }
        4..6 => {
            let words: Vec<u8> = (0..4).flat_map(|_| random.value().to_le_bytes()).collect();
            let place = random.below(0x1000) * 16;
            assert!(machine.ram().memory().write(MEMORY + place, &words));
        }
        6 => initialise(&write, random),
        7..9 => {
            let entry = [random.value(), random.value()]
                .map(u32::to_le_bytes)
                .concat();
            let index = random.below(0x80).to_le_bytes();
            assert!(
                machine
                    .ram()
                    .memory()
                    .write(MEMORY + 0x204 + random.below(60), &entry)
            );
            assert!(machine.ram().memory().write(MEMORY + 0x202, &index[..2]));
            write(0x50, 0);
        }
        _ => write(0x70, 0),
    }
}

/// Initialises the device correctly, except for the contents of the rings and, sometimes, their addresses.
fn initialise(write: &impl Fn(u64, u32), random: &mut Dice) {
    for (register, value) in [
        (0x70, 0),
        (0x70, 1),
        (0x70, 3),
        (0x24, 0),
        (0x20, 0x3000_0200),
    ] {
        write(register, value);
    }
    for (register, value) in [(0x24, 1), (0x20, 0x101), (0x70, 0xb), (0x30, 0)] {
        write(register, value);
    }
    write(0x38, 1 << random.below(9));
    let base = u32::try_from(MEMORY).unwrap();
    for (register, offset) in [(0x80, 0), (0x90, 0x200), (0xa0, 0x300)] {
        let elsewhere = random.below(8) == 0;
        let place = if elsewhere {
            random.value()
        } else {
            base + offset
        };
        write(register, place);
        write(register + 4, 0);
    }
    write(0x44, 1);
    write(0x70, 0xf);
}

#[test]
fn a_device_survives_every_kind_of_garbage_and_works_after_a_reset() {
    for seed in 1..=8 {
        println!("seed {seed}");
        let mut machine = InProcessMachine::new().unwrap();
        let disks = two_disks(16);
        let rig = Rig::on(&mut machine, &disks, QContext::anonymous(true).unwrap());
        let mut random = Dice(Random(seed));
        for _ in 0..20_000 {
            misbehave(&machine, &mut random);
        }
        let outcomes = machine.run(&disks.map(|disk| disk.job)).unwrap();
        for outcome in outcomes {
            assert_eq!((outcome.fault, outcome.requests), (None, 33), "seed {seed}");
        }
        assert!(
            rig.image_is_right(0),
            "the neighbour has its own bytes only"
        );
    }
}

/// How often the garbage guest has gone round.
fn rounds(machine: &Machine) -> u32 {
    let mut bytes = [0; 4];
    assert!(machine.ram().memory().read(MEMORY + 0xff00, &mut bytes));
    u32::from_le_bytes(bytes)
}

#[test]
fn a_guest_full_of_garbage_leaves_its_neighbour_alone() {
    if let Err(error) = qcontext::kvm::open() {
        return skip(error);
    }
    for seed in [1_u32, 0xdead_beef, 0x1234_5678] {
        println!("seed {seed:#x}");
        neighbours(seed);
    }
}

/// Processor 0 drives disk 0 correctly while processor 1 writes garbage to disk 1.
fn neighbours(seed: u32) {
    let (rig, mut builder) = Rig::new(&two_disks(128), 2);
    let job = two_disks(128)[0].job;
    let reports = guest::load(&mut builder, &[job]).unwrap();
    let memory = builder.ram().memory().clone();
    assert!(memory.write(0x4000, garbage_guest()));
    assert!(memory.write(MEMORY + 0xff04, &seed.to_le_bytes()));
    let well = guest::prepare();
    let prepare = move |cpu: u32, vcpu: &_| match cpu {
        0 => well(cpu, vcpu),
        _ => {
            let begin = RealMode {
                segment: 0x400,
                ip: 0,
                sp: 0xa000,
                ax: 1,
            };
            begin.prepare(vcpu)
        }
    };
    let (sender, ended) = channel();
    let machine = builder
        .start(Arc::new(prepare), false, move |end| {
            sender.send(end).unwrap();
        })
        .unwrap();
    let end = ended.recv_timeout(DEADLINE).unwrap();
    machine.stop();
    assert!(matches!(end, MachineEnd::PowerOff), "{end:?}");
    let outcome = reports.outcomes(machine.ram(), 1)[0];
    assert_eq!((outcome.fault, outcome.requests), (None, 257));
    assert!(rig.image_is_right(0));
    let rounds = rounds(&machine);
    assert!(rounds > 1000, "{rounds}");
    println!("{rounds} rounds; disk 1: {:?}", stats(&rig.devices[1]));
}
