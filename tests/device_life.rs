//! Devices in one process: what is refused and why, what is left behind (nothing), what the object tree shows, how they end.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, mpsc};
use std::time::{Duration, Instant};

use qcontext::block::Node;
use qcontext::device::TransportOptions::{Machine, VhostUser};
use qcontext::device::{self, Device, DeviceOptions};
use qcontext::object::{Options, Value, tree};
use qcontext::virtio::blk::{self, BlkOptions};
use qcontext::{ErrorKind, QContext, Wait};
use support::deadline::DEADLINE;
use support::directory::{TestDir, unique};
use support::front_end::{Guest, Io};
use support::served_disk::{Disk, Engine, open};

const MIB: u64 = 1 << 20;

/// One test shuts down all devices of the process, so it must run alone.
static ALL: RwLock<()> = RwLock::new(());

/// Options that work, in a directory of their own.
struct Plan {
    dir: TestDir,
    context: QContext,
    node: Arc<Node>,
    disk: BlkOptions,
    options: DeviceOptions,
}

impl Plan {
    fn new() -> Plan {
        let dir = TestDir::new();
        let file = dir.file("disk.raw");
        std::fs::File::create(&file).unwrap().set_len(MIB).unwrap();
        let node = open(Engine::Uring { direct: false }, MIB, &file);
        let context = QContext::new(&unique("ctx"), true).unwrap();
        let disk = BlkOptions::new(node.name());
        let mut options = DeviceOptions::new(unique("disk"), disk.clone(), dir.socket("s"));
        options.data_plane = true;
        options.context = Some(context.id().to_string());
        Plan {
            dir,
            context,
            node,
            disk,
            options,
        }
    }

    /// The error for changed options. Afterwards the unchanged ones must work, so nothing was left behind.
    fn refused(&self, change: impl FnOnce(&mut DeviceOptions)) -> (ErrorKind, String) {
        let mut options = self.options.clone();
        change(&mut options);
        let error = Device::add(options).unwrap_err();
        let ours = |device: &Arc<Device>| device.id() == self.options.id;
        assert!(!Device::list().iter().any(ours));
        let device = Device::add(self.options.clone()).unwrap();
        shutdown(&device);
        assert!(!self.options.socket().unwrap().exists());
        let text = error.to_string();
        (
            error.kind(),
            text.replace(&self.options.id, "disk0")
                .replace(self.context.id(), "ctx1"),
        )
    }

    /// As [`Plan::refused`], with the options of the disk changed.
    fn refused_disk(&self, change: impl FnOnce(&mut BlkOptions)) -> (ErrorKind, String) {
        let mut disk = self.disk.clone();
        change(&mut disk);
        self.refused(|options| options.model = Arc::new(disk))
    }

    fn path(&self) -> String {
        format!("/machine/peripheral/{}", self.options.id)
    }
}

fn shutdown(device: &Arc<Device>) {
    let (done, is_done) = mpsc::channel();
    device.shutdown(move || done.send(()).unwrap()).unwrap();
    is_done.recv_timeout(DEADLINE).unwrap();
}

fn parse(pairs: &[(&str, &str)]) -> qcontext::Result<DeviceOptions> {
    device::register(&blk::MODEL);
    let driver = ("driver", "virtio-blk");
    let dict = [driver]
        .iter()
        .chain(pairs)
        .map(|(key, value)| ((*key).to_string(), Value::from(*value)))
        .collect();
    DeviceOptions::from_options(Options::from_dict(dict))
}

#[test]
fn context_without_data_plane_is_refused() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    let (kind, text) = plan.refused(|options| options.data_plane = false);
    assert_eq!(kind, ErrorKind::InvalidArgument);
    assert_eq!(text, "device 'disk0': context=ctx1 needs x-data-plane=on");
}

#[test]
fn unknown_context_is_refused() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    let (kind, text) = plan.refused(|options| options.context = Some("nosuch".into()));
    assert_eq!(kind, ErrorKind::NotFound);
    assert_eq!(
        text,
        "device 'disk0': context 'nosuch' not found, expected the id of a qcontext object"
    );
}

#[test]
fn unthreaded_context_is_refused() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    let idle = QContext::new(&unique("idle"), false).unwrap();
    let (kind, text) = plan.refused(|options| options.context = Some(idle.id().into()));
    assert_eq!(kind, ErrorKind::InvalidArgument);
    let expected = "has no thread to serve a device, expected one with threaded=yes";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn unknown_drive_is_refused() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    let (kind, text) = plan.refused_disk(|disk| disk.drive = "nosuch".into());
    assert_eq!(kind, ErrorKind::NotFound);
    assert_eq!(
        text,
        "device 'disk0': drive 'nosuch' not found, expected the id of a -drive or a node-name"
    );
}

