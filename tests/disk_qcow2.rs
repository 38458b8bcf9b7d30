//! qcow2 images over vhost-user with an independent front end: what is written is what is read, and what `qemu-img` finds.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use qcontext::block::Node;
use qcontext::object::options;
use qcontext::{Poller, QContext};
use support::directory::{TestDir, unique};
use support::front_end::Guest;
use support::qemu_img::{check, content, missing, qemu_img};
use support::random::Random;
use support::served_disk::Disk;
use support::shadow::Shadow;
use support::skip::skip;

/// Half of it is compared.
const SIZE: usize = 4 << 20;

/// How the image is made: the arguments of `qemu-img` without the name and the size, and further options of the node.
struct Kind {
    name: &'static str,
    create: &'static [&'static str],
    options: &'static str,
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "plain",
        create: &[],
        options: "file.aio=io_uring",
    },
    Kind {
        name: "small clusters, by threads",
        create: &["-o", "cluster_size=512"],
        options: "file.aio=threads",
    },
    Kind {
        name: "version 2, direct",
        create: &["-o", "compat=0.10"],
        options: "file.cache.direct=on",
    },
    Kind {
        name: "over qcow2 over raw",
        create: &["-b", "middle.qcow2", "-F", "qcow2"],
        options: "file.aio=io_uring",
    },
    Kind {
        name: "over compressed clusters",
        create: &["-b", "packed.qcow2", "-F", "qcow2", "-o", "cluster_size=4k"],
        options: "file.aio=threads",
    },
    Kind {
        name: "with a data file",
        create: &["-o", "data_file=data.raw"],
        options: "file.aio=io_uring",
    },
];

/// A directory with images for those above: a raw one with random bytes, one over it, and one with compressed clusters.
fn directory(seed: u64) -> (TestDir, Vec<u8>) {
    let dir = TestDir::new();
    let mut bytes = vec![0; SIZE];
    Random(seed).fill(&mut bytes[..SIZE / 4]);
    std::fs::write(dir.file("base.raw"), &bytes).unwrap();
    let middle = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.raw",
        "-F",
        "raw",
        "middle.qcow2",
    ];
    qemu_img(dir.path(), &middle);
    qemu_img(
        dir.path(),
        &["convert", "-c", "-O", "qcow2", "base.raw", "packed.qcow2"],
    );
    (dir, bytes)
}

fn serve(kind: &Kind, queues: u16, context: &QContext) -> (Disk, Vec<u8>) {
    let (dir, bytes) = directory(queues.into());
    let size = SIZE.to_string();
    let mut create = vec!["create", "-q", "-f", "qcow2"];
    create.extend(kind.create);
    create.extend(["disk.qcow2", &size]);
    qemu_img(dir.path(), &create);
    let file = dir.file("disk.qcow2");
    let has_backing = kind.create.contains(&"-b");
    let content = if has_backing { bytes } else { vec![0; SIZE] };
    let name = unique("node");
    let text = format!(
        "driver=qcow2,node-name={name},file.driver=file,file.filename={},{}",
        file.display(),
        kind.options
    );
    let node = Node::open_blockdev(options::parse_dotted("driver", &text).unwrap()).unwrap();
    (Disk::serve(dir, file, node, queues, context), content)
}

fn verify(poller: Poller, queues: u16) {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let context = QContext::builder(&unique("ctx"))
        .threaded(true)
        .poller(poller);
    let context = context.build().unwrap();
    if context.poller() != poller {
        return skip(format!("this kernel gives no {poller}"));
    }
    for kind in &KINDS {
        let (disk, content_before) = serve(kind, queues, &context);
        assert_eq!(disk.node.length(), SIZE as u64, "{}", kind.name);
        let mut shadow = Shadow::new(content_before[..SIZE / 2].to_vec(), u64::from(queues));
        for _ in 0..2 {
            let count = queues.into();
            let mut guest = Guest::connect(&disk.socket, count, 256, true, Shadow::MEMORY).unwrap();
            shadow.run(&mut guest, 40);
        }
        let stats = disk.stats();
        assert_eq!(stats.errors, 0, "{}", kind.name);
        let dir = disk.close();
        check(dir.path(), "disk.qcow2", false);
        let found = content(dir.path(), "disk.qcow2");
        assert!(found[..SIZE / 2] == *shadow.bytes(), "{}", kind.name);
    }
}

#[test]
fn data_survives_one_queue() {
    verify(Poller::Epoll, 1);
}

#[test]
fn data_survives_four_queues() {
    verify(Poller::Epoll, 4);
}

#[test]
fn data_survives_one_queue_of_a_context_that_waits_in_the_ring() {
    verify(Poller::IoUring, 1);
}

#[test]
fn data_survives_four_queues_of_a_context_that_waits_in_the_ring() {
    verify(Poller::IoUring, 4);
}
