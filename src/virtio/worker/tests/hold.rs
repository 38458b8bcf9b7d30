//! Queues that are held.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::super::patient::{Driver, hold};
use super::QueueWorker;
use crate::virtio::VirtioDevice;

#[test]
fn a_held_queue_rests_when_no_chain_is_kept_and_goes_on_where_it_was() {
    for event_idx in [false, true] {
        let mut driver = Driver::started(2, event_idx);
        driver.put(0);
        driver.put(1);
        driver.iterate();
        let told = hold(&*driver.device);
        driver.put(0);
        driver.iterate();
        assert_eq!((told.count(), driver.patience.kept()), (0, 2));
        driver.patience.finish();
        assert_eq!((told.count(), driver.patience.kept()), (1, 0));
        driver.device.release();
        driver.iterate();
        assert_eq!((driver.patience.kept(), driver.take_used(0)), (1, 1));
        assert_eq!(*driver.patience.opened.lock().unwrap(), [0, 1]);
        driver.put(1);
        driver.iterate();
        assert_eq!(driver.patience.kept(), 2, "kicks are heard again");
    }
}

#[test]
fn the_memory_of_a_device_that_rests_does_not_change() {
    for event_idx in [false, true] {
        let mut driver = Driver::started(1, event_idx);
        let device = Arc::clone(&driver.device);
        let queue: &QueueWorker<_> = device.worker(0);
        // Kicks are off while the home polls, and the driver is not yet asked for them when polling ends.
        queue.set_polling(true);
        driver.put(0);
        queue.serve();
        driver.patience.finish();
        hold(&*device);
        driver.put(0);
        let before = driver.bytes();
        for polling in [false, true, false] {
            queue.set_polling(polling);
            assert!(!queue.has_work());
            driver.iterate();
        }
        let kick = driver.kicks[0].clone();
        device.set_kick(0, Some(kick)).unwrap();
        device.set_call(0, None).unwrap();
        driver.iterate();
        assert!(driver.bytes() == before);
        device.release();
        driver.iterate();
        assert_eq!(driver.patience.kept(), 1);
        driver.put(0);
        driver.iterate();
        assert_eq!(driver.patience.kept(), 2, "kicks are wanted again");
    }
}

#[test]
fn a_device_without_started_queues_rests_at_once() {
    let driver = Driver::new(3, false);
    assert_eq!(hold(&*driver.device).count(), 1);
}

#[test]
fn a_queue_that_starts_while_the_device_is_held_waits() {
    let mut driver = Driver::new(1, false);
    hold(&*driver.device);
    driver.put(0);
    let before = driver.bytes();
    driver.start(0, 0).unwrap();
    driver.iterate();
    assert!(driver.device.is_started(0) && driver.bytes() == before);
    assert_eq!(hold(&*driver.device).count(), 1);
    driver.device.release();
    driver.iterate();
    assert_eq!(driver.patience.kept(), 0, "one hold is left");
    driver.device.release();
    driver.iterate();
    assert_eq!(driver.patience.kept(), 1);
}

#[test]
fn a_stop_under_way_is_waited_for() {
    let mut driver = Driver::started(1, false);
    driver.put(0);
    driver.iterate();
    let stopped = driver.stop(0);
    let told = hold(&*driver.device);
    driver.iterate();
    assert_eq!((told.count(), *stopped.lock().unwrap()), (0, None));
    driver.patience.finish();
    driver.iterate();
    assert_eq!((told.count(), *stopped.lock().unwrap()), (1, Some(1)));
    driver.put(0);
    driver.device.release();
    driver.iterate();
    assert_eq!(
        driver.patience.kept(),
        0,
        "what has been stopped does not go on"
    );
}

#[test]
fn a_held_queue_can_be_stopped_and_started_again() {
    for finished in [true, false] {
        let mut driver = Driver::started(1, false);
        driver.put(0);
        driver.iterate();
        let told = hold(&*driver.device);
        if finished {
            driver.patience.finish();
        }
        let stopped = driver.stop(0);
        driver.start(0, 1).unwrap();
        driver.put(0);
        driver.patience.finish();
        driver.iterate();
        assert_eq!((told.count(), *stopped.lock().unwrap()), (1, Some(1)));
        assert_eq!(
            (driver.device.is_started(0), driver.patience.kept()),
            (true, 0)
        );
        driver.device.release();
        driver.iterate();
        assert_eq!(driver.patience.kept(), 1);
    }
}

#[test]
fn a_device_released_before_it_rests_goes_on_and_the_holder_is_told() {
    let mut driver = Driver::started(1, false);
    driver.put(0);
    driver.iterate();
    let told = hold(&*driver.device);
    driver.put(0);
    driver.iterate();
    driver.device.release();
    driver.iterate();
    assert_eq!((told.count(), driver.patience.kept()), (1, 2));
    let again = hold(&*driver.device);
    assert_eq!(again.count(), 0);
    driver.patience.finish();
    assert_eq!((again.count(), told.count()), (1, 1));
}

#[test]
fn a_broken_queue_rests_and_stays_broken() {
    let mut driver = Driver::started(1, false);
    driver.rings[0].avail_index = 100;
    driver.put(0);
    driver.iterate();
    assert_eq!(driver.err.count(), 1);
    assert_eq!(hold(&*driver.device).count(), 1);
    driver.device.release();
    driver.iterate();
    assert_eq!((driver.err.count(), driver.patience.kept()), (1, 0));
    assert!(driver.device.broken(0).is_some());
}
