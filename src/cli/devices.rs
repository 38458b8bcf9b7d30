//! Devices as the command line and the monitor make and remove them: `-device`, `device_add`, `device_del`.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use qcontext::block;
use qcontext::device::{self, Device, DeviceOptions};
use qcontext::kvm::microvm::MicroVm;
use qcontext::monitor;
use qcontext::object::{Options, Value, tree};
use qcontext::schema::{EventType, Member, ObjectType, ValueType};
use qcontext::virtio::blk;
use qcontext::{Error, ErrorKind, Result};

pub(super) static DEVICE_DELETED: EventType = EventType::new(
    "DEVICE_DELETED",
    &ObjectType::new(
        "q_obj_DEVICE_DELETED-arg",
        &[
            Member::optional("device", ValueType::Str),
            Member::new("path", ValueType::Str),
        ],
    ),
);

/// Makes the device models known that the program offers.
pub(super) fn register_models() {
    block::register_types();
    device::register(&blk::MODEL);
}

/// Makes the device that `-device` or `device_add` describes.
pub(super) fn create(options: Options) -> Result<()> {
    DeviceOptions::from_options(options)
        .and_then(Device::add)
        .map(drop)
}

/// Makes the device that `-device` describes where there is a machine, which has not started yet.
pub(super) fn create_on(machine: &MicroVm, options: Options) -> Result<()> {
    let options = DeviceOptions::for_machine(options)?;
    machine.add(|builder| Device::add_to(builder, options))
}

/// Removes a device once its requests in flight are finished, then sends the event and calls `done`.
pub(super) fn remove(id: &str, done: impl FnOnce(Result<()>) + Send + 'static) {
    let device = match Device::find(id) {
        Ok(device) => device,
        Err(error) => return done(Err(error)),
    };
    if device.options().socket().is_none() {
        let message = format!("device '{id}' is part of the machine and cannot be unplugged");
        return done(Err(Error::new(ErrorKind::Busy, message)));
    }
    // Called once, by the device when it is gone or below when it refuses.
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
    monitor::emit(&DEVICE_DELETED, data);
}
