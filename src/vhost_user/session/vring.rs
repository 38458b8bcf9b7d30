//! The messages about queues.
#![forbid(unsafe_code)]

use super::super::protocol::{Message, VringState};
use super::super::ring::{self, Ring, State};
use super::{Answer, Session, Then};
use crate::Result;

impl Session {
    pub(super) fn set_vring_num(&mut self, message: &Message) -> Result<Answer> {
        let VringState { index, num } = message.vring_state()?;
        let most = self.queue_size_max;
        let size = u16::try_from(num)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= most)
            .ok_or_else(|| {
                message.wrong(&format!(
                    "asks for {num} entries, expected a power of two up to {most}"
                ))
            })?;
        self.idle_ring(index, message)?.size = size;
        self.start_ready()
    }

    pub(super) fn set_vring_base(&mut self, message: &Message) -> Result<Answer> {
        let VringState { index, num } = message.vring_state()?;
        let base = u16::try_from(num)
            .map_err(|_| message.wrong(&format!("starts at {num}, expected at most 65535")))?;
        self.idle_ring(index, message)?.base = base;
        Ok(Answer::Done)
    }

    pub(super) fn set_vring_addr(&mut self, message: &Message) -> Result<Answer> {
        let addr = message.vring_addr()?;
        let memory = self.memory.clone();
        let ring = self.idle_ring(addr.index, message)?;
        if memory.region_count() > 0 {
            ring::translate(&memory, addr.descriptors, "descriptor table")?;
            ring::translate(&memory, addr.available, "available ring")?;
            ring::translate(&memory, addr.used, "used ring")?;
        }
        ring.addr = Some(addr);
        self.start_ready()
    }

    pub(super) fn set_vring_kick(&mut self, mut message: Message) -> Result<Answer> {
        let vring = message.take_vring_fd()?;
        let index = self.queue_index(vring.index, &message)?;
        let Some(fd) = vring.fd else {
            return Err(message.wrong("asks us to poll, expected an eventfd"));
        };
        ring::require_eventfd_or_none(Some(&fd), "kick")?;
        if self.rings[usize::from(index)].state == State::Running {
            self.device.set_kick(index, ring::duplicate(Some(&fd))?)?;
        }
        self.rings[usize::from(index)].kick = Some(fd);
        self.start_ready()
    }

    pub(super) fn set_vring_call(&mut self, mut message: Message) -> Result<Answer> {
        let vring = message.take_vring_fd()?;
        let index = self.queue_index(vring.index, &message)?;
        ring::require_eventfd_or_none(vring.fd.as_ref(), "call")?;
        if self.rings[usize::from(index)].state == State::Running {
            self.device
                .set_call(index, ring::signal(vring.fd.as_ref())?)?;
        }
        self.rings[usize::from(index)].call = vring.fd;
        Ok(Answer::Done)
    }

    pub(super) fn set_vring_err(&mut self, mut message: Message) -> Result<Answer> {
        let vring = message.take_vring_fd()?;
        let index = self.queue_index(vring.index, &message)?;
        ring::require_eventfd_or_none(vring.fd.as_ref(), "error")?;
        self.rings[usize::from(index)].err = vring.fd;
        Ok(Answer::Done)
    }

    pub(super) fn set_vring_enable(&mut self, message: &Message) -> Result<Answer> {
        let VringState { index, num } = message.vring_state()?;
        let index = self.queue_index(u64::from(index), message)?;
        if num > 1 {
            return Err(message.wrong(&format!("has state {num}, expected 0 or 1")));
        }
        let ring = &mut self.rings[usize::from(index)];
        ring.enabled = num == 1;
        match ring.state {
            State::Running if num == 0 => Ok(Answer::AfterStop(vec![index], Then::StartReady)),
            _ => self.start_ready(),
        }
    }

    pub(super) fn vring_base(&mut self, message: &Message) -> Result<Answer> {
        let VringState { index, .. } = message.vring_state()?;
        let index = self.queue_index(u64::from(index), message)?;
        // The next start needs a new kick fd; the call fd stays, front ends do not always send it again.
        let ring = &mut self.rings[usize::from(index)];
        ring.kick = None;
        let queues = match ring.state {
            State::Running => vec![index],
            _ => Vec::new(),
        };
        Ok(Answer::AfterStop(queues, Then::ReplyBase(index)))
    }

    fn queue_index(&self, index: u64, message: &Message) -> Result<u16> {
        u16::try_from(index)
            .ok()
            .filter(|&index| usize::from(index) < self.rings.len())
            .ok_or_else(|| {
                let count = self.rings.len();
                message.wrong(&format!("names queue {index}, the device has {count}"))
            })
    }

    /// The ring, for changes that the device must not see while it serves it.
    fn idle_ring(&mut self, index: u32, message: &Message) -> Result<&mut Ring> {
        let index = usize::from(self.queue_index(u64::from(index), message)?);
        let ring = &mut self.rings[index];
        if ring.state == State::Idle {
            return Ok(ring);
        }
        Err(message.wrong(&format!("changes queue {index} while it runs")))
    }
}
