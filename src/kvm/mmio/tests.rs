//! The registers as a driver sees them.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use gsource::Wait;

use super::BusDevice;
use super::registers::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};
use crate::virtio::{F_RING_RESET, F_VERSION_1};

mod hold;
mod resize;
mod rig;
mod shutdown;

use rig::Rig;

const FLUSH: u64 = 1 << 9;
const SIZE_MAX: u16 = 256;
/// A driver that has agreed on features, and one that is done.
const AGREED: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK;
const READY: u32 = AGREED | DRIVER_OK;

#[test]
fn the_device_says_what_it_is() {
    let rig = Rig::new();
    let identity = [0, 4, 8, 0xc].map(|offset| rig.read(offset));
    assert_eq!(identity, [0x7472_6976, 2, 2, 0x7874_6371]);
    assert_eq!(rig.status(), 0);
    assert_eq!(rig.read(0xfc), 0);
}

#[test]
fn features_are_shown_by_halves_and_the_transport_adds_its_own() {
    let rig = Rig::new();
    let half = |selected| {
        rig.write(0x14, selected);
        u64::from(rig.read(0x10))
    };
    assert_eq!(half(0) | half(1) << 32, F_VERSION_1 | FLUSH | F_RING_RESET);
    assert_eq!([half(2), half(u32::MAX)], [0, 0]);
}

#[test]
fn features_that_were_not_offered_are_not_agreed_on() {
    for features in [0, FLUSH, F_VERSION_1 | 1 << 5, F_VERSION_1 | 1 << 63] {
        let rig = Rig::new();
        rig.agree(features);
        assert_eq!(rig.status(), ACKNOWLEDGE | DRIVER, "{features:#x}");
        // Without agreement there is no operation.
        rig.write(0x70, READY & !FEATURES_OK);
        assert_eq!(rig.status() & DRIVER_OK, 0);
    }
}

#[test]
fn features_cannot_change_once_agreed_on() {
    let rig = Rig::new();
    rig.agree(F_VERSION_1);
    rig.write(0x24, 0);
    rig.write(0x20, u32::MAX);
    rig.describe(0, 64);
    rig.write(0x70, READY);
    rig.iterate();
    assert_eq!(rig.last().features, F_VERSION_1);
}

#[test]
fn queues_start_at_driver_ok_as_they_were_described() {
    let rig = Rig::new();
    rig.agree(F_VERSION_1 | FLUSH);
    rig.write(0x30, 1);
    assert_eq!(rig.read(0x34), u32::from(SIZE_MAX));
    rig.describe(1, 128);
    assert_eq!(rig.read(0x44), 1);
    rig.iterate();
    assert!(rig.started().is_empty());
    assert!(!rig.mmio.is_driven());
    rig.write(0x70, READY);
    rig.iterate();
    assert_eq!((rig.status(), rig.started()), (READY, vec![1]));
    assert!(rig.mmio.is_driven());
    let setup = rig.last();
    assert_eq!((setup.size, setup.next_avail), (128, 0));
    let addresses = [setup.descriptors, setup.available, setup.used];
    assert_eq!(addresses, [0x1_0000_1000, 0x1_0000_2000, 0x1_0000_3000]);
    assert_eq!(setup.features, F_VERSION_1 | FLUSH);
    assert!(setup.kick.is_some());
}

#[test]
fn a_queue_without_a_proper_size_is_never_ready() {
    let rig = Rig::new();
    rig.agree(F_VERSION_1);
    for size in [0, 3, 512, 0x1_0000, u32::MAX] {
        rig.describe(0, size);
        assert_eq!(rig.read(0x44), 0, "{size}");
    }
    rig.describe(2, 64);
    assert_eq!([0x34, 0x44, 0xc0].map(|offset| rig.read(offset)), [0; 3]);
    rig.write(0x70, READY);
    rig.iterate();
    assert!(rig.started().is_empty());
}

#[test]
fn queues_are_described_after_the_features_and_before_they_are_ready() {
    let rig = Rig::new();
    rig.write(0x70, ACKNOWLEDGE | DRIVER);
    rig.describe(0, 64);
    assert_eq!(rig.read(0x44), 0);
    rig.agree(F_VERSION_1);
    rig.describe(0, 64);
    rig.describe(0, 32);
    rig.write(0x70, READY);
    rig.describe(0, 16);
    rig.iterate();
    assert_eq!(rig.started(), [0]);
    assert_eq!(rig.last().size, 64);
}

