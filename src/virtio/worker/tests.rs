//! The life of a queue, with a model that takes its time.
#![forbid(unsafe_code)]

use std::sync::Weak;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags};

use super::patient::{Counter, DONE, Driver, Owner, PatientModel};
use super::*;
use crate::virtio::VirtioDevice;
use crate::virtio::notify::Signal;

mod answers;
mod hold;
mod parked;

#[test]
fn a_started_queue_serves_what_is_there_and_what_comes() {
    let mut driver = Driver::new(1, false);
    driver.put(0);
    driver.start(0, 0).unwrap();
    driver.iterate();
    assert_eq!(driver.patience.kept(), 1);
    driver.put(0);
    driver.iterate();
    assert_eq!((driver.patience.kept(), driver.take_used(0)), (2, 0));
    driver.patience.finish();
    assert_eq!((driver.take_used(0), driver.call.count()), (2, 1));
    assert_eq!(
        driver
            .ram
            .read(support::mock_driver::RAM_START + 0x8_0000, 1),
        [DONE]
    );
    // The first kick came before the start, and the eventfd still says so.
    assert_eq!(driver.device.notifications(0), (2, 1));
}

#[test]
fn a_stop_waits_for_kept_chains_and_takes_no_more() {
    let mut driver = Driver::started(1, false);
    driver.put(0);
    driver.iterate();
    let stopped = driver.stop(0);
    assert!(!driver.device.is_started(0));
    driver.put(0);
    driver.iterate();
    assert_eq!(
        (driver.patience.kept(), *stopped.lock().unwrap()),
        (1, None)
    );
    driver.patience.finish();
    driver.iterate();
    assert_eq!(*stopped.lock().unwrap(), Some(1));
    assert_eq!(driver.patience.ended.load(Ordering::SeqCst), 1);
    driver.start(0, 1).unwrap();
    driver.iterate();
    assert_eq!(driver.patience.kept(), 1, "goes on where it stopped");
}

#[test]
fn a_queue_that_does_not_run_is_stopped_at_once() {
    let driver = Driver::new(1, false);
    assert_eq!(*driver.stop(0).lock().unwrap(), Some(0));
    assert_eq!(*driver.stop(7).lock().unwrap(), Some(0));
}

#[test]
fn a_start_during_a_stop_comes_after_it() {
    let mut driver = Driver::started(1, false);
    driver.put(0);
    driver.iterate();
    let stopped = driver.stop(0);
    driver.start(0, 1).unwrap();
    assert!(!driver.device.is_started(0));
    let busy = driver.start(0, 1).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    driver.put(0);
    driver.iterate();
    assert_eq!(driver.patience.opened.lock().unwrap().len(), 1);
    driver.patience.finish();
    driver.iterate();
    assert_eq!(*stopped.lock().unwrap(), Some(1));
    assert_eq!(*driver.patience.opened.lock().unwrap(), [0, 0]);
    assert_eq!(driver.patience.kept(), 1);
}

#[test]
fn a_stop_cancels_the_start_that_waits() {
    let mut driver = Driver::started(1, false);
    driver.put(0);
    driver.iterate();
    let first = driver.stop(0);
    driver.start(0, 1).unwrap();
    let second = driver.stop(0);
    assert_eq!(*second.lock().unwrap(), None);
    driver.patience.finish();
    driver.iterate();
    assert_eq!(
        (*first.lock().unwrap(), *second.lock().unwrap()),
        (Some(1), Some(1))
    );
    assert_eq!(*driver.patience.opened.lock().unwrap(), [0]);
}

#[test]
fn a_stop_while_the_queue_ends_is_part_of_that_end() {
    let mut driver = Driver::started(1, false);
    driver.put(0);
    driver.iterate();
    let first = driver.stop(0);
    driver.start(0, 1).unwrap();
    let second = Arc::new(Mutex::new(None));
    let (device, tell) = (Arc::clone(&driver.device), Arc::clone(&second));
    *driver.patience.at_end.lock().unwrap() = Some(Box::new(move || {
        let done = move |next| *tell.lock().unwrap() = Some(next);
        device.stop_queue(0, Box::new(done));
    }));
    driver.patience.finish();
    driver.iterate();
    assert_eq!(
        (*first.lock().unwrap(), *second.lock().unwrap()),
        (Some(1), Some(1))
    );
    assert!(
        !driver.device.is_started(0),
        "it was stopped after the start"
    );
    assert_eq!(*driver.patience.opened.lock().unwrap(), [0]);
}

#[test]
fn a_waiting_start_whose_rings_are_wrong_is_refused_at_once() {
    let mut driver = Driver::started(1, false);
    driver.put(0);
    driver.iterate();
    let stopped = driver.stop(0);
    let mut setup = driver.setup(0, 0);
    setup.used = 8;
    assert!(driver.device.start_queue(0, setup).is_err());
    driver.patience.finish();
    driver.iterate();
    assert_eq!(*stopped.lock().unwrap(), Some(1));
}

