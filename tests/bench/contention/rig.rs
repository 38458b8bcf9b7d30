//! The devices of a case in an arrangement, ready to be loaded slice by slice.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gsource::{AioContext, PollParams};
use qcontext::QContext;
use qcontext::block::Node;
use qcontext::object::options;
use qcontext::virtio::VirtioDevice;
use qcontext::virtio::blk::{Blk, BlockSizes};

use super::Result;
use super::case::{Arrangement, Case, Effort};
use super::driver::Driver;
use super::figures::Slice;
use super::lock::BigLock;
use super::work::{Crew, Worker};
use support::cpu;

/// How long a disk may take to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the head of this file.
pub(crate) struct Rig {
    contexts: Vec<QContext>,
    disks: Vec<Disk>,
    common: Common,
}

/// What the disks of a rig share.
#[derive(Default)]
struct Common {
    crew: Arc<Crew>,
    lock: Arc<BigLock>,
}

struct Disk {
    blk: Blk,
    aio: AioContext,
    context: QContext,
    /// What the context drives in place of the AioContext itself.
    source: Option<glib::Source>,
    driver: Driver,
}

/// What the contexts' threads, this process and the machine have used so far.
struct Usage {
    contexts_ns: u64,
    switches: u64,
    process_ns: u64,
    machine_ns: u64,
}

impl Rig {
    pub(crate) fn new(case: Case, arrangement: Arrangement) -> Result<Rig> {
        let count = match arrangement {
            Arrangement::One => 1,
            _ => case.devices,
        };
        let mut contexts = Vec::new();
        for _ in 0..count {
            let context = QContext::anonymous(true)?;
            // Busy-polling takes a processor for each context, and GLib does not busy-poll for the sources of `Locked`.
            context.set_poll_params(PollParams::default())?;
            contexts.push(context);
        }
        let common = Common::default();
        let mut disks = Vec::new();
        for device in 0..case.devices {
            let context = &contexts[device % count];
            disks.push(Disk::new(case, device, arrangement, context, &common)?);
        }
        Ok(Rig {
            contexts,
            disks,
            common,
        })
    }

    /// Loads all devices for a while and tells what was seen.
    pub(crate) fn slice(&mut self, effort: &Effort) -> Result<Slice> {
        self.load(effort.warm_up)?;
        let (before, takes) = (self.usage()?, self.common.lock.takes());
        let begin = Instant::now();
        let latencies = self.load(effort.slice)?;
        let elapsed = begin.elapsed();
        let (after, takes) = (self.usage()?, self.common.lock.takes().since(takes));
        let devices = self.disks.iter().zip(latencies);
        let machine = after.machine_ns - before.machine_ns;
        let own = after.process_ns - before.process_ns;
        Ok(Slice {
            latencies: devices
                .map(|(disk, seen)| (disk.driver.depth(), seen))
                .collect(),
            elapsed,
            contexts_ns: after.contexts_ns - before.contexts_ns,
            switches: after.switches - before.switches,
            takes,
            at_once: self.common.crew.most(),
            others: (machine as f64 - own as f64) / elapsed.as_nanos() as f64,
        })
    }

    /// The latencies that each driver has seen.
    fn load(&mut self, time: Duration) -> Result<Vec<Vec<Duration>>> {
        let end = Instant::now() + time;
        thread::scope(|scope| {
            let disks = self.disks.iter_mut();
            let drivers: Vec<_> = disks
                .map(|disk| scope.spawn(move || disk.driver.load_until(end)))
                .collect();
            let mut all = Vec::new();
            for driver in drivers {
                all.push(driver.join().map_err(|_| "a driver panicked")??);
            }
            Ok(all)
        })
    }

    fn usage(&self) -> Result<Usage> {
        let (mut contexts_ns, mut switches) = (0, 0);
        for context in &self.contexts {
            contexts_ns += cpu::of_thread(context.thread_id())?;
            switches += cpu::switches_of_thread(context.thread_id())?;
        }
        Ok(Usage {
            contexts_ns,
            switches,
            process_ns: cpu::of_process(std::process::id())?,
            machine_ns: cpu::of_machine()?,
        })
    }

    /// Stops everything; how many requests the devices have answered, which are as many as the drivers saw answers.
    pub(crate) fn close(self) -> Result<u64> {
        let mut requests = 0;
        for disk in self.disks {
            requests += disk.close()?;
        }
        for context in self.contexts {
            context.stop()?;
        }
        Ok(requests)
    }
}

impl Disk {
    fn new(
        case: Case,
        device: usize,
        arrangement: Arrangement,
        context: &QContext,
        common: &Common,
    ) -> Result<Disk> {
        let load = case.load(device);
        let aio = AioContext::new()?;
        let source = match arrangement {
            Arrangement::One | Arrangement::Each => None,
            Arrangement::Locked | Arrangement::Unlocked => Some(aio.g_source()?),
        };
        match &source {
            None => context.attach(&aio, None)?,
            Some(source) => {
                if arrangement == Arrangement::Locked {
                    common.lock.guard(source)?;
                }
                context.attach_source(source, None)?;
            }
        }
        let driver = Driver::new(load)?;
        let blk = Blk::new(
            "disk0",
            &null_disk()?,
            vec![aio.clone()],
            "contention",
            BlockSizes::default(),
        )?;
        let mut setup = driver.setup()?;
        setup.call = Some(Arc::new(Worker {
            crew: Arc::clone(&common.crew),
            time: load.work,
            call: driver.call()?,
        }));
        blk.start_queue(0, setup)?;
        Ok(Disk {
            blk,
            aio,
            context: context.clone(),
            source,
            driver,
        })
    }

    fn close(self) -> Result<u64> {
        let (stopped, is_stopped) = mpsc::channel();
        self.blk.stop_queue(
            0,
            Box::new(move |_| {
                // The receiver is gone if this took too long.
                let _ = stopped.send(());
            }),
        );
        is_stopped
            .recv_timeout(PATIENCE)
            .map_err(|_| "a disk does not stop")?;
        let stats = self.blk.stats(0);
        if (stats.reads, stats.errors) != (self.driver.answered, 0) {
            let seen = self.driver.answered;
            return Err(format!("the driver saw {seen} answers, the disk {stats:?}").into());
        }
        let (context, name) = (self.context, self.blk.node().name().to_owned());
        // On the home thread: the callback of the stop has returned there, and holds the disk no more.
        match self.source {
            Some(source) => {
                let home = context.clone();
                context.invoke_sync(move || home.destroy_source(&source))?;
            }
            None => context.detach_sync(&self.aio)?,
        }
        drop(self.blk);
        drop(self.aio);
        Node::remove(&name)?;
        Ok(stats.reads)
    }
}

/// A disk with nothing behind it.
fn null_disk() -> Result<Arc<Node>> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let text = format!("driver=null-co,node-name=contention{number},size=1M");
    Ok(Node::open_blockdev(options::parse(None, &text)?)?)
}
