//! The embedded guest on disks that contexts of their own serve.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::directory::{TestDir, unique};
use crate::guest::{self, Job, Outcome, Reports};
use qcontext::QContext;
use qcontext::block::Node;
use qcontext::device::{Device, DeviceOptions, TransportOptions};
use qcontext::kvm::{Board, Machine, MachineBuilder, MachineEnd};
use qcontext::object::options;
use qcontext::virtio::blk::{Blk, BlkOptions, QueueStats};

/// A watchdog of a test, never what orders its events.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// One disk and what the guest does with it.
#[derive(Clone, Debug)]
pub struct Disk {
    pub job: Job,
    pub ioeventfd: bool,
    pub irqfd: bool,
    /// More options of the drive.
    pub drive: &'static str,
}

impl Disk {
    pub fn new(job: Job) -> Disk {
        Disk {
            job,
            ioeventfd: true,
            irqfd: true,
            drive: "",
        }
    }
}

/// A machine with disks; everything goes with it.
pub struct Rig {
    pub devices: Vec<Arc<Device>>,
    drives: Vec<String>,
    pub contexts: Vec<QContext>,
    images: Vec<PathBuf>,
    directory: TestDir,
    disks: Vec<Disk>,
    home: QContext,
}

/// Bytes of an image: the guest's blocks and some room.
fn size(disk: &Disk) -> u64 {
    u64::from(disk.job.blocks) * guest::BLOCK as u64 + (64 << 10)
}

impl Rig {
    /// A machine with `disks`, each on a context of its own, ready to start.
    pub fn new(disks: &[Disk], cpus: u32) -> (Rig, MachineBuilder) {
        let home = QContext::anonymous(true).unwrap();
        let mut builder = MachineBuilder::new(guest::config(cpus, &home)).unwrap();
        let rig = Rig::on(&mut builder, disks, home);
        (rig, builder)
    }

    /// The same on another board.
    pub fn on(board: &mut dyn Board, disks: &[Disk], home: QContext) -> Rig {
        let mut rig = Rig {
            devices: Vec::new(),
            drives: Vec::new(),
            contexts: Vec::new(),
            images: Vec::new(),
            directory: TestDir::new(),
            disks: disks.to_vec(),
            home,
        };
        for disk in disks {
            rig.add(board, disk);
        }
        rig
    }

    fn add(&mut self, builder: &mut dyn Board, disk: &Disk) {
        let context = QContext::new(&unique("ctx"), true).unwrap();
        let image = self.directory.file(&unique("disk"));
        std::fs::File::create(&image)
            .unwrap()
            .set_len(size(disk))
            .unwrap();
        let name = unique("drive");
        let path = image.to_str().unwrap();
        let text = format!("if=none,id={name},file={path},format=raw{}", disk.drive);
        Node::open_drive(options::parse(None, &text).unwrap()).unwrap();
        let mut wanted = DeviceOptions::new(unique("disk"), BlkOptions::new(&name), "");
        wanted.data_plane = true;
        wanted.context = Some(context.id().to_owned());
        wanted.transport = TransportOptions::Machine {
            ioeventfd: disk.ioeventfd,
            irqfd: disk.irqfd,
        };
        self.devices.push(Device::add_to(builder, wanted).unwrap());
        self.drives.push(name);
        self.contexts.push(context);
        self.images.push(image);
    }

    /// Starts the guest.
    pub fn start(&self, mut builder: MachineBuilder) -> Running {
        let jobs: Vec<Job> = self.disks.iter().map(|disk| disk.job).collect();
        let reports = guest::load(&mut builder, &jobs).unwrap();
        let (sender, ended) = channel();
        let machine = builder
            .start(guest::prepare(), false, move |end| {
                sender.send(end).unwrap();
            })
            .unwrap();
        Running {
            machine,
            reports,
            ended,
            disks: jobs.len(),
        }
    }

    /// Returns when the disks' contexts have done what the guest has seen the end of. A guest that looks at its ring may see
    /// that before the call for it is made.
    pub fn settle(&self) {
        for context in &self.contexts {
            context.invoke_sync(|| ()).unwrap();
        }
    }

    /// Whether the image of a disk holds what the guest was to write, and nothing behind.
    pub fn image_is_right(&self, number: usize) -> bool {
        let bytes = std::fs::read(&self.images[number]).unwrap();
        let job = &self.disks[number].job;
        let mut expected = Vec::new();
        for block in 0..job.blocks {
            expected.extend(guest::pattern(job.seed, block));
        }
        expected.resize(bytes.len(), 0);
        bytes == expected
    }
}

/// What a disk has done so far.
pub fn stats(device: &Device) -> QueueStats {
    device.model::<Blk>().unwrap().total()
}

impl Drop for Rig {
    fn drop(&mut self) {
        for device in &self.devices {
            let (sender, gone) = channel();
            let shutdown = device.shutdown(move || sender.send(()).unwrap_or(()));
            if shutdown.is_ok() && !std::thread::panicking() {
                gone.recv_timeout(DEADLINE).unwrap();
            }
        }
        for drive in &self.drives {
            let _ = Node::remove(drive);
        }
        for context in &self.contexts {
            let _ = QContext::delete(context.id());
        }
        let _ = self.home.stop();
    }
}

/// A guest at work.
pub struct Running {
    pub machine: Machine,
    pub reports: Reports,
    pub ended: Receiver<MachineEnd>,
    disks: usize,
}

impl Running {
    /// Waits for the guest's own end.
    pub fn finish(&self) -> Vec<Outcome> {
        let end = self.ended.recv_timeout(DEADLINE);
        let outcomes = self.outcomes();
        match end {
            Ok(MachineEnd::PowerOff) => outcomes,
            other => panic!("{other:?} {outcomes:?}"),
        }
    }

    /// What the guest has reached so far.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.machine.stop();
        self.reports.outcomes(self.machine.ram(), self.disks)
    }
}

/// Runs the guest to its end and checks the images.
pub fn run(disks: &[Disk], cpus: u32) -> (Rig, Vec<Outcome>) {
    let (rig, builder) = Rig::new(disks, cpus);
    let running = rig.start(builder);
    let outcomes = running.finish();
    drop(running);
    rig.settle();
    for (number, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.fault, None, "disk {number}: {outcome:?}");
        assert!(rig.image_is_right(number), "disk {number}");
    }
    (rig, outcomes)
}