/// The kick is one fd, which the old start lets go of and the new one watches.
#[test]
fn a_queue_that_starts_again_hears_the_same_kick() {
    let mut driver = Driver::started(1, false);
    driver.put(0);
    driver.iterate();
    driver.stop(0);
    driver.start(0, 1).unwrap();
    driver.patience.finish();
    driver.iterate();
    driver.put(0);
    driver.iterate();
    assert_eq!((driver.patience.kept(), driver.take_used(0)), (1, 1));
}

#[test]
fn a_kick_that_is_replaced_by_itself_is_heard() {
    let mut driver = Driver::started(1, false);
    let kick = driver.kicks[0].clone();
    driver.device.set_kick(0, Some(kick)).unwrap();
    driver.iterate();
    driver.put(0);
    driver.iterate();
    assert_eq!(driver.patience.kept(), 1);
}

#[test]
fn a_waiting_start_that_the_host_refuses_signals_like_a_broken_queue_and_has_a_reason() {
    let mut driver = Driver::started(1, false);
    let owner = Owner::of(&*driver.device);
    driver.put(0);
    driver.iterate();
    driver.stop(0);
    let mut setup = driver.setup(0, 0);
    // It cannot be watched, which is found out when the queue starts.
    let path_only = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::open("/dev/null", path_only, Mode::empty()).unwrap();
    setup.kick = Some(KickFd::unchecked(file.into()));
    driver.device.start_queue(0, setup).unwrap();
    driver.patience.finish();
    driver.iterate();
    assert_eq!(driver.err.count(), 1);
    assert!(!driver.device.is_started(0));
    let refused = "the queue cannot start again";
    assert_eq!(driver.device.broken(0).unwrap().reason(), refused);
    let faults = owner.faults();
    let reason = format!("Some(0) {refused}: cannot watch fd");
    assert!(faults[0].starts_with(&reason), "{faults:?}");
    assert_eq!(faults.len(), 1);
    driver.start(0, 1).unwrap();
    assert_eq!(driver.device.broken(0), None);
}

#[test]
fn a_queue_that_the_model_cannot_open_is_broken() {
    let mut driver = Driver::new(1, false);
    let owner = Owner::of(&*driver.device);
    driver.patience.refuses.store(true, Ordering::SeqCst);
    driver.put(0);
    driver.start(0, 0).unwrap();
    driver.iterate();
    let reason = driver.device.broken(0).unwrap().reason();
    assert_eq!(reason, "the host has no resources for the queue");
    assert_eq!(driver.err.count(), 1);
    assert_eq!(owner.faults(), [format!("Some(0) {reason}: no resources")]);
    let stopped = driver.stop(0);
    driver.iterate();
    assert_eq!(*stopped.lock().unwrap(), Some(0));
}

#[test]
fn a_queue_that_its_guest_breaks_is_reported_once_with_its_reason() {
    let driver = Driver::started(2, false);
    let owner = Owner::of(&*driver.device);
    driver.ram.write(driver.rings[1].available + 2, &[200, 0]);
    for _ in 0..2 {
        driver.kicks[1].ring();
        driver.iterate();
    }
    let reason = "Some(1) available index jumped by more than the queue size";
    assert_eq!(owner.faults(), [reason]);
    assert_eq!(driver.err.count(), 1);
}

#[test]
fn a_dropped_device_finishes_what_is_kept() {
    let mut driver = Driver::started(2, false);
    driver.put(0);
    driver.iterate();
    let Driver {
        aio,
        device,
        patience,
        ram,
        mut rings,
        ..
    } = driver;
    drop(device);
    while aio.poll(gsource::Wait::NoBlock).unwrap() {}
    assert_eq!(
        (patience.kept(), patience.ended.load(Ordering::SeqCst)),
        (1, 1)
    );
    patience.finish();
    while aio.poll(gsource::Wait::NoBlock).unwrap() {}
    assert!(rings[0].take_used(&ram).is_some());
    assert_eq!(patience.ended.load(Ordering::SeqCst), 2);
}

#[test]
fn a_changed_configuration_reaches_the_latest_listener() {
    let driver = Driver::new(1, false);
    let notice = driver.patience.notice.lock().unwrap().clone().unwrap();
    notice.signal();
    let watchers = [(); 2].map(|()| Arc::new(Counter::default()));
    for watcher in &watchers {
        let watcher: Arc<dyn Signal> = Arc::<Counter>::clone(watcher);
        driver.device.watch_config(Arc::downgrade(&watcher));
    }
    notice.signal();
    assert_eq!(watchers.each_ref().map(|watcher| watcher.count()), [0, 1]);
    let [_, second] = watchers;
    let gone: Weak<Counter> = Arc::downgrade(&second);
    drop(second);
    assert_eq!(gone.strong_count(), 0);
    notice.signal();
}

#[test]
fn a_device_has_at_least_one_queue() {
    let none = WorkerDevice::with_queues(PatientModel::default(), Vec::new());
    assert_eq!(none.unwrap_err().kind(), ErrorKind::InvalidArgument);
}
