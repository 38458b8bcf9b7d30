//! The messages about the device's configuration space.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::super::backend_channel::BackendChannel;
use super::super::protocol::{self as wire, Message, PROTOCOL_BACKEND_REQ, PROTOCOL_CONFIG};
use super::{MessageAnswer, Session};
use crate::Result;
use crate::virtio::notify::Signal;

impl Session {
    /// The asked window of the configuration space, or an empty payload, which says that there is none.
    pub(super) fn config(&self, message: &Message) -> MessageAnswer {
        let Ok(window) = message.config_window() else {
            return MessageAnswer::Bytes(Vec::new());
        };
        let mut bytes = wire::config_bytes(window);
        let data = &mut bytes[wire::CONFIG_HEADER..];
        self.device
            .read_config(self.limits, window.offset as usize, data);
        MessageAnswer::Bytes(bytes)
    }

    pub(super) fn set_config(&self, message: &Message) -> Result<MessageAnswer> {
        let window = message.config_window()?;
        let data = message
            .payload
            .get(wire::CONFIG_HEADER..wire::CONFIG_HEADER + window.size as usize)
            .ok_or_else(|| message.wrong("is shorter than it says"))?;
        self.device.write_config(window.offset as usize, data);
        Ok(MessageAnswer::Done)
    }

    /// Takes the socket on which the front end hears of changed configuration.
    pub(super) fn set_backend_req_fd(&mut self, mut message: Message) -> Result<MessageAnswer> {
        if self.protocol_features & PROTOCOL_BACKEND_REQ == 0 {
            return Err(message.wrong("needs the protocol feature BACKEND_REQ"));
        }
        let fd = message.fds.pop();
        let fd = fd.ok_or_else(|| message.wrong("carries no fd"))?;
        let channel = BackendChannel::new(fd);
        let channel = Arc::new(channel.ok_or_else(|| message.wrong("carries no Unix socket"))?);
        if self.protocol_features & PROTOCOL_CONFIG != 0 {
            let listener: Arc<dyn Signal> = Arc::<BackendChannel>::clone(&channel);
            self.device.watch_config(Arc::downgrade(&listener));
        }
        self.backend_channel = Some(channel);
        Ok(MessageAnswer::Done)
    }
}
