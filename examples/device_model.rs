//! A device model of one's own over vhost-user: a virtio entropy device (type 4) whose bytes count up.
//!
//! The model implements two traits. It never sees a socket, a ring or a thread. The second half of the file plays the
//! guest's driver, so that the example shows its own result.
//!
//! `cargo run --example device_model`
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a failed step ends the example with an error

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, mpsc};

use qcontext::device::{Device, DeviceOptions};
use qcontext::object::Options;
use qcontext::virtio::worker::{Answers, Model, QueueHandle, QueueModel, WorkerDevice};
use qcontext::virtio::{
    Broken, Chain, DeviceLimits, F_VERSION_1, ModelOptions, ModelType, PluggableDevice,
};
use qcontext::{AioContext, QContext, Result};
use support::directory::TestDir;
use support::raw_front_end::{FrontEnd, eventfd, memory, used_index};

/// What all queues of the device share.
#[derive(Debug)]
struct Counter;

/// A started queue.
#[derive(Debug)]
struct CounterQueue {
    next: u8,
}

impl Model for Counter {
    type Queue = CounterQueue;

    fn device_type(&self) -> u32 {
        4
    }

    fn features(&self, _: DeviceLimits) -> u64 {
        F_VERSION_1
    }

    /// An entropy device has no configuration.
    fn read_config(&self, _: DeviceLimits, _: usize, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&self, _: usize, _: &[u8]) {}

    fn open_queue(&self, _: u16, _: &AioContext, _: QueueHandle) -> Result<CounterQueue> {
        Ok(CounterQueue { next: 0 })
    }
}

impl QueueModel for CounterQueue {
    /// Fills the buffers of one request. A model that needs time keeps the chain and completes it later.
    fn serve(
        &mut self,
        chain: &Chain<'_>,
        answers: &mut Answers,
    ) -> std::result::Result<(), Broken> {
        let mut written = 0;
        for buffer in chain.writable() {
            let bytes: Vec<u8> = (0..buffer.len()).map(|_| self.count()).collect();
            buffer.write(&bytes);
            written += bytes.len();
        }
        answers.finish(chain, u32::try_from(written).unwrap_or(u32::MAX));
        Ok(())
    }
}

impl CounterQueue {
    fn count(&mut self) -> u8 {
        self.next = self.next.wrapping_add(1);
        self.next
    }
}

/// The model's name and its own options. After `device::register(&MODEL)`, `-device` and `device_add` find it too.
static MODEL: ModelType = ModelType {
    name: "virtio-counter",
    options: &[],
    properties: &[],
    parse: |_, _: &mut Options| Ok(Arc::new(CounterOptions)),
};

#[derive(Debug)]
struct CounterOptions;

impl ModelOptions for CounterOptions {
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
        Ok(Arc::new(WorkerDevice::with_queues(Counter, queues)?))
    }
}

fn main() -> Result<()> {
    let ctx = QContext::builder("ctx1").threaded(true).build()?;
    let folder = TestDir::new();
    let socket = folder.socket("counter.sock");

    // A device with its queue on the context. QEMU could connect to the socket now.
    let mut options = DeviceOptions::new("counter0".to_owned(), CounterOptions, &socket);
    options.data_plane = true;
    options.context = Some(ctx.id().to_owned());
    let device = Device::add(options)?;

    let bytes = drive(&socket);
    println!("the guest has received {bytes:?}");
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8]);

    let (sender, receiver) = mpsc::channel();
    device.shutdown(move || sender.send(()).unwrap())?;
    receiver.recv().unwrap();
    Ok(())
}

/// The guest's side: offers one buffer of 8 bytes, kicks, and waits for the call.
fn drive(socket: &Path) -> Vec<u8> {
    const DESCRIPTORS: u64 = 0x1000;
    const AVAILABLE: u64 = 0x2000;
    const BUFFER: u64 = 0x1_0000;
    const DEVICE_WRITES: u16 = 2;
    let (shared, kick, call) = (memory(), eventfd(), eventfd());
    let fds = [&shared, &kick, &call].map(|fd| fd.try_clone().unwrap());
    let [to_map, to_watch, to_signal] = fds;
    let _front_end = FrontEnd::running(socket, to_map, to_watch, to_signal);
    let guest = File::from(shared);

    // Descriptor 0: address, length, flags, next. Then entry 0 of the available ring, and its index.
    let descriptor = [
        BUFFER.to_le_bytes(),
        (8 | u64::from(DEVICE_WRITES) << 32).to_le_bytes(),
    ];
    guest
        .write_all_at(&descriptor.concat(), DESCRIPTORS)
        .unwrap();
    guest
        .write_all_at(&0_u16.to_le_bytes(), AVAILABLE + 4)
        .unwrap();
    guest
        .write_all_at(&1_u16.to_le_bytes(), AVAILABLE + 2)
        .unwrap();
    rustix::io::write(&kick, &1_u64.to_ne_bytes()).unwrap();
    while used_index(&guest) == 0 {
        rustix::io::read(&call, &mut [0; 8]).unwrap();
    }
    let mut bytes = vec![0; 8];
    guest.read_exact_at(&mut bytes, BUFFER).unwrap();
    bytes
}
