//! What one front end has said: complete messages in, calls to the device and answers out.
//!
//! A session knows no loop: [`super::connection`] hands in messages one at a time. Some need a queue to stop, which takes as
//! long as the requests in flight; while [`Session::is_waiting`] no message is handed in. Whether a queue runs, the device
//! knows; the session remembers what the front end has said about it ([`super::description`]).
//!
//! A queue starts when it has a size, addresses and a kick fd, features are acknowledged, and it is enabled (or the front
//! end has not acknowledged protocol features, which have the enable message). The order in which that happens does not matter.
//! The device looks at the ring when it starts, so a kick from before the start is never lost.
//!
//! # What is refused
//! A message with a bad index, size, address, fd or memory region changes nothing. If the front end asked for an acknowledgement,
//! it gets a negative one and may go on. Otherwise the protocol has no way to report the refusal, and the connection closes.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use super::backend_channel::BackendChannel;
use super::description::VringDescription;
use super::protocol::{
    self as wire, F_PROTOCOL_FEATURES, Header, Message, PROTOCOL_BACKEND_REQ, PROTOCOL_CONFIG,
    PROTOCOL_CONFIGURE_MEM_SLOTS, PROTOCOL_MQ, PROTOCOL_REPLY_ACK, RequestCode, VringState,
};
use crate::virtio::memory::GuestMemory;
use crate::virtio::{DeviceLimits, VirtioDevice};
use crate::{Error, Result};

mod config;
mod memory;
#[cfg(test)]
mod tests;
mod vring;

/// The protocol features on offer.
const PROTOCOL_FEATURES: u64 = PROTOCOL_MQ
    | PROTOCOL_REPLY_ACK
    | PROTOCOL_BACKEND_REQ
    | PROTOCOL_CONFIG
    | PROTOCOL_CONFIGURE_MEM_SLOTS;
/// How many memory regions a front end may add one by one.
const MEM_SLOTS: usize = 509;

/// Called, on any thread, when the device has stopped a queue, with the index of its next available entry.
pub(super) type StopNotice = Arc<dyn Fn(u16, u16) + Send + Sync>;

/// The device that front ends are offered.
#[derive(Clone)]
pub struct OfferedDevice {
    /// The device.
    pub device: Arc<dyn VirtioDevice>,
    /// The most entries a queue may have, if the device could do more.
    pub queue_size_max: u16,
}

/// What a message is answered with.
enum MessageAnswer {
    /// Nothing of its own: an acknowledgement if asked for.
    Done,
    U64(u64),
    Bytes(Vec<u8>),
    /// The answer follows when these queues have stopped.
    AfterStop(Vec<u16>, Then),
}

/// What to do when the queues have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Answer with the index at which this queue stopped.
    ReplyBase(u16),
    /// Start again what is still ready, then acknowledge.
    StartReady,
    /// Nothing: the connection is over.
    Close,
}

/// A stop in progress.
#[derive(Debug)]
struct PendingStop {
    left: usize,
    request: Option<Header>,
    then: Then,
}

/// One connection's state.
pub(super) struct Session {
    device: Arc<dyn VirtioDevice>,
    limits: DeviceLimits,
    notice: StopNotice,
    acked: Option<u64>,
    protocol_features: u64,
    memory: GuestMemory,
    vrings: Vec<VringDescription>,
    /// The device knows it weakly, so changes are reported as long as this is here.
    backend_channel: Option<Arc<BackendChannel>>,
    waiting: Option<PendingStop>,
    closed: bool,
}

impl Session {
    /// A fresh connection to what is `offered`. `notice` is called when a queue has stopped, and must lead to
    /// [`Session::queue_stopped`].
    pub(super) fn new(offered: OfferedDevice, notice: StopNotice) -> Session {
        let OfferedDevice {
            device,
            queue_size_max,
        } = offered;
        let limits = DeviceLimits {
            queues: device.queue_count(),
            queue_size: queue_size_max.min(device.queue_size_max()),
        };
        let vrings = (0..limits.queues).map(|_| VringDescription::default());
        Session {
            vrings: vrings.collect(),
            limits,
            device,
            notice,
            acked: None,
            protocol_features: 0,
            memory: GuestMemory::new(),
            backend_channel: None,
            waiting: None,
            closed: false,
        }
    }

