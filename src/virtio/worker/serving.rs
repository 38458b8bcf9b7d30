//! A started queue and the work of one iteration.
//!
//! Used by [`super::QueueWorker`], under its lock. A batch:
//!
//! 1. the model completes kept chains whose work is done, and repeats those that were parked if the device goes on;
//! 2. new chains are taken and served by the model, which answers them or keeps them;
//! 3. the used index is published, one store for all, and the guest is called at most once.
//!
//! The batch is limited in chains and by what the model does at once; what is left waits for the next iteration, in which
//! the neighbours on the same context have their turn first.
#![forbid(unsafe_code)]

use std::mem;
use std::sync::Arc;

use super::Notifications;
use super::answers::Answers;
use super::model::QueueModel;
use crate::virtio::QueueSetup;
use crate::virtio::memory::GuestMemory;
use crate::virtio::notify::Signal;
use crate::virtio::queue::{Broken, Chain, ChainRoom, Popped, Virtqueue};
use crate::{Error, Result};

/// The most chains taken in one batch.
const CHAINS_MAX: u32 = 256;

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchCause {
    /// There may be new chains: an iteration's work begins.
    Kick,
    /// The model has something to complete. The iteration may have had its share of work already.
    Completion,
    /// The device goes on after it was held: what is parked is repeated.
    Release,
}

/// Whether a batch may take new chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    Open,
    /// The queue is held.
    Held,
    /// The queue is to stop.
    Ending,
}

/// What the queue wants after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterBatch {
    /// A kick or a completion.
    Wait,
    /// Another batch soon: there is more to do.
    Again,
    /// No more kicks: the queue is broken.
    Broken,
}

/// Why a queue broke, and what signals that to the front end or the driver.
#[derive(Debug)]
pub(super) struct QueueFault {
    pub(super) reason: String,
    pub(super) err: Option<Arc<dyn Signal>>,
}

/// A started queue. The fields are dropped in this order: the model before the memory that it may have given away.
#[derive(Debug)]
pub(super) struct Serving<Q> {
    /// Opened by the queue's own thread soon after the start.
    model: Option<Q>,
    answers: Answers,
    /// What chains are translated with: the virtqueue's.
    memory: GuestMemory,
    room: ChainRoom,
    call: Option<Arc<dyn Signal>>,
    err: Option<Arc<dyn Signal>>,
    broken: Option<Broken>,
    /// Why it broke, until that is reported.
    fault: Option<QueueFault>,
    wants_call: bool,
    /// The home looks at the ring by itself: kicks stay off.
    polling: bool,
    /// The model was asked to hurry.
    is_hurried: bool,
}

impl<Q: QueueModel> Serving<Q> {
    /// Translates and checks the rings.
    ///
    /// # Errors
    /// As for [`Virtqueue::new`].
    pub(super) fn new(setup: &QueueSetup) -> Result<Self> {
        let virtqueue = Virtqueue::new(setup)?;
        Ok(Serving {
            model: None,
            memory: virtqueue.memory().clone(),
            answers: Answers::new(virtqueue),
            room: ChainRoom::default(),
            call: setup.call.clone(),
            err: setup.err.clone(),
            broken: None,
            fault: None,
            wants_call: false,
            polling: false,
            is_hurried: false,
        })
    }

    /// Takes the opened model. Gives it back if there is one: chains may be kept in that.
    pub(super) fn install(&mut self, model: Q) -> Option<Q> {
        if self.model.is_some() {
            return Some(model);
        }
        self.model = Some(model);
        None
    }

    /// Replaces the call and signals the new one: a call to the old one may have been lost.
    pub(super) fn set_call(&mut self, call: Option<Arc<dyn Signal>>) {
        if let Some(call) = &call {
            call.signal();
        }
        self.call = call;
    }

    pub(super) fn next_avail(&self) -> u16 {
        self.answers.virtqueue.next_avail()
    }

    pub(super) fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Why it broke, once.
    pub(super) fn take_fault(&mut self) -> Option<QueueFault> {
        self.fault.take()
    }

    /// True when nothing is done for a chain: nothing writes to the guest's memory before the next batch.
    pub(super) fn is_quiet(&self) -> bool {
        !self.answers.has_busy()
    }

    /// True when no chain is kept.
    pub(super) fn is_empty(&self) -> bool {
        !self.answers.has_kept()
    }

    /// Whether a batch would take a chain.
    pub(super) fn has_work(&self) -> bool {
        let queue = &self.answers.virtqueue;
        self.broken.is_none() && queue.in_flight() < queue.size() && queue.has_available()
    }

