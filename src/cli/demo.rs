//! `qctx` without arguments: a guest of its own drives two disks on two contexts.
//!
//! The result is checked from both sides: the guest compares what it reads with what it wrote, and afterwards the image files
//! are compared with the pattern. Where KVM lets no guest run, drivers in this process do the same job.
//!
//! * `guest`: the guest's code and its jobs
//! * `in_process`: the drivers, on a machine without a processor
#![deny(unsafe_code)] // guest/code.rs has the symbols of the assembler

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use qcontext::block::Node;
use qcontext::device::{Device, DeviceOptions, TransportOptions};
use qcontext::kvm::{Board, MachineBuilder, MachineEnd};
use qcontext::object::options;
use qcontext::virtio::blk::{Blk, BlkOptions, QueueStats};
use qcontext::{Error, ErrorKind, QContext, Result};

use super::failure::Failure;
use super::main_loop::{Flag, iterate_for, iterate_until};
use super::output::{print, warn};
use super::signal;

mod guest;
mod in_process;

use guest::{BLOCK, DISKS_MAX, Job, Outcome};
use in_process::InProcessMachine;

/// How long the guest may take; a second or two is usual.
const PATIENCE: Duration = Duration::from_secs(60);

/// Blocks on each disk.
const BLOCKS: u16 = 128;

/// Runs the guest and prints the result. An error unless every byte was right.
pub(super) fn run() -> Result<(), Failure> {
    // Signals are blocked before any thread starts, because threads inherit the mask.
    let stop = Flag::default();
    let asked = stop.clone();
    let signals = signal::watch(false, move |_| asked.set())
        .map_err(|error| Failure::at("signals", &error))?;
    QContext::main();
    let outcome = demonstrate(&stop);
    drop(signals);
    let passed = outcome.map_err(|error| Failure::at("embedded guest", &error))?;
    match passed {
        true => Ok(()),
        false => Err(Failure::new("embedded guest", "not every byte was right")),
    }
}

/// Whether every byte was right.
fn demonstrate(stop: &Flag) -> Result<bool> {
    let since = Instant::now();
    let stage = Stage::new()?;
    let kvm = match on_kvm(&stage, stop) {
        Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
        kvm => kvm,
    };
    let done = kvm.or_else(|error| {
        warn(&format!(
            "qctx: no KVM guest: {error}; a driver in this process does its job"
        ));
        without_kvm(&stage, stop)
    })?;
    let mut passed = done.outcomes.len() == DISKS_MAX;
    print(&done.headline);
    for (number, outcome) in done.outcomes.iter().enumerate() {
        let written = stage.image_is_right(number)?;
        passed &= written && outcome.fault.is_none();
        print(&stage.report(number, outcome, &done.devices, written));
    }
    drop(stage);
    let verdict = if passed { "PASS" } else { "FAIL" };
    let seconds = since.elapsed().as_secs_f64();
    print(&format!("verdict: {verdict} after {seconds:.1} s\n"));
    Ok(passed)
}

/// What the guest did, or the drivers in its place.
struct DemoResult {
    headline: String,
    outcomes: Vec<Outcome>,
    devices: Vec<String>,
}

/// Runs the guest on KVM.
///
/// # Errors
/// `Closed` if the program was asked to end; otherwise why no guest can run here.
fn on_kvm(stage: &Stage, stop: &Flag) -> Result<DemoResult> {
    let mut builder = MachineBuilder::new(guest::config(1, &QContext::main()))?;
    let devices = Devices::new(stage, &mut builder)?;
    let reports = guest::load(&mut builder, &Stage::jobs())?;
    let ended = Flag::default();
    let end: Arc<Mutex<Option<MachineEnd>>> = Arc::default();
    let (told, slot) = (ended.clone(), Arc::clone(&end));
    let machine = builder.start(guest::prepare(), false, move |how| {
        if let Ok(mut slot) = slot.lock() {
            *slot = Some(how);
        }
        told.set();
    })?;
    let threads = machine.thread_ids();
    wait_for(&ended, stop)?;
    machine.stop();
    if let Some(MachineEnd::Failed(error)) = end.lock().ok().and_then(|mut end| end.take())
        && !reports.has_begun()
    {
        return Err(error);
    }
    let outcomes = reports.outcomes(machine.ram(), DISKS_MAX);
    let millis = reports.duration().as_millis();
    let threads: Vec<String> = threads.iter().map(i64::to_string).collect();
    Ok(DemoResult {
        headline: format!(
            "embedded guest: real mode on KVM, vcpu thread {}, {millis} ms\n",
            threads.join(" ")
        ),
        outcomes,
        devices: devices.describe(),
    })
}

