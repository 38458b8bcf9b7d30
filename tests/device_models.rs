//! A device model of one's own, written with what the library shows: a random-number device. Nothing of the workers and
//! transports is about disks.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

#[path = "device_models/rng.rs"]
mod rng;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;

use qcontext::QContext;
use qcontext::device::{self, Device, DeviceOptions};
use qcontext::object::{options, tree};
use qcontext::virtio::VirtioDevice;
use rng::{LETTERS, MODEL, RngDevice, RngOptions};
use support::deadline::DEADLINE;
use support::directory::{TestDir, unique};
use support::linux_guest::{self, Guest};
use support::raw_front_end::{FrontEnd, RAM, eventfd, memory, used_index};
use support::served_disk::{Disk, Engine};
use support::skip::skip;

/// A device on a context of its own.
struct Served {
    device: Arc<Device>,
    socket: PathBuf,
    context: QContext,
    _dir: TestDir,
}

impl Served {
    fn new() -> Served {
        let context = QContext::new(&unique("ctx"), true).unwrap();
        let dir = TestDir::new();
        let socket = dir.socket("rng0.sock");
        let mut options = DeviceOptions::new(unique("rng"), RngOptions, &socket);
        options.data_plane = true;
        options.context = Some(context.id().to_owned());
        Served {
            device: Device::add(options).unwrap(),
            socket,
            context,
            _dir: dir,
        }
    }

    fn model(&self) -> Arc<RngDevice> {
        self.device.model::<RngDevice>().unwrap()
    }

    /// Runs everything that the context has to do at the moment.
    fn settle(&self) {
        (0..20).for_each(|_| self.context.invoke_sync(|| ()).unwrap());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let (done, is_done) = channel();
        let _ = self.device.shutdown(move || done.send(()).unwrap());
        is_done.recv_timeout(DEADLINE).expect("a shutdown in time");
    }
}

/// Where the descriptors, the available ring and the buffers are; see `raw_front_end`.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;
const BUFFER_LEN: u32 = 100;

/// A driver of the queue.
struct Driver {
    memory: File,
    kick: OwnedFd,
    call: OwnedFd,
    available: u16,
    _front_end: FrontEnd,
}

impl Driver {
    fn connect(served: &Served) -> Driver {
        let (memory, kick, call) = (memory(), eventfd(), eventfd());
        let fds = [&memory, &kick, &call].map(|fd| fd.try_clone().unwrap());
        let [to_map, to_watch, to_signal] = fds;
        Driver {
            _front_end: FrontEnd::running(&served.socket, to_map, to_watch, to_signal),
            memory: File::from(memory),
            kick,
            call,
            available: 0,
        }
    }