#[test]
fn accesses_of_a_wrong_width_do_nothing() {
    let rig = Rig::new();
    for length in [1, 2, 3, 8] {
        let mut data = vec![0xee; length];
        rig.mmio.read(0, &mut data);
        assert_eq!(data, vec![0; length]);
        rig.mmio.write(0x70, &vec![1; length]);
    }
    rig.mmio.write(0x71, &[1, 0, 0, 0]);
    assert_eq!(rig.status(), 0);
    assert_eq!(rig.read(0x02), 0);
    // Write-only, read-only, and nothing at all.
    for offset in (0..0x100).step_by(4) {
        if ![0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0xc0].contains(&offset) {
            rig.write(offset, u32::MAX);
        }
    }
    assert_eq!([0x50, 0x64, 0x68].map(|offset| rig.read(offset)), [0; 3]);
    assert_eq!(
        [0xb0, 0xb4, 0xb8, 0xbc].map(|offset| rig.read(offset)),
        [u32::MAX; 4]
    );
}

#[test]
fn configuration_space_is_accessible_at_every_width() {
    let rig = Rig::new();
    let mut wide = [0; 8];
    rig.mmio.read(0x108, &mut wide);
    assert_eq!(wide, [8, 9, 10, 11, 12, 13, 14, 15]);
    let mut narrow = [0];
    rig.mmio.read(0x121, &mut narrow);
    assert_eq!(narrow, [0x21]);
    rig.mmio.write(0x120, &[1]);
    rig.mmio.write(0x1fe, &[2, 3]);
    let config = std::mem::take(&mut rig.fake.0.lock().unwrap().config);
    assert_eq!(config, [(0x20, vec![1]), (0xfe, vec![2, 3])]);
}

#[test]
fn an_interrupt_is_pending_until_it_is_acknowledged() {
    let rig = Rig::new();
    rig.drive();
    let setup = rig.last();
    let call = setup.call.unwrap();
    assert_eq!((rig.read(0x60), rig.interrupts()), (0, 0));
    call.signal();
    call.signal();
    assert_eq!((rig.read(0x60), rig.interrupts()), (1, 2));
    rig.write(0x64, 2);
    assert_eq!(rig.read(0x60), 1);
    rig.write(0x64, 1);
    assert_eq!(rig.read(0x60), 0);
    call.signal();
    assert_eq!((rig.read(0x60), rig.interrupts()), (1, 3));
}

#[test]
fn a_changed_configuration_is_counted_and_interrupts_a_driver_that_operates() {
    let rig = Rig::new();
    let listener = rig.fake.0.lock().unwrap().config_listener.take().unwrap();
    let change = || listener.upgrade().unwrap().signal();
    change();
    assert_eq!([0xfc, 0x60].map(|offset| rig.read(offset)), [1, 0]);
    rig.agree(F_VERSION_1);
    change();
    assert_eq!((rig.read(0xfc), rig.interrupts()), (2, 0));
    rig.drive();
    change();
    assert_eq!([0xfc, 0x60].map(|offset| rig.read(offset)), [3, 2]);
    assert_eq!(rig.interrupts(), 1);
    rig.write(0x64, 2);
    assert_eq!(rig.read(0x60), 0);
    rig.write(0x70, 0);
    change();
    assert_eq!((rig.read(0xfc), rig.read(0x60)), (4, 0));
    rig.finish_stops();
    rig.drive();
    change();
    assert_eq!((rig.read(0x60), rig.interrupts()), (2, 2));
    drop(rig);
    assert!(listener.upgrade().is_none());
}

#[test]
fn a_broken_queue_asks_for_a_reset_once() {
    let rig = Rig::new();
    rig.drive();
    let setup = rig.last();
    let err = setup.err.unwrap();
    err.signal();
    err.signal();
    assert_eq!(rig.status(), READY | NEEDS_RESET);
    assert_eq!((rig.read(0x60), rig.interrupts()), (2, 1));
    // The driver cannot set or clear the bit.
    rig.write(0x70, READY);
    assert_eq!(rig.status(), READY | NEEDS_RESET);
    rig.write(0x70, 0);
    rig.finish_stops();
    assert_eq!((rig.status(), rig.read(0x60)), (0, 0));
    rig.write(0x70, NEEDS_RESET);
    assert_eq!(rig.status(), 0);
}

