//! A device that is held while the machine stands still. Its queues are real ones, of a model that takes its time.
#![forbid(unsafe_code)]

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::rig::{Panel, Rig};
use super::{F_RING_RESET, F_VERSION_1, READY};
use crate::kvm::mmio::QUEUE_NOTIFY;
use crate::virtio::worker::patient::Driver;

/// A driver with a queue behind registers.
struct Held {
    panel: Panel,
    driver: Driver,
}

impl Deref for Held {
    type Target = Panel;

    fn deref(&self) -> &Panel {
        &self.panel
    }
}

impl Held {
    fn new() -> Held {
        let driver = Driver::new(2, false);
        let device = Arc::clone(&driver.device);
        Held {
            panel: Panel::new(device, driver.memory(), &driver.aio),
            driver,
        }
    }

    /// A driver's whole start, with one queue, which it has reset as the device did.
    fn drive(&mut self) {
        self.agree(F_VERSION_1 | F_RING_RESET);
        self.driver.reset_ring(0);
        let ring = &self.driver.rings[0];
        let addresses = [ring.descriptors, ring.available, ring.used];
        self.describe_at(0, ring.size.into(), addresses);
        self.write(0x70, READY);
        self.iterate();
    }

    /// Puts a request into the queue and rings the doorbell.
    fn request(&mut self) {
        self.driver.put(0);
        self.write(QUEUE_NOTIFY, 0);
        self.iterate();
    }

    /// Holds the device; the counter tells whether it is at rest.
    fn hold(&self) -> Arc<AtomicU32> {
        let told = Arc::new(AtomicU32::new(0));
        let tell = Arc::clone(&told);
        self.mmio.hold(move || {
            tell.fetch_add(1, Ordering::SeqCst);
        });
        self.iterate();
        told
    }

    fn release(&self) {
        self.mmio.release();
        self.iterate();
    }

    /// Lets the requests in flight finish.
    fn finish(&self) {
        self.driver.patience.finish();
        self.iterate();
    }

    /// How many requests are in flight.
    fn in_flight(&self) -> u32 {
        self.driver.patience.kept()
    }

    /// How often a queue has started.
    fn starts(&self) -> usize {
        self.driver.patience.opened.lock().unwrap().len()
    }
}

fn count(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::SeqCst)
}

#[test]
fn a_device_is_at_rest_when_its_queue_is_and_goes_on_where_it_was() {
    let mut rig = Held::new();
    rig.drive();
    rig.request();
    for round in 1..=3 {
        let told = rig.hold();
        assert_eq!((count(&told), rig.in_flight()), (0, 1));
        rig.finish();
        assert_eq!((count(&told), rig.status()), (1, READY));
        rig.request();
        assert_eq!((rig.in_flight(), rig.starts()), (0, 1));
        rig.release();
        assert_eq!(
            (rig.in_flight(), rig.driver.take_used(0)),
            (1, 1),
            "round {round}"
        );
    }
    assert!(rig.mmio.is_driven());
}

#[test]
fn a_device_without_a_driver_is_at_rest_at_once() {
    let mut rig = Held::new();
    assert_eq!(count(&rig.hold()), 1);
    rig.release();
    rig.drive();
    assert_eq!(rig.starts(), 1);
}

#[test]
fn a_queue_that_starts_while_the_device_is_held_waits() {
    let mut rig = Held::new();
    rig.hold();
    rig.drive();
    rig.request();
    assert_eq!((rig.status(), rig.in_flight()), (READY, 0));
    rig.release();
    assert_eq!(rig.in_flight(), 1);
}

#[test]
fn a_queue_that_its_guest_is_resetting_is_waited_for() {
    let mut rig = Held::new();
    rig.drive();
    rig.request();
    rig.write(0xc0, 1);
    let told = rig.hold();
    assert_eq!((count(&told), rig.read(0xc0)), (0, 1));
    rig.finish();
    assert_eq!((count(&told), rig.read(0xc0)), (1, 0));
    rig.request();
    rig.release();
    assert_eq!(
        (rig.in_flight(), rig.starts()),
        (0, 1),
        "what has been reset does not start"
    );
}

#[test]
fn a_device_released_before_it_is_at_rest_goes_on() {
    let mut rig = Held::new();
    rig.drive();
    rig.request();
    let told = rig.hold();
    rig.request();
    assert_eq!((count(&told), rig.in_flight()), (0, 1));
    rig.release();
    assert_eq!((count(&told), rig.in_flight()), (1, 2));
    let again = rig.hold();
    assert_eq!(count(&again), 0);
    rig.finish();
    assert_eq!((count(&again), rig.driver.take_used(0)), (1, 2));
}

#[test]
fn a_held_device_can_be_reset_and_shut_down() {
    for finished in [true, false] {
        let mut rig = Held::new();
        rig.drive();
        rig.request();
        let told = rig.hold();
        if finished {
            rig.finish();
        }
        rig.write(0x70, 0);
        rig.finish();
        assert_eq!((count(&told), rig.status()), (1, 0));
        rig.release();
        rig.request();
        assert_eq!(rig.in_flight(), 0, "the queue is gone");
        rig.drive();
        rig.hold();
        let gone = Arc::new(AtomicU32::new(0));
        let tell = Arc::clone(&gone);
        rig.mmio.shutdown(move || {
            tell.fetch_add(1, Ordering::SeqCst);
        });
        rig.finish();
        assert_eq!(count(&gone), 1);
        rig.release();
        assert_eq!(rig.starts(), 2);
    }
}

#[test]
fn a_device_that_waits_for_its_reset_stays_as_it_is() {
    let mut rig = Held::new();
    rig.drive();
    rig.driver.rings[0].avail_index = 100;
    rig.request();
    let broken = rig.status();
    assert_eq!(broken, READY | super::NEEDS_RESET);
    let told = rig.hold();
    rig.release();
    assert_eq!((count(&told), rig.status()), (1, broken));
    assert_eq!((rig.in_flight(), rig.starts()), (0, 1));
    rig.write(0x70, 0);
    rig.finish();
    rig.drive();
    rig.request();
    assert_eq!((rig.status(), rig.in_flight()), (READY, 1));
}

/// A machine's stop may be asked for again before it is over, and a device goes to the next machine when its guest resets.
#[test]
fn all_holds_of_a_machine_end_at_once_when_it_goes_on_or_goes() {
    for shut_down in [false, true] {
        let rig = Rig::new();
        for _ in 0..2 {
            rig.mmio.hold(|| ());
        }
        rig.iterate();
        assert_eq!(rig.fake.0.lock().unwrap().holds, 2);
        if shut_down {
            rig.mmio.shutdown(|| ());
        } else {
            rig.mmio.release();
        }
        rig.iterate();
        assert_eq!(rig.fake.0.lock().unwrap().holds, 0);
        rig.mmio.release();
        rig.iterate();
        assert_eq!(rig.fake.0.lock().unwrap().holds, 0);
    }
}

#[test]
fn a_device_that_has_left_its_machine_is_not_held() {
    let rig = Rig::new();
    rig.mmio.shutdown(|| ());
    let told = Arc::new(AtomicU32::new(0));
    let tell = Arc::clone(&told);
    rig.mmio.hold(move || {
        tell.fetch_add(1, Ordering::SeqCst);
    });
    rig.iterate();
    assert_eq!((count(&told), rig.fake.0.lock().unwrap().holds), (1, 0));
}
