//! What the program serves: the place where drives and devices are plugged in.
#![forbid(unsafe_code)]

use qcontext::object::Options;
use qcontext::{Error, ErrorKind, Result};

/// Makes the node that `-blockdev` describes.
pub(super) fn create_blockdev(mut options: Options) -> Result<()> {
    let driver = options.need_str("driver")?;
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("Parameter 'driver' does not accept value '{driver}'"),
    ))
}

/// Makes the disk that `-drive` describes.
pub(super) fn create_drive(mut options: Options) -> Result<()> {
    let format = options.take_str("format")?.unwrap_or_default();
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("Unknown driver '{format}'"),
    ))
}

/// Makes the device that `-device` or `device_add` describes.
pub(super) fn create_device(mut options: Options) -> Result<()> {
    let driver = options.need_str("driver")?;
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("'{driver}' is not a valid device model name"),
    ))
}

/// Takes a device away once its requests in flight are finished, and then calls `done`.
pub(super) fn remove_device(id: &str, done: impl FnOnce(Result<()>) + Send + 'static) {
    done(Err(Error::new(
        ErrorKind::DeviceNotFound,
        format!("Device '{id}' not found"),
    )));
}

/// Finishes requests in flight, flushes, removes the devices' sockets, and then calls `done`.
pub(super) fn shut_down(done: impl FnOnce() + Send + 'static) {
    done();
}
