//! The vhost-user wire format: request numbers, flags, feature bits; in `message` the layouts of payloads.
//!
//! Bytes are parsed field by field, nothing is cast. All numbers are little endian as on every host we run on. Sizes are
//! checked against the request before a payload byte is read, so a peer cannot make us allocate or wait for more than the
//! largest message of the protocol.
#![forbid(unsafe_code)]

use crate::{Error, ErrorKind, Result};

mod message;
#[cfg(test)]
mod tests;

use message::MAX_CONFIG;
pub(super) use message::{
    CONFIG_HEADER, DescribedRegion, Message, VringAddr, VringState, config_bytes, vring_state_bytes,
};

/// Bytes of a message header: request, flags, payload size.
pub(super) const HEADER_SIZE: usize = 12;
/// The most fds any request carries (one per region of a memory table).
pub(super) const MAX_FDS: usize = 8;
/// The most payload we read for a request whose number we do not know.
const MAX_UNKNOWN_PAYLOAD: u32 = 4096;

/// Virtio feature bit 30: the front end may negotiate protocol features.
pub(super) const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Protocol feature: more than one queue.
pub(super) const PROTOCOL_MQ: u64 = 1 << 0;
/// Protocol feature: the front end may ask for an acknowledgement of any message.
pub(super) const PROTOCOL_REPLY_ACK: u64 = 1 << 3;
/// Protocol feature: the front end hands in a socket for messages of ours.
pub(super) const PROTOCOL_BACKEND_REQ: u64 = 1 << 5;
/// Protocol feature: configuration space over the socket.
pub(super) const PROTOCOL_CONFIG: u64 = 1 << 9;
/// Protocol feature: memory regions added and removed one by one.
pub(super) const PROTOCOL_CONFIGURE_MEM_SLOTS: u64 = 1 << 15;

const FLAG_VERSION_MASK: u32 = 0x3;
const FLAG_VERSION: u32 = 0x1;
const FLAG_REPLY: u32 = 1 << 2;
const FLAG_NEED_REPLY: u32 = 1 << 3;

/// The requests of front ends that are answered; all others are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum RequestCode {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    ResetOwner = 4,
    SetMemTable = 5,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    SetVringErr = 14,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    SetBackendReqFd = 21,
    GetConfig = 24,
    SetConfig = 25,
    GetMaxMemSlots = 36,
    AddMemReg = 37,
    RemMemReg = 38,
}

impl RequestCode {
    const ALL: [RequestCode; 22] = [
        RequestCode::GetFeatures,
        RequestCode::SetFeatures,
        RequestCode::SetOwner,
        RequestCode::ResetOwner,
        RequestCode::SetMemTable,
        RequestCode::SetVringNum,
        RequestCode::SetVringAddr,
        RequestCode::SetVringBase,
        RequestCode::GetVringBase,
        RequestCode::SetVringKick,
        RequestCode::SetVringCall,
        RequestCode::SetVringErr,
        RequestCode::GetProtocolFeatures,
        RequestCode::SetProtocolFeatures,
        RequestCode::GetQueueNum,
        RequestCode::SetVringEnable,
        RequestCode::SetBackendReqFd,
        RequestCode::GetConfig,
        RequestCode::SetConfig,
        RequestCode::GetMaxMemSlots,
        RequestCode::AddMemReg,
        RequestCode::RemMemReg,
    ];

    /// The request with this number, if we know it.
    pub(super) fn from_number(number: u32) -> Option<RequestCode> {
        RequestCode::ALL
            .into_iter()
            .find(|&request| request as u32 == number)
    }

    /// True when the answer has a payload of its own, so that an acknowledgement is never sent.
    pub(super) fn has_reply(self) -> bool {
        matches!(
            self,
            RequestCode::GetFeatures
                | RequestCode::GetVringBase
                | RequestCode::GetProtocolFeatures
                | RequestCode::GetQueueNum
                | RequestCode::GetConfig
                | RequestCode::GetMaxMemSlots
        )
    }