    /// True while a queue is stopping: no message may be handed in.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// True when [`Session::close`] has finished: no queue of this connection runs, and its memory is free.
    pub(super) fn is_closed(&self) -> bool {
        self.closed && self.waiting.is_none()
    }

    /// Acts on one message and appends the answer, if it is known already, to `out`.
    ///
    /// # Errors
    /// The message was refused and the front end asked for no acknowledgement: close the connection.
    pub(super) fn handle(&mut self, message: Message, out: &mut Vec<u8>) -> Result<Option<Error>> {
        let header = message.header;
        let answer = match header.request() {
            Some(request) => self.dispatch(request, message),
            None => Err(message.wrong("is not supported")),
        };
        match answer {
            Ok(MessageAnswer::AfterStop(queues, then)) => {
                self.waiting = Some(PendingStop {
                    left: queues.len(),
                    request: Some(header),
                    then,
                });
                self.ask_to_stop(&queues);
                self.finish_stop(out)
            }
            other => self.answer(header, other, out),
        }
    }

    /// The device has stopped queue `index`; finishes the message that asked for it when it was the last one.
    ///
    /// # Errors
    /// As for [`Session::handle`].
    pub(super) fn queue_stopped(
        &mut self,
        index: u16,
        next_avail: u16,
        out: &mut Vec<u8>,
    ) -> Result<Option<Error>> {
        let Some(vring) = self.vrings.get_mut(usize::from(index)) else {
            return Ok(None);
        };
        vring.base = next_avail;
        if let Some(waiting) = &mut self.waiting {
            waiting.left = waiting.left.saturating_sub(1);
        }
        self.finish_stop(out)
    }

