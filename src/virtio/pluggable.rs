//! What `-device` needs to know of a device model: its options, how a device of it is made, what it shows and how it ends.
//!
//! `crate::device` gives a device its id, its context, its transport and its place in the object tree, and knows models
//! by what stands here alone. A new model (a disk, a network card) implements `worker::Model`, whose workers
//! make a [`PluggableDevice`] of it, and [`ModelOptions`]; it describes itself in a [`ModelType`], and the program registers
//! that: nothing else changes.
//!
//! * [`ModelType`]: the model, as `-device NAME` finds it
//! * [`ModelOptions`]: what one device of the model is asked to be
//! * [`PluggableDevice`]: the device that was made from it
#![forbid(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};

use gsource::AioContext;

use super::fault::FaultWatcher;
use crate::Result;
use crate::object::{Options, Value};

/// A name with its type, as help texts and property lists show it.
pub type Named = (&'static str, &'static str);

/// A device model: what `-device NAME` stands for.
#[derive(Clone, Copy, Debug)]
pub struct ModelType {
    /// The name: `virtio-blk`.
    pub name: &'static str,
    /// The options that the model takes besides those that every device has.
    pub options: &'static [Named],
    /// The properties that its devices have besides those that every device has.
    pub properties: &'static [Named],
    /// Takes the model's options out of all those of the device with that id.
    pub parse: fn(id: &str, options: &mut Options) -> Result<Arc<dyn ModelOptions>>,
}

/// What one device of a model is asked to be.
pub trait ModelOptions: fmt::Debug + Send + Sync {
    /// The model.
    fn model_type(&self) -> &'static ModelType;

    /// How many queues the device has. Each gets an AioContext of its own.
    fn queue_count(&self) -> u16;

    /// The smallest `queue-size`: the device's shortest request, without indirect descriptors, fits into such a queue.
    fn queue_size_min(&self) -> u16 {
        2
    }

    /// Checks the options before anything is made: they may come from a program rather than from [`ModelType::parse`].
    ///
    /// # Errors
    /// An option of the device `id` is out of range.
    fn check(&self, id: &str) -> Result<()>;

    /// Makes the device `id`, whose queues are served by `queues`.
    ///
    /// # Errors
    /// What the options name does not exist or is in use. Nothing is left behind then.
    fn build(&self, id: &str, queues: Vec<AioContext>) -> Result<Arc<dyn PluggableDevice>>;
}

/// A device of a model, free of any transport.
pub trait PluggableDevice: super::VirtioDevice + Any {
    /// The value of one of [`ModelType::properties`]; `None` for any other name. Any thread may ask.
    fn property(&self, name: &str) -> Option<Value>;

    /// From now on `watcher` hears what goes wrong with the device, in place of an earlier one.
    fn watch_faults(&self, watcher: Weak<dyn FaultWatcher>);

    /// Finishes the device's work when its queues have stopped for good: what the guest saw finished becomes durable.
    /// Runs on the home thread of `control` and calls `done` there once, now or in a callback of `control`.
    fn finish(&self, control: &AioContext, done: FinishCallback);
}

/// Takes what [`PluggableDevice::finish`] has come to.
pub type FinishCallback = Box<dyn FnOnce(Result<()>) + Send>;