/// Runs the drivers.
///
/// # Errors
/// `Closed` if the program was asked to end.
fn without_kvm(stage: &Stage, stop: &Flag) -> Result<DemoResult> {
    let mut machine = InProcessMachine::new()?;
    let devices = Devices::new(stage, &mut machine)?;
    let since = Instant::now();
    let outcomes = drive(&machine, stop)?;
    let millis = since.elapsed().as_millis();
    Ok(DemoResult {
        headline: format!("in-process driver: a thread for each disk, {millis} ms\n"),
        outcomes,
        devices: devices.describe(),
    })
}

/// Runs the drivers while the main loop watches for signals.
fn drive(machine: &InProcessMachine, stop: &Flag) -> Result<Vec<Outcome>> {
    /// Says that the thread has ended, also after a panic.
    struct Over(Flag);
    impl Drop for Over {
        fn drop(&mut self) {
            self.0.set();
        }
    }
    let ended = Flag::default();
    thread::scope(|scope| {
        let over = Over(ended.clone());
        let runner = thread::Builder::new()
            .name("drivers".to_owned())
            .spawn_scoped(scope, move || {
                let _over = over;
                machine.run(&Stage::jobs())
            })
            .map_err(|error| Error::os("cannot start the drivers", error))?;
        let waited = iterate_until(|| ended.is_set() || stop.is_set());
        if !ended.is_set() {
            machine.halt();
        }
        let outcomes = runner.join();
        waited.map_err(|failure| Error::new(ErrorKind::Closed, failure.to_string()))?;
        outcomes.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed, "the drivers panicked")))
    })
}

/// Iterates the main loop until the guest has ended.
fn wait_for(ended: &Flag, stop: &Flag) -> Result<()> {
    let waited = iterate_for(PATIENCE, || ended.is_set() || stop.is_set());
    waited.map_err(|failure| Error::new(ErrorKind::Closed, failure.to_string()))?;
    if stop.is_set() {
        return Err(Error::new(
            ErrorKind::Closed,
            "asked to end before the guest did",
        ));
    }
    // A guest that is late is reported by its unfinished disks.
    Ok(())
}

/// The images, nodes and contexts. Dropping it removes them.
struct Stage {
    folder: PathBuf,
    contexts: Vec<QContext>,
}

/// A new folder. One that a killed program has left behind is not used.
fn new_folder() -> Result<PathBuf> {
    let own = format!("qctx-{}", std::process::id());
    let mut number = 0;
    let mut folder = std::env::temp_dir().join(&own);
    loop {
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                number += 1;
                folder.set_file_name(format!("{own}-{number}"));
            }
            Err(error) => {
                let message = format!("cannot make '{}'", folder.display());
                return Err(Error::os(message, error));
            }
        }
    }
}

impl Stage {
    fn new() -> Result<Stage> {
        let folder = new_folder()?;
        let mut stage = Stage {
            folder,
            contexts: Vec::new(),
        };
        for number in 0..DISKS_MAX {
            stage.add(number)?;
        }
        Ok(stage)
    }