#[test]
fn a_queue_that_cannot_start_asks_for_a_reset_and_says_why() {
    let rig = Rig::new();
    rig.fake.0.lock().unwrap().refuse = true;
    rig.drive();
    assert_eq!(rig.status(), READY | NEEDS_RESET);
    let fault = rig.fake.0.lock().unwrap().faults.pop().unwrap();
    assert_eq!(
        (fault.queue, &*fault.reason),
        (Some(0), "cannot start: no such ring")
    );
    rig.write(0x70, 0);
    rig.iterate();
    assert_eq!(rig.status(), 0);
    assert!(rig.stopping().is_empty());
    rig.fake.0.lock().unwrap().refuse = false;
    rig.drive();
    assert_eq!((rig.status(), rig.started()), (READY, vec![0]));
}

#[test]
fn the_status_is_zero_only_when_nothing_is_in_flight() {
    let rig = Rig::new();
    rig.drive();
    rig.write(0x70, 0);
    rig.iterate();
    assert_eq!((rig.status(), rig.stopping()), (READY, vec![0]));
    rig.write(0x70, 0);
    rig.iterate();
    assert_eq!((rig.status(), rig.stopping()), (READY, vec![0]));
    rig.finish_stops();
    assert_eq!(rig.status(), 0);
    assert!(!rig.mmio.is_driven());
}

#[test]
fn a_driver_that_does_not_wait_for_the_reset_starts_after_it() {
    let rig = Rig::new();
    rig.drive();
    rig.write(0x70, 0);
    rig.drive();
    assert_eq!((rig.status(), rig.started()), (READY, vec![0]));
    assert_eq!(rig.stopping(), [0]);
    rig.finish_stops();
    assert_eq!(rig.started(), [0, 0]);
    assert_eq!(rig.status(), READY);
}

#[test]
fn a_start_that_is_cancelled_before_its_time_never_happens() {
    let rig = Rig::new();
    rig.drive();
    rig.write(0x70, 0);
    rig.drive();
    rig.write(0x70, 0);
    rig.iterate();
    assert_ne!(rig.status(), 0, "the first run is not over");
    rig.finish_stops();
    assert_eq!((rig.status(), rig.started()), (0, vec![0]));
}

#[test]
fn signals_from_before_a_reset_are_ignored() {
    let rig = Rig::new();
    rig.drive();
    let before = rig.last();
    rig.write(0x70, 0);
    rig.finish_stops();
    rig.drive();
    before.call.unwrap().signal();
    before.err.unwrap().signal();
    assert_eq!((rig.status(), rig.read(0x60)), (READY, 0));
}

#[test]
fn a_queue_that_is_made_unready_stops_and_can_start_again() {
    let rig = Rig::new();
    rig.drive();
    rig.write(0x44, 0);
    rig.iterate();
    assert_eq!((rig.read(0x44), rig.stopping()), (1, vec![0]));
    // Not before it has stopped.
    rig.describe(0, 32);
    rig.iterate();
    assert_eq!(rig.started(), [0]);
    rig.finish_stops();
    assert_eq!(rig.read(0x44), 0);
    rig.describe(0, 32);
    rig.iterate();
    assert_eq!((rig.read(0x44), rig.started()), (1, vec![0, 0]));
    assert_eq!(rig.last().size, 32);
}

#[test]
fn a_queue_is_reset_while_the_device_goes_on() {
    let rig = Rig::new();
    rig.agree(F_VERSION_1 | F_RING_RESET);
    rig.describe(0, 64);
    rig.describe(1, 64);
    rig.write(0x70, READY);
    rig.iterate();
    rig.write(0x30, 1);
    rig.write(0xc0, 1);
    rig.iterate();
    assert_eq!((rig.read(0xc0), rig.stopping()), (1, vec![1]));
    rig.finish_stops();
    assert_eq!(
        [rig.read(0xc0), rig.read(0x44), rig.status()],
        [0, 0, READY]
    );
    // Its description is gone.
    rig.write(0x44, 1);
    assert_eq!(rig.read(0x44), 0);
    rig.describe(1, 16);
    rig.iterate();
    assert_eq!(rig.started(), [0, 1, 1]);
}

