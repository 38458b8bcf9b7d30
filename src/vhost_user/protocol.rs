//! The vhost-user wire format: request numbers, flags, feature bits and payload layouts.
//!
//! Bytes are parsed field by field, nothing is cast. All numbers are little endian as on every host we run on; sizes are
//! checked against the request before a single payload byte is read, so a peer cannot make us allocate or wait for more
//! than the largest message the protocol knows.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use crate::{Error, ErrorKind, Result};

/// Bytes of a message header: request, flags, payload size.
pub(super) const HEADER_SIZE: usize = 12;
/// The most fds any request carries (one per region of a memory table).
pub(super) const MAX_FDS: usize = 8;
/// The most payload we read for a request whose number we do not know.
const MAX_UNKNOWN_PAYLOAD: u32 = 4096;
/// The most bytes of configuration space that one message may move.
pub(super) const MAX_CONFIG: u32 = 256;
/// Bytes in front of the configuration bytes: offset, size, flags.
pub(super) const CONFIG_HEADER: usize = 12;
const REGION_SIZE: usize = 32;

/// Virtio feature bit 30: the front end may negotiate protocol features.
pub(super) const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Protocol feature: more than one queue.
pub(super) const PROTOCOL_MQ: u64 = 1 << 0;
/// Protocol feature: the front end may ask for an acknowledgement of any message.
pub(super) const PROTOCOL_REPLY_ACK: u64 = 1 << 3;
/// Protocol feature: configuration space over the socket.
pub(super) const PROTOCOL_CONFIG: u64 = 1 << 9;
/// Protocol feature: memory regions added and removed one by one.
pub(super) const PROTOCOL_CONFIGURE_MEM_SLOTS: u64 = 1 << 15;

const FLAG_VERSION_MASK: u32 = 0x3;
const FLAG_VERSION: u32 = 0x1;
const FLAG_REPLY: u32 = 1 << 2;
const FLAG_NEED_REPLY: u32 = 1 << 3;

const VRING_INDEX_MASK: u64 = 0xff;
const VRING_NO_FD: u64 = 1 << 8;

/// The requests we answer; everything else is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Request {
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
    GetConfig = 24,
    SetConfig = 25,
    GetMaxMemSlots = 36,
    AddMemReg = 37,
    RemMemReg = 38,
}

impl Request {
    const ALL: [Request; 21] = [
        Request::GetFeatures,
        Request::SetFeatures,
        Request::SetOwner,
        Request::ResetOwner,
        Request::SetMemTable,
        Request::SetVringNum,
        Request::SetVringAddr,
        Request::SetVringBase,
        Request::GetVringBase,
        Request::SetVringKick,
        Request::SetVringCall,
        Request::SetVringErr,
        Request::GetProtocolFeatures,
        Request::SetProtocolFeatures,
        Request::GetQueueNum,
        Request::SetVringEnable,
        Request::GetConfig,
        Request::SetConfig,
        Request::GetMaxMemSlots,
        Request::AddMemReg,
        Request::RemMemReg,
    ];

    /// The request with this number, if we know it.
    pub(super) fn from_number(number: u32) -> Option<Request> {
        Request::ALL
            .into_iter()
            .find(|&request| request as u32 == number)
    }

    /// True when the answer has a payload of its own, so that an acknowledgement is never sent.
    pub(super) fn has_reply(self) -> bool {
        matches!(
            self,
            Request::GetFeatures
                | Request::GetVringBase
                | Request::GetProtocolFeatures
                | Request::GetQueueNum
                | Request::GetConfig
                | Request::GetMaxMemSlots
        )
    }

    /// The least and the most payload bytes the request may carry.
    fn payload_range(self) -> (u32, u32) {
        match self {
            Request::GetFeatures
            | Request::GetProtocolFeatures
            | Request::GetQueueNum
            | Request::GetMaxMemSlots
            | Request::SetOwner
            | Request::ResetOwner => (0, 8),
            Request::SetFeatures
            | Request::SetProtocolFeatures
            | Request::SetVringKick
            | Request::SetVringCall
            | Request::SetVringErr
            | Request::SetVringNum
            | Request::SetVringBase
            | Request::GetVringBase
            | Request::SetVringEnable => (8, 8),
            Request::SetVringAddr => (40, 40),
            Request::SetMemTable => (8, 8 + 32 * 8),
            Request::AddMemReg | Request::RemMemReg => (40, 40),
            Request::GetConfig | Request::SetConfig => (12, 12 + MAX_CONFIG),
        }
    }

