//! What the program serves: nodes from `-blockdev` and `-drive`, devices from `-device` and the monitor.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use qcontext::block::Node;
use qcontext::export::{Export, ExportOptions};
use qcontext::object::Options;
use qcontext::{Error, ErrorKind, Result};

/// The one device model there is.
const MODEL: &str = "virtio-blk";

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
    let driver = options.need_str("driver")?;
    if driver != MODEL {
        let message = format!("'{driver}' is not a valid device model name");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    ExportOptions::from_options(options)
        .and_then(Export::add)
        .map(drop)
}

/// Takes a device away once its requests in flight are finished, and then calls `done`.
pub(super) fn remove_device(id: &str, done: impl FnOnce(Result<()>) + Send + 'static) {
    let device = match Export::find(id) {
        Ok(device) => device,
        Err(error) => return done(Err(error)),
    };
    // Whoever calls it first has it: the device when it is gone, or this when it refuses.
    let done = Arc::new(Mutex::new(Some(done)));
    let gone = Arc::clone(&done);
    if let Err(error) = device.shutdown(move || finish(&gone, Ok(()))) {
        finish(&done, Err(error));
    }
}

fn finish<F: FnOnce(Result<()>)>(done: &Mutex<Option<F>>, outcome: Result<()>) {
    let done = done.lock().ok().and_then(|mut done| done.take());
    if let Some(done) = done {
        done(outcome);
    }
}

/// Asks every device to finish its requests, flush and go; calls `gone` after each one.
pub(super) fn shut_down(gone: impl Fn() + Clone + Send + 'static) {
    for device in Export::list() {
        // Refused only by a device that is going already.
        let _ = device.shutdown(gone.clone());
    }
}

/// True when no device is left.
pub(super) fn is_down() -> bool {
    Export::list().is_empty()
}