#[test]
fn a_queue_reset_of_a_queue_that_stops_already_takes_as_long() {
    for registers in [[0x44, 0xc0], [0xc0, 0x44]] {
        let rig = Rig::new();
        rig.drive();
        for register in registers {
            rig.write(register, u32::from(register == 0xc0));
        }
        rig.iterate();
        assert_eq!(rig.stopping(), [0]);
        assert_eq!([rig.read(0x44), rig.read(0xc0)], [1, 1], "{registers:x?}");
        // Again changes nothing.
        rig.write(registers[0], u32::from(registers[0] == 0xc0));
        assert_eq!([rig.read(0x44), rig.read(0xc0)], [1, 1], "{registers:x?}");
        rig.finish_stops();
        assert_eq!([rig.read(0x44), rig.read(0xc0)], [0, 0]);
        // Its description is gone.
        rig.write(0x44, 1);
        assert_eq!(rig.read(0x44), 0);
        rig.describe(0, 16);
        rig.iterate();
        assert_eq!((rig.read(0x44), rig.started()), (1, vec![0, 0]));
    }
}

#[test]
fn a_queue_reset_that_was_not_agreed_on_does_nothing() {
    let rig = Rig::new();
    rig.agree(F_VERSION_1);
    rig.describe(0, 64);
    rig.write(0x70, READY);
    rig.iterate();
    rig.write(0xc0, 1);
    rig.iterate();
    assert_eq!((rig.read(0xc0), rig.read(0x44)), (0, 1));
    assert!(rig.stopping().is_empty());
}

#[test]
fn a_device_reset_waits_for_a_queue_that_was_stopping_already() {
    let rig = Rig::new();
    rig.drive();
    rig.write(0xc0, 1);
    rig.write(0x70, 0);
    rig.iterate();
    assert_eq!((rig.status(), rig.stopping()), (READY, vec![0]));
    rig.finish_stops();
    assert_eq!(rig.status(), 0);
}

#[test]
fn a_driver_that_gives_up_is_served_no_more() {
    let rig = Rig::new();
    rig.drive();
    rig.write(0x70, READY | FAILED);
    rig.iterate();
    assert_eq!((rig.status(), rig.stopping()), (READY | FAILED, vec![0]));
    rig.describe(0, 64);
    assert_eq!(rig.read(0x44), 0);
    rig.finish_stops();
    assert_eq!((rig.status(), rig.started()), (READY | FAILED, vec![0]));
}

#[test]
fn a_trapped_doorbell_reaches_its_queue_only() {
    let rig = Rig::new();
    for value in [1, 1, 2, u32::MAX] {
        rig.write(0x50, value);
    }
    assert!(rig.doorbells[0].read().is_err());
    assert_eq!(rig.doorbells[1].read().unwrap(), 2);
}

#[test]
fn registers_answer_while_the_context_is_stuck_in_the_device() {
    let rig = Rig::new();
    let stuck = rig.fake.1.lock().unwrap();
    rig.agree(F_VERSION_1);
    rig.describe(0, 64);
    rig.write(0x70, READY);
    let control = rig.control.clone();
    let home = std::thread::spawn(move || control.poll(Wait::Block).unwrap());
    while rig.fake.2.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    // The context is in the middle of the start. Everything a vcpu can ask for is answered all the same.
    for offset in (0..0x200).step_by(4) {
        rig.read(offset);
    }
    assert_eq!(rig.status(), READY);
    rig.write(0x50, 0);
    rig.write(0x64, 3);
    rig.write(0x44, 0);
    rig.write(0x70, 0);
    assert_eq!(rig.status(), READY, "the start is not over");
    drop(stuck);
    assert!(home.join().unwrap());
    rig.finish_stops();
    assert_eq!(rig.status(), 0);
}

#[test]
fn a_driver_that_resets_faster_than_the_device_stops_is_held_up() {
    let rig = Rig::new();
    let cycle = || {
        rig.agree(F_VERSION_1);
        rig.describe(0, 64);
        rig.write(0x70, READY);
    };
    for _ in 0..1000 {
        cycle();
        rig.write(0x70, 0);
    }
    cycle();
    assert_eq!((rig.status(), rig.read(0x60)), (READY | NEEDS_RESET, 2));
    rig.write(0x70, 0);
    rig.finish_stops();
    rig.finish_stops();
    assert_eq!(rig.status(), 0);
    rig.drive();
    assert_eq!(rig.status(), READY);
}