    /// How many fds the request may carry; more are closed unseen.
    fn fd_limit(self) -> usize {
        match self {
            Request::SetMemTable => MAX_FDS,
            Request::SetVringKick
            | Request::SetVringCall
            | Request::SetVringErr
            | Request::AddMemReg => 1,
            _ => 0,
        }
    }
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
            .map_or((0, MAX_UNKNOWN_PAYLOAD), Request::payload_range);
        if (least..=most).contains(&self.size) {
            return Ok(());
        }
        Err(protocol(format!(
            "{} has {} bytes of payload, expected {least} to {most}",
            self.name(),
            self.size
        )))
    }

    /// The request, if we know its number.
    pub(super) fn request(self) -> Option<Request> {
        Request::from_number(self.number)
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

/// One complete request with the fds that came with it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// A queue index and a number: size, base or on/off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VringState {
    pub(super) index: u32,
    pub(super) num: u32,
}

/// Where the rings are, as addresses of the front end's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VringAddr {
    pub(super) index: u32,
    pub(super) descriptors: u64,
    pub(super) used: u64,
    pub(super) available: u64,
}

/// A queue index and the eventfd for it, or none where the front end will poll.
#[derive(Debug)]
pub(super) struct VringFd {
    pub(super) index: u64,
    pub(super) fd: Option<OwnedFd>,
}

/// One region of guest memory as the front end describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) guest_addr: u64,
    pub(super) size: u64,
    pub(super) user_addr: u64,
    pub(super) offset: u64,
}

/// A window into the device's configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConfigWindow {
    pub(super) offset: u32,
    pub(super) size: u32,
    pub(super) flags: u32,
}

impl Message {
    /// Puts a message together; fds beyond what the request may carry are closed here.
    pub(super) fn new(header: Header, payload: Vec<u8>, mut fds: Vec<OwnedFd>) -> Message {
        fds.truncate(header.request().map_or(0, Request::fd_limit));
        Message {
            header,
            payload,
            fds,
        }
    }

    pub(super) fn u64(&self) -> Result<u64> {
        self.need(8)?;
        Ok(u64_at(&self.payload, 0))
    }

    pub(super) fn vring_state(&self) -> Result<VringState> {
        self.need(8)?;
        Ok(VringState {
            index: u32_at(&self.payload, 0),
            num: u32_at(&self.payload, 4),
        })
    }

    pub(super) fn vring_addr(&self) -> Result<VringAddr> {
        self.need(40)?;
        Ok(VringAddr {
            index: u32_at(&self.payload, 0),
            descriptors: u64_at(&self.payload, 8),
            used: u64_at(&self.payload, 16),
            available: u64_at(&self.payload, 24),
        })
    }

    /// The queue index and fd of a kick, call or error message. Takes the fd out of the message.
    pub(super) fn take_vring_fd(&mut self) -> Result<VringFd> {
        let value = self.u64()?;
        let fd = self.fds.pop().filter(|_| value & VRING_NO_FD == 0);
        if fd.is_none() && value & VRING_NO_FD == 0 {
            return Err(self.wrong("announces an fd but carries none"));
        }
        Ok(VringFd {
            index: value & VRING_INDEX_MASK,
            fd,
        })
    }

    /// The region of an add or remove message.
    pub(super) fn single_region(&self) -> Result<Region> {
        self.need(8 + REGION_SIZE)?;
        Ok(region_at(&self.payload, 8))
    }

    /// The regions of a whole memory table.
    pub(super) fn mem_table(&self) -> Result<Vec<Region>> {
        self.need(8)?;
        let count = u32_at(&self.payload, 0) as usize;
        if count > MAX_FDS {
            return Err(self.wrong("has more than 8 regions"));
        }
        self.need(8 + count * REGION_SIZE)?;
        Ok((0..count)
            .map(|i| region_at(&self.payload, 8 + i * REGION_SIZE))
            .collect())
    }

