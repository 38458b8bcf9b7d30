//! Events of devices, for the program that has them.
//!
//! The program sets one handler, which passes them on: `qctx` sends them to the clients of its monitors.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use crate::object::Dict;
use crate::schema::{EventType, Member, ObjectType, ValueType};

/// Something that management wants to know of a device.
#[derive(Clone, Debug)]
pub struct DeviceEvent {
    /// What it is.
    pub event: &'static EventType,
    /// Its data.
    pub data: Dict,
}

/// A device or a queue does not serve its driver, or a front end is refused.
pub static DEVICE_FAULT: EventType = EventType::new(
    "DEVICE_FAULT",
    &ObjectType::new(
        "q_obj_DEVICE_FAULT-arg",
        &[
            // A device has an id and a path, an export an id.
            Member::optional("device", ValueType::Str),
            Member::optional("path", ValueType::Str),
            Member::optional("export", ValueType::Str),
            Member::optional("queue", ValueType::Int),
            Member::new("reason", ValueType::Str),
        ],
    ),
);

type EventHandler = Arc<dyn Fn(DeviceEvent) + Send + Sync>;

static HANDLER: Mutex<Option<EventHandler>> = Mutex::new(None);

/// Calls `handler` with each event of a device, in place of an earlier handler. It runs on the thread of the device's context,
/// without a lock.
pub fn on_event(handler: impl Fn(DeviceEvent) + Send + Sync + 'static) {
    let new: EventHandler = Arc::new(handler);
    let old = HANDLER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .replace(new);
    drop(old);
}

pub(super) fn emit(event: DeviceEvent) {
    let handler = HANDLER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some(handler) = handler {
        handler(event);
    }
}
