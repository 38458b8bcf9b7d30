//! A device as an object under `/machine/peripheral`: the properties of every device, then those of its model.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use super::Device;
use super::TransportOptions::Machine;
use crate::object::{Object, Property, Value, not_found, not_writable};
use crate::virtio::pluggable::{ModelType, Named};
use crate::{Error, ErrorKind, Result};

/// The properties of every device with their types, in the order of the listing.
const PROPERTIES: [Named; 13] = [
    ("type", "string"),
    ("id", "string"),
    ("context", "string"),
    ("x-data-plane", "bool"),
    ("queue-size", "int"),
    ("vhost-user", "string"),
    ("address", "int"),
    ("interrupt", "int"),
    ("ioeventfd", "bool"),
    ("irqfd", "bool"),
    ("connected", "bool"),
    ("fault", "string"),
    ("io-status", "string"),
];

/// All properties of a device of that model.
pub(super) fn properties(model: &ModelType) -> Vec<Property> {
    let all = PROPERTIES.iter().chain(model.properties);
    all.map(|&(name, type_name)| Property::new(name, type_name))
        .collect()
}

impl Object for Device {
    fn type_name(&self) -> &'static str {
        self.model_type().name
    }

    fn properties(&self) -> Vec<Property> {
        properties(self.model_type())
    }

    fn get(&self, name: &str) -> Result<Value> {
        let options = self.options();
        Ok(match name {
            "type" => self.type_name().into(),
            "id" => self.id().into(),
            "context" => self.context().id().into(),
            "x-data-plane" => options.data_plane.into(),
            "queue-size" => i64::from(options.queue_size).into(),
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
            "fault" => self.faults.fault().unwrap_or_default().as_str().into(),
            "io-status" => self.faults.stop().status().name().into(),
            _ => return self.model_property(name),
        })
    }

    fn set(&self, name: &str, _: Value) -> Result<()> {
        let model = self.model_type();
        let mut all = PROPERTIES.iter().chain(model.properties);
        match all.any(|(known, _)| *known == name) {
            true => Err(not_writable(model.name, name)),
            false => Err(not_found(model.name, name)),
        }
    }
}

impl Device {
    fn model_type(&self) -> &'static ModelType {
        self.options().model.model_type()
    }

    fn model_property(&self, name: &str) -> Result<Value> {
        let model = self.model_type();
        if !model.properties.iter().any(|(known, _)| *known == name) {
            return Err(not_found(model.name, name));
        }
        let device = self.parts(|parts| Arc::clone(&parts.model));
        let value = device.and_then(|device| device.property(name));
        value.ok_or_else(|| {
            let message = format!("device '{}' is gone", self.id());
            Error::new(ErrorKind::DeviceNotFound, message)
        })
    }

    /// The address of the registers and the interrupt line, of a device on a machine.
    fn place(&self) -> Option<(i64, i64)> {
        let (address, line) = self.transport()?.place()?;
        Some((i64::try_from(address).unwrap_or(i64::MAX), i64::from(line)))
    }
}
