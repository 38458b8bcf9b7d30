//! Chains that wait until the device goes on.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::super::patient::{Driver, hold};
use crate::virtio::VirtioDevice;

/// How often parked chains were repeated, and how many were given up.
fn counts(driver: &Driver) -> [u32; 2] {
    let patience = &driver.patience;
    [&patience.repeated, &patience.given_up].map(|count| count.load(Ordering::SeqCst))
}

/// A device with one queue that has a parked chain.
fn parked() -> Driver {
    let mut driver = Driver::started(1, false);
    driver.put(0);
    driver.iterate();
    driver.patience.park();
    driver
}

#[test]
fn a_queue_rests_with_parked_chains_and_repeats_them_after_the_last_release() {
    let mut driver = parked();
    let told = [(); 2].map(|()| hold(&*driver.device));
    assert_eq!(told.map(|told| told.count()), [1, 1], "at once");
    driver.put(0);
    driver.device.release();
    driver.iterate();
    assert_eq!((driver.patience.kept(), counts(&driver)), (1, [0, 0]));
    driver.device.release();
    driver.iterate();
    assert_eq!((driver.patience.kept(), counts(&driver)), (2, [1, 0]));
    driver.iterate();
    assert_eq!(counts(&driver), [1, 0], "once");
}

#[test]
fn a_queue_with_parked_chains_serves_others() {
    let mut driver = parked();
    driver.put(0);
    driver.iterate();
    assert_eq!((driver.patience.kept(), counts(&driver)), (2, [0, 0]));
    let told = hold(&*driver.device);
    driver.iterate();
    assert_eq!(told.count(), 0, "one is served");
    driver.patience.park();
    assert_eq!(told.count(), 1);
}

#[test]
fn a_queue_that_stops_gives_up_what_is_parked_then_and_later() {
    let mut driver = parked();
    driver.put(0);
    driver.iterate();
    let stopped = driver.stop(0);
    driver.iterate();
    assert_eq!(*stopped.lock().unwrap(), Some(2));
    assert_eq!((driver.patience.kept(), driver.take_used(0)), (0, 2));
}

#[test]
fn a_held_queue_that_stops_gives_up_what_is_parked() {
    let mut driver = parked();
    hold(&*driver.device);
    let stopped = driver.stop(0);
    driver.iterate();
    assert_eq!(
        (*stopped.lock().unwrap(), counts(&driver)),
        (Some(1), [0, 1])
    );
    driver.start(0, 1).unwrap();
    driver.device.release();
    driver.put(0);
    driver.iterate();
    assert_eq!(driver.patience.kept(), 1);
}
