//! The messages about guest memory.
//!
//! A change makes a new snapshot; running queues finish with the old one what they hold, and go on with the new one.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use super::super::protocol::{DescribedRegion, Message};
use super::{MEM_SLOTS, MessageAnswer, Session, Then};
use crate::Result;
use crate::virtio::memory::{GuestMemory, MemoryRegion};

impl Session {
    pub(super) fn set_mem_table(&mut self, message: Message) -> Result<MessageAnswer> {
        let regions = message.mem_table()?;
        if regions.len() != message.fds.len() {
            let what = format!("{} regions with {} fds", regions.len(), message.fds.len());
            return Err(message.wrong(&format!("has {what}, expected one each")));
        }
        let mut memory = GuestMemory::new();
        for (region, fd) in regions.into_iter().zip(message.fds) {
            memory = memory.with_region(described(region, fd))?;
        }
        Ok(self.replace_memory(memory))
    }

    pub(super) fn add_mem_reg(&mut self, mut message: Message) -> Result<MessageAnswer> {
        let region = message.single_region()?;
        if self.memory.region_count() >= MEM_SLOTS {
            return Err(message.wrong(&format!("exceeds {MEM_SLOTS} memory slots")));
        }
        let fd = message
            .fds
            .pop()
            .ok_or_else(|| message.wrong("carries no fd"))?;
        let memory = self.memory.with_region(described(region, fd))?;
        Ok(self.replace_memory(memory))
    }

    pub(super) fn rem_mem_reg(&mut self, message: &Message) -> Result<MessageAnswer> {
        let region = message.single_region()?;
        let memory =
            self.memory
                .without_region(region.guest_addr, region.size, region.user_addr)?;
        Ok(self.replace_memory(memory))
    }

    /// Queues that run stop, finishing with the old memory what they hold, and start again with the new one.
    fn replace_memory(&mut self, memory: GuestMemory) -> MessageAnswer {
        self.memory = memory;
        MessageAnswer::AfterStop(self.running_queues(), Then::StartReady)
    }
}

fn described(region: DescribedRegion, fd: OwnedFd) -> MemoryRegion {
    MemoryRegion {
        guest_addr: region.guest_addr,
        size: region.size,
        user_addr: region.user_addr,
        fd,
        offset: region.offset,
    }
}
