//! Queues that are held while the machine stands still.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::READY;
use super::rig::Rig;
use crate::kvm::mmio::QUEUE_NOTIFY;

/// Holds the device; the counter tells whether it is at rest.
fn hold(rig: &Rig) -> Arc<AtomicU32> {
    let told = Arc::new(AtomicU32::new(0));
    let tell = Arc::clone(&told);
    rig.mmio.hold(move || {
        tell.fetch_add(1, Ordering::SeqCst);
    });
    rig.iterate();
    told
}

fn release(rig: &Rig) {
    rig.mmio.release();
    rig.iterate();
}

/// Where the queue of the latest start begins.
fn begins_at(rig: &Rig) -> (u16, u16) {
    let setup = rig.last();
    (setup.size, setup.next_avail)
}

#[test]
fn a_device_is_at_rest_when_its_queue_is_and_goes_on_where_it_was() {
    let rig = Rig::new();
    rig.drive();
    assert_eq!(begins_at(&rig), (64, 0));
    for _ in 0..3 {
        let told = hold(&rig);
        assert_eq!((told.load(Ordering::SeqCst), rig.stopping()), (0, vec![0]));
        rig.finish_stops();
        assert_eq!((told.load(Ordering::SeqCst), rig.status()), (1, READY));
        rig.write(QUEUE_NOTIFY, 0);
        rig.iterate();
        assert!(rig.started().is_empty());
        release(&rig);
        assert_eq!(begins_at(&rig), (64, 7));
    }
    assert!(rig.mmio.is_driven());
}

#[test]
fn a_device_that_nobody_drives_is_at_rest_at_once() {
    let rig = Rig::new();
    assert_eq!(hold(&rig).load(Ordering::SeqCst), 1);
    release(&rig);
    rig.drive();
    assert_eq!(rig.started(), [0]);
}

#[test]
fn a_queue_that_starts_while_the_device_is_held_waits() {
    let rig = Rig::new();
    hold(&rig);
    rig.drive();
    assert!(rig.started().is_empty());
    release(&rig);
    assert_eq!(begins_at(&rig), (64, 0));
}

#[test]
fn a_queue_that_its_guest_is_resetting_is_waited_for() {
    let rig = Rig::new();
    rig.drive();
    rig.write(0xc0, 1);
    let told = hold(&rig);
    assert_eq!((told.load(Ordering::SeqCst), rig.stopping()), (0, vec![0]));
    rig.finish_stops();
    assert_eq!((told.load(Ordering::SeqCst), rig.read(0xc0)), (1, 0));
    release(&rig);
    assert_eq!(rig.started(), [0], "what has been reset does not start");
}

#[test]
fn a_device_released_before_it_is_at_rest_goes_on_when_it_is() {
    let rig = Rig::new();
    rig.drive();
    let told = hold(&rig);
    release(&rig);
    assert_eq!((told.load(Ordering::SeqCst), rig.started()), (1, vec![0]));
    rig.finish_stops();
    assert_eq!(begins_at(&rig), (64, 7));
    let again = hold(&rig);
    assert_eq!((again.load(Ordering::SeqCst), rig.stopping()), (0, vec![0]));
    // A stop under way keeps its device.
    rig.finish_stops();
}

#[test]
fn a_held_device_can_be_reset_and_shut_down() {
    for finished in [true, false] {
        let rig = Rig::new();
        rig.drive();
        let told = hold(&rig);
        if finished {
            rig.finish_stops();
        }
        rig.write(0x70, 0);
        rig.finish_stops();
        assert_eq!((told.load(Ordering::SeqCst), rig.status()), (1, 0));
        release(&rig);
        assert_eq!(rig.started(), [0], "the queue is gone");
        rig.drive();
        hold(&rig);
        let gone = Arc::new(AtomicU32::new(0));
        let tell = Arc::clone(&gone);
        rig.mmio.shutdown(move || {
            tell.fetch_add(1, Ordering::SeqCst);
        });
        rig.finish_stops();
        assert_eq!(gone.load(Ordering::SeqCst), 1);
        release(&rig);
        assert_eq!(rig.started(), [0, 0]);
    }
}

#[test]
fn a_device_that_waits_for_its_reset_stays_as_it_is() {
    let rig = Rig::new();
    rig.drive();
    rig.last().err.unwrap().signal();
    let broken = rig.status();
    let told = hold(&rig);
    rig.finish_stops();
    release(&rig);
    assert_eq!((told.load(Ordering::SeqCst), rig.status()), (1, broken));
    assert!(rig.started().is_empty());
    rig.write(0x70, 0);
    rig.finish_stops();
    rig.drive();
    assert_eq!((rig.status(), rig.started()), (READY, vec![0]));
}
