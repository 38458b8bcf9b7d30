//! virtio-rng (device type 4) as a model of one's own: the driver hands in buffers, the device fills them.
//!
//! What is random about the bytes is their order. Every other buffer is filled at once and completed later, by a bottom
//! half, as a device does that waits for its source.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gsource::{AioContext, Bh};
use qcontext::Result;
use qcontext::object::{Options, Value};
use qcontext::virtio::worker::{Answers, Model, QueueHandle, QueueModel, Tag, WorkerDevice};
use qcontext::virtio::{
    Broken, Chain, DeviceLimits, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, GuestSlice,
    ModelOptions, ModelType, PluggableDevice,
};
use support::random::Random;

/// All letters that the device gives out.
pub(crate) const LETTERS: &[u8; 4] = b"qctx";

pub(crate) type RngDevice = WorkerDevice<Rng>;

#[derive(Debug, Default)]
pub(crate) struct Rng {
    bytes: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(crate) struct RngQueue {
    random: Random,
    bytes: Arc<AtomicU64>,
    kept: Vec<(Tag, u32)>,
    later: bool,
    ready: Bh,
}

impl Rng {
    /// How many bytes the device has given out.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

impl Model for Rng {
    type Queue = RngQueue;

    fn device_type(&self) -> u32 {
        4
    }

    fn features(&self, _: DeviceLimits) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    /// There is none.
    fn read_config(&self, _: DeviceLimits, _: usize, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&self, _: usize, _: &[u8]) {}

    fn property(&self, name: &str) -> Option<Value> {
        (name == "bytes").then(|| self.bytes().into())
    }

    fn open_queue(&self, _: u16, aio: &AioContext, handle: QueueHandle) -> Result<RngQueue> {
        Ok(RngQueue {
            random: Random(4),
            bytes: Arc::clone(&self.bytes),
            kept: Vec::new(),
            later: false,
            ready: aio.bh("rng", move || handle.ready()),
        })
    }
}

impl QueueModel for RngQueue {
    fn serve(
        &mut self,
        chain: &Chain<'_>,
        answers: &mut Answers,
    ) -> std::result::Result<(), Broken> {
        if !chain.readable().is_empty() {
            return Err(Broken::new(
                "a buffer for random bytes that is not writable",
            ));
        }
        chain.writable().iter().for_each(|slice| self.fill(*slice));
        let length = u32::try_from(chain.writable_len()).unwrap();
        self.bytes.fetch_add(length.into(), Ordering::SeqCst);
        self.later = !self.later;
        if self.later {
            self.kept.push((answers.keep(chain), length));
            self.ready.schedule();
        } else {
            answers.finish(chain, length);
        }
        Ok(())
    }

    fn complete(&mut self, answers: &mut Answers) {
        for (tag, length) in self.kept.drain(..) {
            answers.complete(tag, length);
        }
    }
}

impl RngQueue {
    fn fill(&mut self, slice: GuestSlice<'_>) {
        let letters = (0..slice.len()).map(|_| LETTERS[self.random.index(LETTERS.len())]);
        slice.write(&letters.collect::<Vec<_>>());
    }
}

/// The model, as `-device` finds it.
pub(crate) static MODEL: ModelType = ModelType {
    name: "virtio-rng",
    options: &[],
    properties: &[("bytes", "int")],
    parse: |_, _: &mut Options| Ok(Arc::new(RngOptions)),
};

#[derive(Debug)]
pub(crate) struct RngOptions;

impl ModelOptions for RngOptions {
    fn model_type(&self) -> &'static ModelType {
        &MODEL
    }

    fn queue_count(&self) -> u16 {
        1
    }

    fn check(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn build(&self, _: &str, queues: Vec<AioContext>) -> Result<Arc<dyn PluggableDevice>> {
        let device = RngDevice::with_queues(Rng::default(), queues)?;
        Ok(Arc::new(device))
    }
}