    /// Ends the connection: stops every queue. [`Session::is_closed`] tells when that is done.
    pub(super) fn close(&mut self) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.backend_channel = None;
        // A stop in progress goes on, but its message gets no answer any more.
        let left = self.waiting.take().map_or(0, |waiting| waiting.left);
        let running = self.running_queues();
        self.waiting = Some(PendingStop {
            left: left + running.len(),
            request: None,
            then: Then::Close,
        });
        self.ask_to_stop(&running);
        self.waiting.take_if(|waiting| waiting.left == 0);
    }

    fn dispatch(&mut self, request: RequestCode, message: Message) -> Result<MessageAnswer> {
        match request {
            RequestCode::GetFeatures => Ok(MessageAnswer::U64(self.offered())),
            RequestCode::SetFeatures => self.set_features(&message),
            RequestCode::GetProtocolFeatures => Ok(MessageAnswer::U64(PROTOCOL_FEATURES)),
            RequestCode::SetProtocolFeatures => self.set_protocol_features(&message),
            RequestCode::GetQueueNum => Ok(MessageAnswer::U64(self.vrings.len() as u64)),
            RequestCode::GetMaxMemSlots => Ok(MessageAnswer::U64(MEM_SLOTS as u64)),
            RequestCode::SetOwner => Ok(MessageAnswer::Done),
            RequestCode::ResetOwner => Ok(self.reset_owner()),
            RequestCode::SetMemTable => self.set_mem_table(message),
            RequestCode::AddMemReg => self.add_mem_reg(message),
            RequestCode::RemMemReg => self.rem_mem_reg(&message),
            RequestCode::SetVringNum => self.set_vring_num(&message),
            RequestCode::SetVringBase => self.set_vring_base(&message),
            RequestCode::SetVringAddr => self.set_vring_addr(&message),
            RequestCode::SetVringKick => self.set_vring_kick(message),
            RequestCode::SetVringCall => self.set_vring_call(message),
            RequestCode::SetVringErr => self.set_vring_err(message),
            RequestCode::SetVringEnable => self.set_vring_enable(&message),
            RequestCode::SetBackendReqFd => self.set_backend_req_fd(message),
            RequestCode::GetVringBase => self.vring_base(&message),
            RequestCode::GetConfig => Ok(self.config(&message)),
            RequestCode::SetConfig => self.set_config(&message),
        }
    }

    /// Writes the answer. If the front end asked for an acknowledgement, a refusal is a negative one, and is returned for the
    /// log; otherwise it is an error, which ends the connection.
    fn answer(
        &self,
        header: Header,
        answer: Result<MessageAnswer>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Error>> {
        let wants_ack = header.needs_reply()
            && self.protocol_features & PROTOCOL_REPLY_ACK != 0
            && !header.request().is_some_and(RequestCode::has_reply);
        match answer {
            Ok(MessageAnswer::U64(value)) => wire::write_reply(out, header, &value.to_le_bytes()),
            Ok(MessageAnswer::Bytes(bytes)) => wire::write_reply(out, header, &bytes),
            Ok(MessageAnswer::Done | MessageAnswer::AfterStop(..)) if wants_ack => {
                wire::write_reply(out, header, &0u64.to_le_bytes());
            }
            Ok(MessageAnswer::Done | MessageAnswer::AfterStop(..)) => {}
            Err(error) if wants_ack => {
                wire::write_reply(out, header, &1u64.to_le_bytes());
                return Ok(Some(error));
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    fn offered(&self) -> u64 {
        self.device.features(self.limits) | F_PROTOCOL_FEATURES
    }

    fn set_features(&mut self, message: &Message) -> Result<MessageAnswer> {
        let bits = message.u64()?;
        let unknown = bits & !self.offered();
        if unknown != 0 {
            return Err(message.wrong(&format!("acknowledges {unknown:#x}, which we do not offer")));
        }
        self.acked = Some(bits);
        self.start_ready()
    }

    fn set_protocol_features(&mut self, message: &Message) -> Result<MessageAnswer> {
        let bits = message.u64()?;
        let unknown = bits & !PROTOCOL_FEATURES;
        if unknown != 0 {
            return Err(message.wrong(&format!("acknowledges {unknown:#x}, which we do not offer")));
        }
        self.protocol_features = bits;
        Ok(MessageAnswer::Done)
    }

    /// Disables every queue, which is all that this deprecated message may still mean.
    fn reset_owner(&mut self) -> MessageAnswer {
        for vring in &mut self.vrings {
            vring.enabled = false;
            vring.kick = None;
        }
        MessageAnswer::AfterStop(self.running_queues(), Then::StartReady)
    }

    /// Starts every queue that is ready. One that cannot start asks for a new kick fd before the next try.
    fn start_ready(&mut self) -> Result<MessageAnswer> {
        if self.memory.region_count() == 0 || self.closed {
            return Ok(MessageAnswer::Done);
        }
        for (index, vring) in (0..).zip(&mut self.vrings) {
            if !vring.is_ready(self.acked) || self.device.is_started(index) {
                continue;
            }
            let setup = vring.setup(self.acked.unwrap_or(0), &self.memory);
            let started = setup.and_then(|setup| self.device.start_queue(index, setup));
            if let Err(error) = started {
                vring.kick = None;
                let message = format!("queue {index} cannot start: {error}");
                return Err(Error::new(error.kind(), message));
            }
        }
        Ok(MessageAnswer::Done)
    }

    fn running_queues(&self) -> Vec<u16> {
        (0..self.limits.queues)
            .filter(|&index| self.device.is_started(index))
            .collect()
    }

    fn ask_to_stop(&mut self, queues: &[u16]) {
        for &index in queues {
            let notice = Arc::clone(&self.notice);
            self.device
                .stop_queue(index, Box::new(move |next_avail| notice(index, next_avail)));
        }
    }

    fn finish_stop(&mut self, out: &mut Vec<u8>) -> Result<Option<Error>> {
        let Some(waiting) = self.waiting.take_if(|waiting| waiting.left == 0) else {
            return Ok(None);
        };
        let answer = match waiting.then {
            Then::ReplyBase(index) => Ok(MessageAnswer::Bytes(self.base_bytes(index))),
            Then::StartReady => self.start_ready(),
            Then::Close => Ok(MessageAnswer::Done),
        };
        match waiting.request {
            Some(header) => self.answer(header, answer, out),
            None => Ok(None),
        }
    }

    fn base_bytes(&self, index: u16) -> Vec<u8> {
        let num = u32::from(self.vrings[usize::from(index)].base);
        let index = u32::from(index);
        wire::vring_state_bytes(VringState { index, num }).to_vec()
    }
}

impl fmt::Debug for OfferedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferedDevice")
            .field("queue_size_max", &self.queue_size_max)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("acked", &self.acked)
            .field("protocol_features", &self.protocol_features)
            .field("vrings", &self.vrings)
            .field("waiting", &self.waiting)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
