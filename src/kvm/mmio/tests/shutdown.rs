//! The end of a device that its guest may still see.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::rig::Rig;

#[test]
fn a_device_that_was_shut_down_starts_no_more() {
    let rig = Rig::new();
    rig.drive();
    let gone = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&gone);
    rig.mmio.shutdown(move || {
        told.fetch_add(1, Ordering::SeqCst);
    });
    rig.iterate();
    assert_eq!((gone.load(Ordering::SeqCst), rig.stopping()), (0, vec![0]));
    rig.finish_stops();
    assert_eq!(gone.load(Ordering::SeqCst), 1);
    rig.write(0x70, 0);
    rig.drive();
    assert_eq!(rig.started(), [0]);
    rig.write(0x70, 0);
    rig.iterate();
    assert_eq!(rig.status(), 0);
}

#[test]
fn a_driver_can_reset_a_device_that_has_gone() {
    let rig = Rig::new();
    rig.drive();
    rig.mmio.shutdown(|| ());
    rig.finish_stops();
    rig.write(0x70, 0);
    assert_eq!(rig.status(), 0, "its context runs nothing any more");
}

#[test]
fn a_device_without_a_driver_is_shut_down_at_once() {
    let rig = Rig::new();
    let gone = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&gone);
    rig.mmio.shutdown(move || {
        told.fetch_add(1, Ordering::SeqCst);
    });
    rig.iterate();
    assert_eq!((gone.load(Ordering::SeqCst), rig.stopping()), (1, vec![]));
}