    /// The window of a configuration message, checked against what the protocol can move.
    pub(super) fn config_window(&self) -> Result<ConfigWindow> {
        self.need(CONFIG_HEADER)?;
        let window = ConfigWindow {
            offset: u32_at(&self.payload, 0),
            size: u32_at(&self.payload, 4),
            flags: u32_at(&self.payload, 8),
        };
        let end = window.offset.checked_add(window.size);
        if end.is_none_or(|end| end > MAX_CONFIG) {
            return Err(self.wrong("reaches beyond 256 bytes of configuration"));
        }
        Ok(window)
    }

    /// An error about this message.
    pub(super) fn wrong(&self, what: &str) -> Error {
        protocol(format!("{} {what}", self.header.name()))
    }

    fn need(&self, bytes: usize) -> Result<()> {
        if self.payload.len() >= bytes {
            return Ok(());
        }
        Err(self.wrong(&format!(
            "has {} bytes of payload, expected {bytes}",
            self.payload.len()
        )))
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

/// The payload of a reply that is a queue index and a number.
pub(super) fn vring_state_bytes(state: VringState) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&state.index.to_le_bytes());
    bytes[4..].copy_from_slice(&state.num.to_le_bytes());
    bytes
}

/// The payload of a configuration reply, its data still zero; the data starts at [`CONFIG_HEADER`].
pub(super) fn config_bytes(window: ConfigWindow) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CONFIG_HEADER + window.size as usize);
    bytes.extend_from_slice(&window.offset.to_le_bytes());
    bytes.extend_from_slice(&window.size.to_le_bytes());
    bytes.extend_from_slice(&window.flags.to_le_bytes());
    bytes.resize(CONFIG_HEADER + window.size as usize, 0);
    bytes
}

/// An error the peer caused.
pub(super) fn protocol(message: String) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

fn region_at(bytes: &[u8], at: usize) -> Region {
    Region {
        guest_addr: u64_at(bytes, at),
        size: u64_at(bytes, at + 8),
        user_addr: u64_at(bytes, at + 16),
        offset: u64_at(bytes, at + 24),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn header(number: u32, flags: u32, size: u32) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes[4..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..].copy_from_slice(&size.to_le_bytes());
        bytes
    }

    #[test]
    fn header_with_wrong_version_reply_flag_or_size_is_refused() {
        let cases = [
            (header(1, 0, 0), "version"),
            (header(1, 2, 0), "version"),
            (header(1, 5, 0), "reply"),
            (header(2, 1, 7), "bytes of payload"),
            (header(9, 1, 41), "bytes of payload"),
            (header(5, 1, 265), "bytes of payload"),
            (header(24, 9, 269), "bytes of payload"),
            (header(99, 1, 4097), "bytes of payload"),
            (header(u32::MAX, 1, u32::MAX), "bytes of payload"),
        ];
        for (bytes, expected) in cases {
            let error = Header::parse(&bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn unknown_request_of_moderate_size_is_framed() {
        let parsed = Header::parse(&header(99, 9, 4096)).unwrap();
        assert_eq!(parsed.request(), None);
        assert!(parsed.needs_reply());
        assert_eq!(parsed.name(), "message 99");
    }

    #[test]
    fn every_known_request_is_found_by_its_number() {
        for request in Request::ALL {
            assert_eq!(Request::from_number(request as u32), Some(request));
        }
    }

    #[test]
    fn config_window_beyond_256_bytes_is_refused() {
        for (offset, size) in [(0u32, 257u32), (200, 57), (u32::MAX, 1), (1, u32::MAX)] {
            let mut payload = Vec::new();
            payload.extend_from_slice(&offset.to_le_bytes());
            payload.extend_from_slice(&size.to_le_bytes());
            payload.extend_from_slice(&0u32.to_le_bytes());
            let parsed = Header::parse(&header(24, 1, 12)).unwrap();
            let message = Message::new(parsed, payload, Vec::new());
            assert!(message.config_window().is_err(), "{offset}+{size}");
        }
    }

    #[test]
    fn memory_table_count_is_checked_against_the_bytes_present() {
        let parsed = Header::parse(&header(5, 1, 40)).unwrap();
        for (count, good) in [(0u32, true), (1, true), (2, false), (9, false)] {
            let mut payload = vec![0; 40];
            payload[..4].copy_from_slice(&count.to_le_bytes());
            let message = Message::new(parsed, payload, Vec::new());
            assert_eq!(message.mem_table().is_ok(), good, "{count} regions");
        }
    }
}
