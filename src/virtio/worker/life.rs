//! The phases of a queue, and the callbacks that wait for the next one.
//!
//! Used by `QueueWorker`, behind its mutex.
#![forbid(unsafe_code)]

use std::mem;
use std::sync::Arc;

use super::serving::{Intake, QueueFault, Serving};
use super::{Model, QueueWorker};
use crate::virtio::notify::KickFd;
use crate::virtio::queue::Broken;
use crate::virtio::{QueueSetup, Rested, Stopped};

/// Everything that changes about a queue.
pub(super) struct Life<M: Model> {
    pub(super) phase: Phase<M::Queue>,
    /// How many holders keep the queue from taking chains.
    pub(super) holds: u32,
    /// The last holder has gone since the queue last took chains.
    pub(super) was_released: bool,
    /// Holders that wait until the queue rests.
    pub(super) resting: Vec<Rested>,
    pub(super) kick: Option<KickFd>,
    /// Why the last start, which waited for a stop, did not take place.
    pub(super) refused: Option<Broken>,
    /// Keeps the worker alive from start until the queue is quiet after a stop (invariant 1 of the module above).
    pub(super) keep: Option<Arc<QueueWorker<M>>>,
}

/// Whether the queue runs.
#[derive(Default)]
pub(super) enum Phase<Q> {
    #[default]
    Idle,
    Running(Box<Serving<Q>>),
    /// Without the queue while that is dropped.
    Stopping(Option<Box<Serving<Q>>>, Stop),
}

/// A stop that is not over.
#[derive(Default)]
pub(super) struct Stop {
    /// Those who asked for it.
    pub(super) waiting: Vec<Stopped>,
    /// What is to start when it is over.
    pub(super) restart: Option<QueueSetup>,
}

impl<M: Model> Life<M> {
    pub(super) fn new() -> Life<M> {
        Life {
            phase: Phase::Idle,
            holds: 0,
            was_released: false,
            resting: Vec::new(),
            kick: None,
            refused: None,
            keep: None,
        }
    }

    /// The started queue, also while it stops.
    pub(super) fn serving(&mut self) -> Option<&mut Serving<M::Queue>> {
        match &mut self.phase {
            Phase::Idle => None,
            Phase::Running(serving) => Some(serving),
            Phase::Stopping(serving, _) => serving.as_deref_mut(),
        }
    }

    /// Why the queue broke, once.
    pub(super) fn take_fault(&mut self) -> Option<QueueFault> {
        self.serving()?.take_fault()
    }

    pub(super) fn intake(&self) -> Intake {
        match self.phase {
            Phase::Running(_) if self.holds == 0 => Intake::Open,
            Phase::Running(_) => Intake::Held,
            Phase::Idle | Phase::Stopping(..) => Intake::Ending,
        }
    }

    /// Whether nothing is done for a chain.
    pub(super) fn rests(&mut self) -> bool {
        self.serving().is_none_or(|serving| serving.is_quiet())
    }

    /// True, in the form of what kept the worker alive, when a stopping queue keeps no chain. Once, so that its end is scheduled
    /// once.
    pub(super) fn take_quiet(&mut self) -> Option<Arc<QueueWorker<M>>> {
        match &self.phase {
            Phase::Stopping(Some(serving), _) if serving.is_empty() => self.keep.take(),
            _ => None,
        }
    }

    /// The stopping queue, to be dropped without the lock. It still counts as stopping, so that a start or a stop that
    /// comes meanwhile is not lost.
    pub(super) fn take_stopping(&mut self) -> Option<Box<Serving<M::Queue>>> {
        match &mut self.phase {
            Phase::Stopping(serving, _) => serving.take(),
            Phase::Idle | Phase::Running(_) => None,
        }
    }

    /// The holders to call, because the queue rests now or was released before it did.
    pub(super) fn take_rested(&mut self) -> Vec<Rested> {
        match self.resting.is_empty() || (self.holds > 0 && !self.rests()) {
            true => Vec::new(),
            false => mem::take(&mut self.resting),
        }
    }
}