    /// Begins or ends the time in which the home looks at the ring without kicks. Unless the intake is open, the guest's memory
    /// is left alone; the batch that opens it again tells the guest.
    pub(super) fn set_polling(&mut self, polling: bool, intake: Intake) {
        self.polling = polling;
        match (intake, polling) {
            (Intake::Held | Intake::Ending, _) => {}
            (Intake::Open, true) => self.answers.virtqueue.disable_notifications(),
            (Intake::Open, false) => {
                self.answers.virtqueue.enable_notifications();
            }
        }
    }

    /// Stops serving for good, because of `error` if there is one. The next batch answers that the queue is broken.
    pub(super) fn break_down(&mut self, broken: Broken, error: Option<&Error>) {
        if self.broken.is_none() {
            self.broken = Some(broken);
            let reason = broken.reason();
            self.fault = Some(QueueFault {
                reason: error.map_or(reason.to_owned(), |error| format!("{reason}: {error}")),
                err: self.err.clone(),
            });
        }
    }

    /// One batch.
    pub(super) fn batch(
        &mut self,
        cause: BatchCause,
        intake: Intake,
        notifications: &Notifications,
    ) -> AfterBatch {
        if let Some(model) = &mut self.model {
            if cause != BatchCause::Completion {
                model.begin_iteration();
            }
            let is_closing = intake != Intake::Open;
            if self.is_hurried != is_closing {
                self.is_hurried = is_closing;
                model.hurry(is_closing);
            }
            model.complete(&mut self.answers);
            if intake == Intake::Ending {
                model.give_up_parked(&mut self.answers);
            } else if cause == BatchCause::Release && self.broken.is_none() {
                model.repeat_parked(&mut self.answers);
            }
        }
        let next = match (self.broken, intake) {
            (Some(_), _) => AfterBatch::Broken,
            (None, Intake::Open) => self.take_chains(),
            (None, Intake::Held | Intake::Ending) => AfterBatch::Wait,
        };
        if let Some(model) = &mut self.model {
            model.end_batch();
            show_used(model, &mut self.answers, &mut self.wants_call);
        }
        self.call_guest(notifications);
        next
    }

    fn take_chains(&mut self) -> AfterBatch {
        let Some(model) = &mut self.model else {
            return AfterBatch::Wait;
        };
        let mut batch = Batch {
            chain: Chain::new(&self.memory, mem::take(&mut self.room)),
            model,
            answers: &mut self.answers,
            wants_call: &mut self.wants_call,
            polling: self.polling,
        };
        let taken = batch.take_chains();
        self.room = batch.chain.into_room();
        taken.unwrap_or_else(|broken| {
            self.break_down(broken, None);
            AfterBatch::Broken
        })
    }

    fn call_guest(&mut self, notifications: &Notifications) {
        if mem::take(&mut self.wants_call)
            && let Some(call) = &self.call
        {
            notifications.count_call();
            call.signal();
        }
    }
}

/// The parts of a queue that take chains.
struct Batch<'a, Q> {
    chain: Chain<'a>,
    model: &'a mut Q,
    answers: &'a mut Answers,
    wants_call: &'a mut bool,
    polling: bool,
}

impl<Q: QueueModel> Batch<'_, Q> {
    /// Takes chains until there are none or the budget is spent.
    fn take_chains(&mut self) -> std::result::Result<AfterBatch, Broken> {
        self.answers.virtqueue.check_memory()?;
        let mut budget = CHAINS_MAX;
        loop {
            self.answers.virtqueue.disable_notifications();
            loop {
                if budget == 0 || self.model.is_spent() {
                    return Ok(AfterBatch::Again);
                }
                budget -= 1;
                match self.answers.virtqueue.pop(&mut self.chain)? {
                    Popped::Chain => self.model.serve(&self.chain, self.answers)?,
                    Popped::Empty => break,
                    // The next completion goes on.
                    Popped::Full => return Ok(AfterBatch::Wait),
                }
            }
            show_used(self.model, self.answers, self.wants_call);
            let queue = &mut self.answers.virtqueue;
            let more = if self.polling {
                queue.has_available()
            } else {
                queue.enable_notifications()
            };
            if !more {
                return queue.check_memory().map(|()| AfterBatch::Wait);
            }
        }
    }
}

/// Shows the guest the finished chains, and notes whether the guest wants to be called.
fn show_used<Q: QueueModel>(model: &mut Q, answers: &mut Answers, wants_call: &mut bool) {
    if answers.virtqueue.has_finished() {
        model.before_publish();
        *wants_call |= answers.virtqueue.publish();
    }
}