#[test]
fn socket_that_cannot_be_bound_is_refused() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    let nowhere = plan.dir.file("nowhere/s");
    let (kind, text) = plan.refused(|options| options.transport = VhostUser(nowhere));
    assert_eq!(kind, ErrorKind::Os);
    assert!(text.contains("No such file or directory"), "{text}");
    let long = PathBuf::from("/tmp").join("x".repeat(200));
    let (_, too_long) = plan.refused(|options| options.transport = VhostUser(long));
    assert!(too_long.contains("is too long"), "{too_long}");
}

#[test]
fn numbers_out_of_range_are_refused() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    for queues in [0, 65, u16::MAX] {
        let (kind, text) = plan.refused_disk(|disk| disk.num_queues = queues);
        assert_eq!(kind, ErrorKind::InvalidArgument);
        assert!(text.contains("num-queues"), "{text}");
    }
    for size in [0, 1, 2, 3, 2048] {
        let (_, over_vhost_user) = plan.refused(|options| options.queue_size = size);
        let (_, on_a_machine) = plan.refused(|options| {
            options.queue_size = size;
            options.transport = Machine {
                ioeventfd: true,
                irqfd: true,
            };
        });
        let expected =
            format!("device 'disk0': queue-size={size} is not a power of two in 4..=1024");
        assert_eq!([over_vhost_user, on_a_machine], [&*expected, &*expected]);
    }
}

#[test]
fn busy_socket_drive_and_id_are_refused() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    let device = Device::add(plan.options.clone()).unwrap();
    let duplicate = Device::add(plan.options.clone()).unwrap_err();
    let expected = format!("Duplicate device ID '{}'", plan.options.id);
    assert_eq!(duplicate.to_string(), expected);
    let other = Plan::new();
    let (kind, text) = other.refused_disk(|disk| disk.drive = plan.node.name().into());
    assert_eq!(kind, ErrorKind::Busy);
    assert!(text.contains("already in use"), "{text}");
    let (socket_kind, socket_text) =
        other.refused(|options| options.transport = device.options().transport.clone());
    assert_eq!(socket_kind, ErrorKind::Busy);
    assert!(
        socket_text.ends_with("is in use: another server listens there"),
        "{socket_text}"
    );
    shutdown(&device);
}

#[test]
fn options_that_are_missing_or_unknown_are_refused() {
    let _shared = ALL.read().unwrap();
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("drive", "d0")], "Parameter 'id' is missing"),
        (&[("id", "1x")], "Parameter 'id' expects an identifier"),
        (
            &[("id", "disk0")],
            "device 'disk0' has no drive, expected drive=ID",
        ),
        (
            &[("id", "disk0"), ("drive", "d0")],
            "device 'disk0' has no transport, expected vhost-user=PATH",
        ),
        (
            &[
                ("id", "d"),
                ("drive", "d0"),
                ("vhost-user", "s"),
                ("bogus", "1"),
            ],
            "Parameter 'bogus' is unexpected",
        ),
        (
            &[
                ("id", "d"),
                ("drive", "d0"),
                ("vhost-user", "s"),
                ("num-queues", "x"),
            ],
            "Invalid parameter type for 'num-queues', expected: integer",
        ),
    ];
    for (pairs, expected) in cases {
        assert_eq!(parse(pairs).unwrap_err().to_string(), expected);
    }
    let good = parse(&[("id", "disk0"), ("drive", "d0"), ("vhost-user", "s")]).unwrap();
    let expected = DeviceOptions::new("disk0", BlkOptions::new("d0"), "s");
    assert_eq!(format!("{good:?}"), format!("{expected:?}"));
}

#[test]
fn device_is_an_object_with_counters() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    let device = Device::add(plan.options.clone()).unwrap();
    let get = |name: &str| tree::get(&plan.path(), name).unwrap();
    let listed = tree::list(&plan.path()).unwrap();
    assert_eq!(listed[0].name, "type");
    for property in &listed {
        get(&property.name);
        assert!(tree::set(&plan.path(), &property.name, Value::Null).is_err());
    }
    assert_eq!(get("type"), Value::from("virtio-blk"));
    assert_eq!(get("context"), Value::from(plan.context.id()));
    assert_eq!(get("connected"), Value::Bool(false));
    let mut guest = Guest::connect(plan.options.socket().unwrap(), 1, 64, true, 8192).unwrap();
    let io = |write, length| Io {
        write,
        offset: 0,
        segments: vec![(0, length)],
    };
    assert_eq!(guest.run(0, &io(true, 8192)), 0);
    assert_eq!(guest.run(0, &io(false, 4096)), 0);
    assert_eq!(guest.run(0, &io(false, 512)), 0);
    assert_eq!(guest.flush(0), 0);
    let counters = [
        "reads",
        "writes",
        "flushes",
        "read-bytes",
        "write-bytes",
        "errors",
    ];
    let expected = [2, 1, 1, 4608, 8192, 0].map(Value::Int);
    // A queue updates its totals at the end of a batch, a moment after the guest sees the last answer.
    let start = Instant::now();
    while counters.map(get) != expected && start.elapsed() < DEADLINE {
        std::thread::yield_now();
    }
    assert_eq!(counters.map(get), expected);
    assert_eq!(get("connected"), Value::Bool(true));
    let error = tree::get(&plan.path(), "nosuch").unwrap_err().to_string();
    assert_eq!(error, "Property 'virtio-blk.nosuch' not found");
    shutdown(&device);
    assert!(tree::list(&plan.path()).is_err());
}