    /// The least and the most payload bytes the request may carry.
    fn payload_range(self) -> (u32, u32) {
        match self {
            RequestCode::GetFeatures
            | RequestCode::GetProtocolFeatures
            | RequestCode::GetQueueNum
            | RequestCode::GetMaxMemSlots
            | RequestCode::SetOwner
            | RequestCode::ResetOwner
            | RequestCode::SetBackendReqFd => (0, 8),
            RequestCode::SetFeatures
            | RequestCode::SetProtocolFeatures
            | RequestCode::SetVringKick
            | RequestCode::SetVringCall
            | RequestCode::SetVringErr
            | RequestCode::SetVringNum
            | RequestCode::SetVringBase
            | RequestCode::GetVringBase
            | RequestCode::SetVringEnable => (8, 8),
            RequestCode::SetVringAddr => (40, 40),
            RequestCode::SetMemTable => (8, 8 + 32 * 8),
            RequestCode::AddMemReg | RequestCode::RemMemReg => (40, 40),
            RequestCode::GetConfig | RequestCode::SetConfig => (12, 12 + MAX_CONFIG),
        }
    }

    /// How many fds the request may carry; more are closed unseen.
    fn fd_limit(self) -> usize {
        match self {
            RequestCode::SetMemTable => MAX_FDS,
            RequestCode::SetVringKick
            | RequestCode::SetVringCall
            | RequestCode::SetVringErr
            | RequestCode::SetBackendReqFd
            | RequestCode::AddMemReg => 1,
            _ => 0,
        }
    }
}

/// Message of ours: the device's configuration space has changed.
const BACKEND_CONFIG_CHANGE: u32 = 2;

/// The whole message, which asks for no reply.
pub(super) fn config_change_bytes() -> [u8; HEADER_SIZE] {
    let mut bytes = [0; HEADER_SIZE];
    bytes[..4].copy_from_slice(&BACKEND_CONFIG_CHANGE.to_le_bytes());
    bytes[4..8].copy_from_slice(&FLAG_VERSION.to_le_bytes());
    bytes
}

/// The twelve bytes in front of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u32,
    pub(super) flags: u32,
    pub(super) size: u32,
}

impl Header {
    /// Reads a header and checks what can be checked without the payload.
    pub(super) fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Header> {
        let header = Header {
            number: u32_at(bytes, 0),
            flags: u32_at(bytes, 4),
            size: u32_at(bytes, 8),
        };
        header.check_flags()?;
        header.check_size()?;
        Ok(header)
    }

    fn check_flags(self) -> Result<()> {
        if self.flags & FLAG_VERSION_MASK != FLAG_VERSION {
            return Err(protocol(format!(
                "message {} has protocol version {}, expected 1",
                self.number,
                self.flags & FLAG_VERSION_MASK
            )));
        }
        if self.flags & FLAG_REPLY != 0 {
            return Err(protocol(format!(
                "message {} is marked as a reply",
                self.number
            )));
        }
        Ok(())
    }

    fn check_size(self) -> Result<()> {
        let (least, most) = self
            .request()
            .map_or((0, MAX_UNKNOWN_PAYLOAD), RequestCode::payload_range);
        if (least..=most).contains(&self.size) {
            return Ok(());
        }
        let expected = match least == most {
            true => least.to_string(),
            false => format!("{least} to {most}"),
        };
        Err(protocol(format!(
            "{} has {} bytes of payload, expected {expected}",
            self.name(),
            self.size
        )))
    }

    /// The request, if we know its number.
    pub(super) fn request(self) -> Option<RequestCode> {
        RequestCode::from_number(self.number)
    }

    /// What to call the message in a trace.
    pub(super) fn name(self) -> String {
        self.request().map_or_else(
            || format!("message {}", self.number),
            |request| format!("{request:?}"),
        )
    }

    /// True when the front end waits for an answer to this message whatever it is.
    pub(super) fn needs_reply(self) -> bool {
        self.flags & FLAG_NEED_REPLY != 0
    }
}

/// Appends the reply to `request` with `payload` to `out`.
pub(super) fn write_reply(out: &mut Vec<u8>, request: Header, payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&request.number.to_le_bytes());
    out.extend_from_slice(&(FLAG_VERSION | FLAG_REPLY).to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(payload);
}

/// An error the peer caused.
pub(super) fn protocol(message: String) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

/// The caller has checked the length; short input reads as zero rather than panicking.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|field| field.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

/// See [`u32_at`].
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|field| field.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}
