//! The messages about queues.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::super::description::{self, VringDescription};
use super::super::protocol::{Message, VringState};
use super::{MessageAnswer, Session, Then};
use crate::Result;
use crate::virtio::notify::{CallFd, KickFd, Signal};

impl Session {
    pub(super) fn set_vring_num(&mut self, message: &Message) -> Result<MessageAnswer> {
        let VringState { index, num } = message.vring_state()?;
        let most = self.limits.queue_size;
        let size = u16::try_from(num)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= most)
            .ok_or_else(|| {
                message.wrong(&format!(
                    "asks for {num} entries, expected a power of two up to {most}"
                ))
            })?;
        self.idle_vring(index, message)?.size = size;
        self.start_ready()
    }

    pub(super) fn set_vring_base(&mut self, message: &Message) -> Result<MessageAnswer> {
        let VringState { index, num } = message.vring_state()?;
        let base = u16::try_from(num)
            .map_err(|_| message.wrong(&format!("starts at {num}, expected at most 65535")))?;
        self.idle_vring(index, message)?.base = base;
        Ok(MessageAnswer::Done)
    }

    pub(super) fn set_vring_addr(&mut self, message: &Message) -> Result<MessageAnswer> {
        let addr = message.vring_addr()?;
        let memory = self.memory.clone();
        let vring = self.idle_vring(addr.index, message)?;
        if memory.region_count() > 0 {
            description::translate(&memory, addr.descriptors, "descriptor table")?;
            description::translate(&memory, addr.available, "available ring")?;
            description::translate(&memory, addr.used, "used ring")?;
        }
        vring.addr = Some(addr);
        self.start_ready()
    }

    pub(super) fn set_vring_kick(&mut self, mut message: Message) -> Result<MessageAnswer> {
        let vring = message.take_vring_fd()?;
        let index = self.queue_index(vring.index, &message)?;
        let Some(fd) = vring.fd else {
            return Err(message.wrong("asks us to poll, expected an eventfd"));
        };
        let kick = KickFd::new(fd)?;
        if self.device.is_started(index) {
            self.device.set_kick(index, Some(kick.clone()))?;
        }
        self.vrings[usize::from(index)].kick = Some(kick);
        self.start_ready()
    }

    pub(super) fn set_vring_call(&mut self, mut message: Message) -> Result<MessageAnswer> {
        let vring = message.take_vring_fd()?;
        let index = self.queue_index(vring.index, &message)?;
        let call = vring.fd.map(CallFd::new).transpose()?.map(Arc::new);
        if self.device.is_started(index) {
            self.device.set_call(index, description::signal(&call))?;
        } else if let Some(call) = &call {
            // As of a running queue: a call to the old one may have been lost.
            call.signal();
        }
        self.vrings[usize::from(index)].call = call;
        Ok(MessageAnswer::Done)
    }

    pub(super) fn set_vring_err(&mut self, mut message: Message) -> Result<MessageAnswer> {
        let vring = message.take_vring_fd()?;
        let index = self.queue_index(vring.index, &message)?;
        let err = vring.fd.map(|fd| CallFd::for_role(fd, "error"));
        self.vrings[usize::from(index)].err = err.transpose()?.map(Arc::new);
        Ok(MessageAnswer::Done)
    }

    pub(super) fn set_vring_enable(&mut self, message: &Message) -> Result<MessageAnswer> {
        let VringState { index, num } = message.vring_state()?;
        let index = self.queue_index(u64::from(index), message)?;
        if num > 1 {
            return Err(message.wrong(&format!("has state {num}, expected 0 or 1")));
        }
        self.vrings[usize::from(index)].enabled = num == 1;
        if num == 0 && self.device.is_started(index) {
            return Ok(MessageAnswer::AfterStop(vec![index], Then::StartReady));
        }
        self.start_ready()
    }

    pub(super) fn vring_base(&mut self, message: &Message) -> Result<MessageAnswer> {
        let VringState { index, .. } = message.vring_state()?;
        let index = self.queue_index(u64::from(index), message)?;
        // The next start needs a new kick fd; the call fd stays, front ends do not always send it again.
        self.vrings[usize::from(index)].kick = None;
        let queues = match self.device.is_started(index) {
            true => vec![index],
            false => Vec::new(),
        };
        Ok(MessageAnswer::AfterStop(queues, Then::ReplyBase(index)))
    }

    fn queue_index(&self, index: u64, message: &Message) -> Result<u16> {
        u16::try_from(index)
            .ok()
            .filter(|&index| usize::from(index) < self.vrings.len())
            .ok_or_else(|| {
                let count = self.vrings.len();
                message.wrong(&format!("names queue {index}, the device has {count}"))
            })
    }

    /// The queue's description, for changes that the device must not see while it serves the queue.
    fn idle_vring(&mut self, index: u32, message: &Message) -> Result<&mut VringDescription> {
        let index = self.queue_index(u64::from(index), message)?;
        if self.device.is_started(index) {
            return Err(message.wrong(&format!("changes queue {index} while it runs")));
        }
        Ok(&mut self.vrings[usize::from(index)])
    }
}
