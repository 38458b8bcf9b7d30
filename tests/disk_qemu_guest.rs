//! A real Linux guest, under QEMU 7.2 and 10, on disks that `qctx` serves.
//!
//! Needs what `tests/guest/packages` and `tests/guest/fetch` bring (`make test` runs them), and
//! says SKIP where that is not there.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use support::directory::TestDir;
use support::linux_guest::{self, Guest, check_image, interrupts};
use support::process::qctx;
use support::server::Server;
use support::skip::skip;

const SOCKETS: [&str; 2] = ["disk0.sock", "disk1.sock"];

const TWO_CONTEXTS: [&str; 4] = [
    "-object",
    "qcontext,id=ctx1,threaded=yes",
    "-object",
    "qcontext,id=ctx2,threaded=yes",
];

/// Makes a test for each QEMU out of a function that takes its number.
macro_rules! for_each_qemu {
    ($($name:ident),*) => {
        mod qemu7 {
            $(#[test] fn $name() { super::with_qemu(7, super::$name); })*
        }
        mod qemu10 {
            $(#[test] fn $name() { super::with_qemu(10, super::$name); })*
        }
    };
}

for_each_qemu!(
    the_run_command_passes,
    two_queues_on_two_processors,
    two_disks_share_a_context,
    a_disk_of_the_main_context,
    an_fsync_reaches_the_file,
    a_discard_frees_the_range
);

fn with_qemu(qemu: u32, test: fn(u32)) {
    match linux_guest::missing(qemu) {
        Some(reason) => skip(reason),
        None => test(qemu),
    }
}

/// The options of disk `number`, served from `diskN.raw` at `diskN.sock`.
fn disk(number: u32, drive: &str, device: &str) -> [String; 4] {
    [
        "-drive".to_owned(),
        format!("if=none,id=d{number},file=disk{number}.raw,format=raw{drive}"),
        "-device".to_owned(),
        format!("virtio-blk,id=disk{number},drive=d{number},vhost-user=disk{number}.sock{device}"),
    ]
}

fn start(directory: &TestDir, launcher: &[&str], disks: &[[String; 4]]) -> Server {
    let words = disks.iter().flatten().map(String::as_str);
    let arguments: Vec<&str> = TWO_CONTEXTS.into_iter().chain(words).collect();
    for number in 0..disks.len() {
        directory.image(&format!("disk{number}.raw"), 64);
    }
    Server::start_under(directory, launcher, &arguments)
}

/// Both disks made file systems of, written and read in the guest, and the images checked.
fn serve_two_disks(qemu: u32, cpus: u32, devices: [&str; 2]) -> String {
    let directory = TestDir::new();
    let disks = [disk(0, "", devices[0]), disk(1, "", devices[1])];
    let mut server = start(&directory, &[], &disks);
    let console = Guest::boot(directory.path(), qemu, cpus, "files", &SOCKETS).finish(2);
    for name in ["disk0", "disk1"] {
        assert!(server.number(&format!("/machine/peripheral/{name}.reads")) > 0);
        assert!(server.number(&format!("/machine/peripheral/{name}.writes")) > 0);
    }
    server.stop();
    check_image(directory.path(), "disk0.raw", "disk0", &console);
    check_image(directory.path(), "disk1.raw", "disk1", &console);
    console
}

/// `make run`, but for the build.
fn the_run_command_passes(qemu: u32) {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/run"))
        .env("QCTX", qctx())
        .env("QEMU", qemu.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("run: PASS"), "{said}");
}

fn two_queues_on_two_processors(qemu: u32) {
    let devices = [
        ",x-data-plane=on,context=ctx1,num-queues=2",
        ",x-data-plane=on,context=ctx2,num-queues=2",
    ];
    let console = serve_two_disks(qemu, 2, devices);
    assert!(
        console.contains("disk0 bytes 67108864 queues 2 cache write-back"),
        "{console}"
    );
    let counts = interrupts(&console);
    assert!(
        counts.len() == 4 && counts.iter().all(|count| *count > 0),
        "{counts:?}"
    );
}

fn two_disks_share_a_context(qemu: u32) {
    let device = ",x-data-plane=on,context=ctx1";
    serve_two_disks(qemu, 1, [device, device]);
}

fn a_disk_of_the_main_context(qemu: u32) {
    serve_two_disks(qemu, 1, ["", ",x-data-plane=on"]);
}

/// Each of the guest's five fsyncs is one flush of the device and one fdatasync of the kernel, seen
/// by strace, where LeakSanitizer cannot look. The engine of threads is one that strace can watch.
fn an_fsync_reaches_the_file(qemu: u32) {
    let tracer = [
        "strace",
        "-E",
        "ASAN_OPTIONS=handle_sigbus=0:detect_leaks=0",
        "-D",
        "-f",
        "-qq",
        "-o",
        "trace",
        "-e",
        "trace=fdatasync,fsync",
    ];
    if !Command::new(tracer[0])
        .args(["-qq", "-o", "/dev/null", "true"])
        .status()
        .is_ok_and(|s| s.success())
    {
        return skip("strace is missing or may not trace");
    }
    let directory = TestDir::new();
    let disks = [disk(0, ",aio=threads", ",x-data-plane=on,context=ctx1")];
    let mut server = start(&directory, &tracer, &disks);
    let console = Guest::boot(directory.path(), qemu, 1, "fsync", &SOCKETS[..1]).finish(1);
    assert!(console.contains("cache write-back"), "{console}");
    assert!(console.contains("disk0 fsyncs 5"), "{console}");

    let trace = fs::read_to_string(directory.path().join("trace")).unwrap();
    let syncs = trace
        .lines()
        .filter(|line| line.contains("sync(") && line.ends_with("= 0"));
    assert!(syncs.count() >= 5, "{trace}");
    assert_eq!(server.number("/machine/peripheral/disk0.flushes"), 5);
    server.stop();
}

/// The guest fills 8 MiB and discards 4 MiB from the second MiB on.
fn a_discard_frees_the_range(qemu: u32) {
    const MIB: u64 = 1 << 20;
    let directory = TestDir::new();
    let disks = [disk(0, ",discard=unmap", ",x-data-plane=on,context=ctx1")];
    let mut server = start(&directory, &[], &disks);
    let console = Guest::boot(directory.path(), qemu, 1, "discard", &SOCKETS[..1]).finish(1);
    assert!(console.contains("disk0 discarded 4194304"), "{console}");
    server.stop();

    let image = File::open(directory.path().join("disk0.raw")).unwrap();
    let allocated = image.metadata().unwrap().blocks() * 512;
    assert!(
        (4 * MIB..5 * MIB).contains(&allocated),
        "{allocated} bytes allocated"
    );
    let byte_at = |offset| {
        let mut byte = [0x55];
        image.read_exact_at(&mut byte, offset).unwrap();
        byte[0]
    };
    let edges = [2 * MIB - 1, 2 * MIB, 6 * MIB - 1, 6 * MIB].map(byte_at);
    assert_eq!(edges, [0xff, 0, 0, 0xff]);
}
