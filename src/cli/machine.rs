//! What the program serves: nodes from `-blockdev` and `-drive`, devices from `-device` and the monitor.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use qcontext::block::Node;
use qcontext::device::{self, Device, DeviceOptions};
use qcontext::kvm::microvm::MicroVm;
use qcontext::monitor;
use qcontext::object::{Options, Value, tree};
use qcontext::{Error, ErrorKind, Result};

/// Makes the node that `-blockdev` describes.
pub(super) fn create_blockdev(options: Options) -> Result<()> {
    Node::open_blockdev(options).map(drop)
}

/// Makes the disk that `-drive` describes.
pub(super) fn create_drive(options: Options) -> Result<()> {
    Node::open_drive(options).map(drop)
}

/// Makes the device that `-device` or `device_add` describes.
pub(super) fn create_device(mut options: Options) -> Result<()> {
    check_driver(&mut options)?;
    DeviceOptions::from_options(options)
        .and_then(Device::add)
        .map(drop)
}

/// Makes the device that `-device` describes where there is a machine, which has not started yet.
pub(super) fn create_device_on(machine: &MicroVm, mut options: Options) -> Result<()> {
    check_driver(&mut options)?;
    let options = DeviceOptions::for_machine(options)?;
    machine.add(|builder| Device::add_to(builder, options))
}

fn check_driver(options: &mut Options) -> Result<()> {
    let driver = options.need_str("driver")?;
    if driver != device::MODEL {
        let message = format!("'{driver}' is not a valid device model name");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(())
}

/// Takes a device away once its requests in flight are finished, then tells everybody and calls `done`.
pub(super) fn remove_device(id: &str, done: impl FnOnce(Result<()>) + Send + 'static) {
    let device = match Device::find(id) {
        Ok(device) => device,
        Err(error) => return done(Err(error)),
    };
    if device.options().socket().is_none() {
        let message = format!("device '{id}' is part of the machine and cannot be unplugged");
        return done(Err(Error::new(ErrorKind::Busy, message)));
    }
    // Whoever calls it first has it: the device when it is gone, or this when it refuses.
    let done = Arc::new(Mutex::new(Some(done)));
    let gone = Arc::clone(&done);
    let name = id.to_owned();
    let outcome = device.shutdown(move || {
        announce_deletion(&name);
        finish(&gone, Ok(()));
    });
    if let Err(error) = outcome {
        finish(&done, Err(error));
    }
}

fn finish<F: FnOnce(Result<()>)>(done: &Mutex<Option<F>>, outcome: Result<()>) {
    let done = done.lock().ok().and_then(|mut done| done.take());
    if let Some(done) = done {
        done(outcome);
    }
}

/// Sends the event that says a device is gone.
fn announce_deletion(id: &str) {
    let path = format!("{}/{id}", tree::PERIPHERAL);
    let data = vec![
        ("device".to_owned(), Value::from(id)),
        ("path".to_owned(), path.as_str().into()),
    ];
    monitor::emit("DEVICE_DELETED", data);
}