    /// Hands in `count` buffers, each in a descriptor of its own.
    fn offer(&mut self, count: u16) {
        for index in self.available..self.available + count {
            let mut descriptor = (BUFFERS + u64::from(index) * 0x1000).to_le_bytes().to_vec();
            descriptor.extend(BUFFER_LEN.to_le_bytes());
            descriptor.extend([2, 0, 0, 0]);
            self.write(DESCRIPTORS + u64::from(index) * 16, &descriptor);
            self.write(AVAILABLE + 4 + u64::from(index) * 2, &index.to_le_bytes());
        }
        self.available += count;
        self.write(AVAILABLE + 2, &self.available.to_le_bytes());
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    /// Waits until the device has filled everything.
    fn wait(&self) {
        while used_index(&self.memory) < self.available {
            rustix::io::read(&self.call, &mut [0; 8]).unwrap();
        }
    }

    /// Checks what the device says it has written, and what it has written.
    fn check(&self) {
        for index in 0..self.available {
            let element = self.read(USED + 4 + u64::from(index) * 8, 8);
            assert_eq!(element[4..], BUFFER_LEN.to_le_bytes());
            let bytes = self.read(BUFFERS + u64::from(index) * 0x1000, BUFFER_LEN as usize + 1);
            let (filled, behind) = bytes.split_at(BUFFER_LEN as usize);
            assert!(filled.iter().all(|byte| LETTERS.contains(byte)));
            assert_eq!(behind, [0]);
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }
}

#[test]
fn buffers_are_filled_at_once_and_later() {
    let served = Served::new();
    let mut driver = Driver::connect(&served);
    for count in [1, 2, 29] {
        driver.offer(count);
        driver.wait();
    }
    driver.check();
    assert_eq!(served.model().model().bytes(), 32 * u64::from(BUFFER_LEN));
    let property = tree::get(
        &format!("/machine/peripheral/{}", served.device.id()),
        "bytes",
    );
    assert_eq!(property.unwrap(), (32 * u64::from(BUFFER_LEN)).into());
}

#[test]
fn a_vhost_user_queue_is_held_and_goes_on_where_it_was() {
    let served = Served::new();
    let mut driver = Driver::connect(&served);
    driver.offer(3);
    driver.wait();
    for _ in 0..5 {
        let (tell, told) = channel();
        served
            .model()
            .hold(Box::new(move || tell.send(()).unwrap()));
        told.recv_timeout(DEADLINE).unwrap();
        driver.offer(4);
        let before = driver.read(0, RAM);
        served.settle();
        assert!(
            driver.read(0, RAM) == before,
            "memory changed while the device was held"
        );
        served.model().release();
        driver.wait();
    }
    driver.check();
}

#[test]
fn a_vhost_user_queue_that_is_held_can_be_stopped_by_its_front_end() {
    let served = Served::new();
    let mut driver = Driver::connect(&served);
    driver.offer(1);
    driver.wait();
    served.model().hold(Box::new(|| ()));
    driver.offer(1);
    drop(driver);
    // The next one starts with the device still held.
    let mut next = Driver::connect(&served);
    next.offer(2);
    served.settle();
    assert_eq!(used_index(&next.memory), 0);
    served.model().release();
    next.wait();
    next.check();
}

#[test]
fn a_chain_that_the_model_rejects_breaks_its_queue() {
    let served = Served::new();
    let mut driver = Driver::connect(&served);
    driver.write(DESCRIPTORS + 8, &BUFFER_LEN.to_le_bytes());
    driver.write(AVAILABLE + 2, &1_u16.to_le_bytes());
    rustix::io::write(&driver.kick, &1_u64.to_ne_bytes()).unwrap();
    served.settle();
    let broken = served.model().broken(0).unwrap();
    assert_eq!(
        broken.reason(),
        "a buffer for random bytes that is not writable"
    );
    driver.offer(1);
    served.settle();
    assert_eq!(used_index(&driver.memory), 0);
}

#[test]
fn a_registered_model_is_what_device_add_finds() {
    device::register(&MODEL);
    let dir = TestDir::new();
    let socket = dir.socket("rng1.sock");
    let text = format!("virtio-rng,id=rng1,vhost-user={}", socket.display());
    let parsed = options::parse(Some("driver"), &text).unwrap();
    let device = DeviceOptions::from_options(parsed).unwrap();
    assert_eq!(device.model.model_type().name, "virtio-rng");
}

fn random_numbers_of_a_linux_guest(qemu: u32) {
    if let Some(reason) = linux_guest::missing(qemu) {
        return skip(reason);
    }
    let served = Served::new();
    let disk = Disk::new(Engine::Null, 1 << 20, 1, &served.context);
    let sockets = [&disk.socket, &served.socket].map(|socket| socket.to_str().unwrap());
    let console = Guest::boot(served._dir.path(), qemu, 1, "random", &sockets).finish(1);
    assert!(
        console.contains("guest: disk0 random bytes of virtio_rng.0"),
        "{console}"
    );
    assert!(served.model().model().bytes() >= 64);
}

#[test]
fn random_numbers_of_a_linux_guest_under_qemu_7() {
    random_numbers_of_a_linux_guest(7);
}

#[test]
fn random_numbers_of_a_linux_guest_under_qemu_10() {
    random_numbers_of_a_linux_guest(10);
}