    fn add(&mut self, number: usize) -> Result<()> {
        let image = self.image(number);
        let size = u64::from(BLOCKS) * BLOCK as u64;
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(size))
            .map_err(|error| Error::os(format!("cannot make '{}'", image.display()), error))?;
        let file = image.to_string_lossy().replace(',', ",,");
        let drive = format!("if=none,id=d{number},file={file},format=raw");
        Node::open_drive(options::parse(None, &drive)?)?;
        self.contexts
            .push(QContext::new(&format!("ctx{number}"), true)?);
        Ok(())
    }

    fn image(&self, number: usize) -> PathBuf {
        self.folder.join(format!("disk{number}.raw"))
    }

    fn jobs() -> Vec<Job> {
        let job = |seed| Job {
            blocks: BLOCKS,
            depth: 8,
            seed,
            ..Job::default()
        };
        (1..).map(job).take(DISKS_MAX).collect()
    }

    /// Compares the image with what the guest was to write.
    fn image_is_right(&self, number: usize) -> Result<bool> {
        let image = self.image(number);
        let bytes = std::fs::read(&image)
            .map_err(|error| Error::os(format!("cannot read '{}'", image.display()), error))?;
        let seed = Stage::jobs()[number].seed;
        let blocks = (0..BLOCKS).flat_map(|block| guest::pattern(seed, block));
        Ok(blocks.eq(bytes))
    }

    fn report(
        &self,
        number: usize,
        outcome: &Outcome,
        devices: &[String],
        written: bool,
    ) -> String {
        let context = &self.contexts[number];
        let (id, thread) = (context.id(), context.thread_id());
        let served = devices.get(number).map_or("", String::as_str);
        let latency = &outcome.latency;
        let times = [latency.min, latency.mean, latency.max].map(|time| time.as_micros());
        let guest = match outcome.fault {
            None => "every byte right".to_owned(),
            Some(fault) => format!("fault {fault:?}"),
        };
        let image = if written { "as written" } else { "WRONG" };
        format!(
            "disk{number}: context {id}, thread {thread}: {served}\n\
             disk{number}: {} requests, {} interrupts; {} batches took {}/{}/{} us (min/mean/max)\n\
             disk{number}: guest: {guest}; host: image {image}\n",
            outcome.requests, outcome.interrupts, latency.count, times[0], times[1], times[2],
        )
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (number, context) in self.contexts.iter().enumerate() {
            // What cannot be removed ends with the process.
            let _ = QContext::delete(context.id());
            let _ = Node::remove(&format!("d{number}"));
        }
        remove(&self.folder);
    }
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        warn(&format!(
            "qctx: cannot remove '{}': {error}",
            folder.display()
        ));
    }
}

/// The devices of one attempt. Dropping it waits until they are gone and nothing is in flight.
struct Devices(Vec<Arc<Device>>);

impl Devices {
    fn new(stage: &Stage, board: &mut dyn Board) -> Result<Devices> {
        let mut devices = Devices(Vec::new());
        for (number, context) in stage.contexts.iter().enumerate() {
            let mut wanted = DeviceOptions::new(
                format!("disk{number}"),
                BlkOptions::new(format!("d{number}")),
                "",
            );
            wanted.data_plane = true;
            wanted.context = Some(context.id().to_owned());
            wanted.transport = TransportOptions::Machine {
                ioeventfd: true,
                irqfd: true,
            };
            devices.0.push(Device::add_to(board, wanted)?);
        }
        Ok(devices)
    }

    /// What each device has served.
    fn describe(&self) -> Vec<String> {
        let describe = |device: &Arc<Device>| {
            let stats = device
                .model::<Blk>()
                .map_or_else(QueueStats::default, |disk| disk.total());
            format!(
                "{} reads, {} writes, {} flushes, {} errors",
                stats.reads, stats.writes, stats.flushes, stats.errors
            )
        };
        self.0.iter().map(describe).collect()
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        let gone = Flag::default();
        let told = gone.clone();
        Device::shutdown_all(move || told.set());
        let _ = iterate_until(|| gone.is_set());
    }
}
