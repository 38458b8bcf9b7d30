//! A complete message, and the payloads that it may have.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use super::{Header, MAX_FDS, RequestCode, protocol, u32_at, u64_at};
use crate::{Error, Result};

/// The most bytes of configuration space that one message may move.
pub(super) const MAX_CONFIG: u32 = 256;
/// Bytes in front of the configuration bytes: offset, size, flags.
pub(in crate::vhost_user) const CONFIG_HEADER: usize = 12;
const REGION_SIZE: usize = 32;

const VRING_INDEX_MASK: u64 = 0xff;
const VRING_NO_FD: u64 = 1 << 8;

/// One complete request with the fds that came with it.
#[derive(Debug)]
pub(in crate::vhost_user) struct Message {
    pub(in crate::vhost_user) header: Header,
    pub(in crate::vhost_user) payload: Vec<u8>,
    pub(in crate::vhost_user) fds: Vec<OwnedFd>,
}

/// A queue index and a number: size, base or on/off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vhost_user) struct VringState {
    pub(in crate::vhost_user) index: u32,
    pub(in crate::vhost_user) num: u32,
}

/// Where the rings are, as addresses of the front end's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vhost_user) struct VringAddr {
    pub(in crate::vhost_user) index: u32,
    pub(in crate::vhost_user) descriptors: u64,
    pub(in crate::vhost_user) used: u64,
    pub(in crate::vhost_user) available: u64,
}

/// A queue index and the eventfd for it, or none where the front end will poll.
#[derive(Debug)]
pub(in crate::vhost_user) struct VringFd {
    pub(in crate::vhost_user) index: u64,
    pub(in crate::vhost_user) fd: Option<OwnedFd>,
}

/// One region of guest memory as the front end describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vhost_user) struct DescribedRegion {
    pub(in crate::vhost_user) guest_addr: u64,
    pub(in crate::vhost_user) size: u64,
    pub(in crate::vhost_user) user_addr: u64,
    pub(in crate::vhost_user) offset: u64,
}

/// A window into the device's configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vhost_user) struct ConfigWindow {
    pub(in crate::vhost_user) offset: u32,
    pub(in crate::vhost_user) size: u32,
    pub(in crate::vhost_user) flags: u32,
}

impl Message {
    /// Puts a message together; fds beyond what the request may carry are closed here.
    pub(in crate::vhost_user) fn new(
        header: Header,
        payload: Vec<u8>,
        mut fds: Vec<OwnedFd>,
    ) -> Message {
        fds.truncate(header.request().map_or(0, RequestCode::fd_limit));
        Message {
            header,
            payload,
            fds,
        }
    }

    pub(in crate::vhost_user) fn u64(&self) -> Result<u64> {
        self.need(8)?;
        Ok(u64_at(&self.payload, 0))
    }

    pub(in crate::vhost_user) fn vring_state(&self) -> Result<VringState> {
        self.need(8)?;
        Ok(VringState {
            index: u32_at(&self.payload, 0),
            num: u32_at(&self.payload, 4),
        })
    }

    pub(in crate::vhost_user) fn vring_addr(&self) -> Result<VringAddr> {
        self.need(40)?;
        Ok(VringAddr {
            index: u32_at(&self.payload, 0),
            descriptors: u64_at(&self.payload, 8),
            used: u64_at(&self.payload, 16),
            available: u64_at(&self.payload, 24),
        })
    }

    /// The queue index and fd of a kick, call or error message. Takes the fd out of the message.
    pub(in crate::vhost_user) fn take_vring_fd(&mut self) -> Result<VringFd> {
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
    pub(in crate::vhost_user) fn single_region(&self) -> Result<DescribedRegion> {
        self.need(8 + REGION_SIZE)?;
        Ok(region_at(&self.payload, 8))
    }

    /// The regions of a whole memory table.
    pub(in crate::vhost_user) fn mem_table(&self) -> Result<Vec<DescribedRegion>> {
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
    pub(in crate::vhost_user) fn config_window(&self) -> Result<ConfigWindow> {
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
    pub(in crate::vhost_user) fn wrong(&self, what: &str) -> Error {
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

/// The payload of a reply that is a queue index and a number.
pub(in crate::vhost_user) fn vring_state_bytes(state: VringState) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&state.index.to_le_bytes());
    bytes[4..].copy_from_slice(&state.num.to_le_bytes());
    bytes
}

/// The payload of a configuration reply, its data still zero; the data starts at [`CONFIG_HEADER`].
pub(in crate::vhost_user) fn config_bytes(window: ConfigWindow) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CONFIG_HEADER + window.size as usize);
    bytes.extend_from_slice(&window.offset.to_le_bytes());
    bytes.extend_from_slice(&window.size.to_le_bytes());
    bytes.extend_from_slice(&window.flags.to_le_bytes());
    bytes.resize(CONFIG_HEADER + window.size as usize, 0);
    bytes
}

fn region_at(bytes: &[u8], at: usize) -> DescribedRegion {
    DescribedRegion {
        guest_addr: u64_at(bytes, at),
        size: u64_at(bytes, at + 8),
        user_addr: u64_at(bytes, at + 16),
        offset: u64_at(bytes, at + 24),
    }
}
