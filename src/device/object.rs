//! A device as an object under `/machine/peripheral`.
#![forbid(unsafe_code)]

use std::path::Path;

use super::Device;
use super::TransportOptions::Machine;
use super::options::OPTIONS;
use crate::Result;
use crate::object::types::{self, Type};
use crate::object::{Object, Property, Value, not_found, not_writable};

/// The device model's name.
pub const MODEL: &str = "virtio-blk";

/// Every property with its type, in the order of the listing.
const PROPERTIES: [(&str, &str); 21] = [
    ("type", "string"),
    ("id", "string"),
    ("drive", "string"),
    ("context", "string"),
    ("x-data-plane", "bool"),
    ("num-queues", "int"),
    ("queue-size", "int"),
    ("read-only", "bool"),
    ("vhost-user", "string"),
    ("address", "int"),
    ("interrupt", "int"),
    ("ioeventfd", "bool"),
    ("irqfd", "bool"),
    ("connected", "bool"),
    ("fault", "string"),
    ("reads", "int"),
    ("writes", "int"),
    ("flushes", "int"),
    ("read-bytes", "int"),
    ("write-bytes", "int"),
    ("errors", "int"),
];

/// Makes the device model known to `-device help`, `qom-list-types` and `qom-list-properties`.
pub fn register_type() {
    types::register(Type {
        name: MODEL,
        parent: "device",
        properties,
        options: &OPTIONS,
        create: None,
    });
}

fn properties() -> Vec<Property> {
    let all = PROPERTIES.into_iter();
    all.map(|(name, type_name)| Property::new(name, type_name))
        .collect()
}

impl Object for Device {
    fn type_name(&self) -> &'static str {
        MODEL
    }

    fn properties(&self) -> Vec<Property> {
        properties()
    }

    fn get(&self, name: &str) -> Result<Value> {
        let options = self.options();
        Ok(match name {
            "type" => MODEL.into(),
            "id" => self.id().into(),
            "drive" => options.drive.as_str().into(),
            "context" => self.context().id().into(),
            "x-data-plane" => options.data_plane.into(),
            "num-queues" => i64::from(options.num_queues).into(),
            "queue-size" => i64::from(options.queue_size).into(),
            "read-only" => self.node().is_read_only().into(),
            "vhost-user" => {
                let socket = options.socket().map(Path::to_string_lossy);
                socket.unwrap_or_default().as_ref().into()
            }
            "address" => self.place().map_or(-1, |(address, _)| address).into(),
            "interrupt" => self.place().map_or(-1, |(_, line)| line).into(),
            "ioeventfd" => {
                matches!(options.transport, Machine { ioeventfd, .. } if ioeventfd).into()
            }
            "irqfd" => matches!(options.transport, Machine { irqfd, .. } if irqfd).into(),
            "connected" => self.is_connected().into(),
            "fault" => self.fault().unwrap_or_default().as_str().into(),
            _ => return self.counter(name).map(Value::from),
        })
    }

    fn set(&self, name: &str, _: Value) -> Result<()> {
        match PROPERTIES.iter().any(|(known, _)| *known == name) {
            true => Err(not_writable(MODEL, name)),
            false => Err(not_found(MODEL, name)),
        }
    }
}

impl Device {
    /// The address of the registers and the interrupt line, of a device on a machine.
    fn place(&self) -> Option<(i64, i64)> {
        let (address, line) = self.transport()?.place()?;
        Some((i64::try_from(address).unwrap_or(i64::MAX), i64::from(line)))
    }

    /// What the guest did wrong the last time.
    fn fault(&self) -> Option<String> {
        self.transport()?.fault()
    }

    fn counter(&self, name: &str) -> Result<u64> {
        let stats = self.stats();
        Ok(match name {
            "reads" => stats.reads,
            "writes" => stats.writes,
            "flushes" => stats.flushes,
            "read-bytes" => stats.bytes_read,
            "write-bytes" => stats.bytes_written,
            "errors" => stats.errors,
            _ => return Err(not_found(MODEL, name)),
        })
    }
}