#[test]
fn context_is_in_use_until_the_device_is_gone() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    let device = Device::add(plan.options.clone()).unwrap();
    let (id, context) = (&plan.options.id, plan.context.id());
    let error = QContext::delete(context).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("object '{context}' is in use by device '{id}', can not be deleted")
    );
    shutdown(&device);
    QContext::delete(context).unwrap();
}

#[test]
fn shutdown_flushes_the_drive_and_happens_once() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    let device = Device::add(plan.options.clone()).unwrap();
    let mut guest = Guest::connect(plan.options.socket().unwrap(), 1, 64, true, 4096).unwrap();
    let io = Io {
        write: true,
        offset: 0,
        segments: vec![(0, 4096)],
    };
    assert_eq!(guest.run(0, &io), 0);
    let before = plan.node.data_syncs();
    let (done, is_done) = mpsc::channel();
    device.shutdown(move || done.send(()).unwrap()).unwrap();
    if let Err(error) = device.shutdown(|| ()) {
        assert_eq!(error.kind(), ErrorKind::Busy);
    }
    is_done.recv_timeout(DEADLINE).unwrap();
    assert_eq!(plan.node.data_syncs(), before + 1);
    assert!(Device::find(&plan.options.id).is_err());
    assert!(!plan.options.socket().unwrap().exists());
    Node::remove(plan.node.name()).unwrap();
}

#[test]
fn shutdown_under_load_answers_what_it_took() {
    let _shared = ALL.read().unwrap();
    let context = QContext::new(&unique("ctx"), true).unwrap();
    for round in 0..30 {
        let engine = Engine::Uring { direct: true };
        let mut disk = Disk::new(engine, 16 * MIB, 1, &context);
        let mut guest = Guest::connect(&disk.socket, 1, 256, true, 64 * 4096).unwrap();
        for slot in 0..64 {
            let io = Io {
                write: true,
                offset: slot as u64 * 4096,
                segments: vec![(slot * 4096, 4096)],
            };
            guest.submit(0, slot, &io);
        }
        guest.kick(0);
        if round % 2 == 0 {
            guest.wait(0);
        }
        disk.shutdown().unwrap();
        let rest = guest.try_wait(0, Duration::ZERO);
        assert!(rest.iter().all(|&(_, result)| result == 0));
    }
}

#[test]
fn devices_come_and_go_a_hundred_times_under_one_name() {
    let _shared = ALL.read().unwrap();
    let plan = Plan::new();
    for round in 0..100 {
        let device = Device::add(plan.options.clone()).unwrap();
        let connected = (round % 2 == 0)
            .then(|| Guest::connect(plan.options.socket().unwrap(), 1, 64, true, 4096).unwrap());
        shutdown(&device);
        drop(connected);
    }
    assert!(!plan.options.socket().unwrap().exists());
}

#[test]
fn device_without_data_plane_runs_in_the_main_context() {
    let _shared = ALL.read().unwrap();
    let mut plan = Plan::new();
    plan.options.data_plane = false;
    plan.options.context = None;
    let device = Device::add(plan.options.clone()).unwrap();
    assert_eq!(device.context().id(), "qcontext-main");
    let socket = plan.options.socket().unwrap().to_owned();
    let guest = std::thread::spawn(move || {
        let mut guest = Guest::connect(&socket, 1, 64, true, 4096).unwrap();
        let io = Io {
            write: false,
            offset: 0,
            segments: vec![(0, 4096)],
        };
        guest.run(0, &io)
    });
    let main = QContext::main();
    while !guest.is_finished() {
        main.iterate(Wait::NoBlock).unwrap();
    }
    assert_eq!(guest.join().unwrap(), 0);
    let done = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&done);
    device
        .shutdown(move || told.store(true, Ordering::Release))
        .unwrap();
    while !done.load(Ordering::Acquire) {
        main.iterate(Wait::NoBlock).unwrap();
    }
}

#[test]
fn shutdown_of_all_waits_for_those_that_are_ending_already() {
    let _all = ALL.write().unwrap();
    let plans = [Plan::new(), Plan::new(), Plan::new()];
    let devices = plans
        .each_ref()
        .map(|plan| Device::add(plan.options.clone()).unwrap());
    devices[1].shutdown(|| ()).unwrap();
    let (done, is_done) = mpsc::channel();
    Device::shutdown_all(move || done.send(()).unwrap());
    is_done.recv_timeout(DEADLINE).unwrap();
    for plan in &plans {
        assert!(Device::find(&plan.options.id).is_err());
        assert!(!plan.options.socket().unwrap().exists());
    }
    let (nothing, is_nothing) = mpsc::channel();
    Device::shutdown_all(move || nothing.send(()).unwrap());
    is_nothing.try_recv().unwrap();
}
