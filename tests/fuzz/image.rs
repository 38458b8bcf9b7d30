//! Images of every format, changed in the places where their metadata is. Most are refused; from the others everything is read, and
//! qcow2 images are written.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use gsource::{AioContext, Wait};
use qcontext::block::{Access, BlockBackend, IoBuffer, Node, Parent, Permissions};
use qcontext::object::options::parse_dotted;
use support::directory::{TestDir, unique};
use support::qemu_img::qemu_img;

use crate::mangle::Mangler;

/// What the data of the images is made of.
const DATA: u8 = 0x5a;
const PAGE: usize = 4096;
const PIECE: usize = 64 << 10;
/// No image makes the program take more.
const MEMORY_MAX: u64 = 1 << 30;

/// The format, the options of `qemu-img convert`, and the file with the metadata.
const KINDS: [(&str, &[&str], &str); 12] = [
    ("qcow2", &["-o", "cluster_size=4k"], ""),
    ("qcow2", &["-o", "cluster_size=512,compat=0.10"], ""),
    ("qcow2", &["-c"], ""),
    ("vdi", &[], ""),
    ("vdi", &["-o", "static=on"], ""),
    ("vhdx", &["-o", "block_size=1M,log_size=1M"], ""),
    (
        "vhdx",
        &["-o", "block_size=1M,log_size=1M,subformat=fixed"],
        "",
    ),
    ("vmdk", &[], ""),
    ("vmdk", &["-o", "subformat=streamOptimized"], ""),
    ("vmdk", &["-o", "subformat=monolithicFlat"], ""),
    ("vmdk", &["-o", "subformat=twoGbMaxExtentFlat"], ""),
    ("vmdk", &["-o", "subformat=twoGbMaxExtentSparse"], "-s001"),
];

/// A good image.
struct Seed {
    driver: &'static str,
    /// What is opened.
    image: PathBuf,
    /// What is changed.
    file: File,
    bytes: Vec<u8>,
    /// Where bytes of metadata are.
    places: Vec<usize>,
}

pub struct Target {
    _dir: TestDir,
    seeds: Vec<Seed>,
    aio: AioContext,
    opened: usize,
}

impl Target {
    pub fn new() -> Target {
        // Each image warns of its first failed request.
        let levels = glib::LogLevels::LEVEL_WARNING;
        glib::log_set_handler(Some("qcontext"), levels, false, false, |_, _, _| {});
        let dir = TestDir::in_memory();
        let mut raw = vec![0; 2 << 20];
        raw[..96 << 10].fill(DATA);
        raw[1 << 20..(1 << 20) + PIECE].fill(DATA);
        std::fs::write(dir.file("disk.raw"), raw).unwrap();
        let kinds = KINDS.iter().enumerate();
        Target {
            seeds: kinds
                .map(|(number, kind)| Seed::new(&dir, number, kind))
                .collect(),
            _dir: dir,
            aio: AioContext::new().unwrap(),
            opened: 0,
        }
    }

    /// Changes one image, uses it, and makes it good again.
    pub fn damage(&mut self, mangler: &mut Mangler) {
        let seed = &self.seeds[mangler.below(self.seeds.len())];
        seed.change(mangler);
        let writable = seed.driver == "qcow2" && mangler.below(2) == 0;
        if let Some(node) = seed.open(writable) {
            self.opened += 1;
            exercise(&self.aio, &node, writable, mangler);
            Node::remove(node.name()).unwrap();
        }
        let length = seed.file.metadata().unwrap().len();
        assert!(length <= 1 << 40, "the file has {length} bytes");
        seed.restore();
    }

    /// Some images were good enough to be used, and none took too much memory.
    pub fn check(&self) {
        assert!(self.opened > 20, "{} were opened", self.opened);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        assert!(peak.unwrap() * 1024 < MEMORY_MAX, "{peak:?} kB");
    }
}

impl Seed {
    fn new(dir: &TestDir, number: usize, kind: &(&'static str, &[&str], &str)) -> Seed {
        let (driver, options, suffix) = *kind;
        let name = format!("{number}.{driver}");
        let mut arguments = vec!["convert", "-f", "raw", "-O", driver];
        arguments.extend(options);
        arguments.extend(["disk.raw", &name]);
        qemu_img(dir.path(), &arguments);
        let changed = dir.file(&format!("{number}{suffix}.{driver}"));
        let bytes = std::fs::read(&changed).unwrap();
        Seed {
            driver,
            image: dir.file(&name),
            file: File::options()
                .read(true)
                .write(true)
                .open(changed)
                .unwrap(),
            places: places(&bytes),
            bytes,
        }
    }

    /// Changes a few bytes of metadata. Half of the time, checksums are right nevertheless.
    fn change(&self, mangler: &mut Mangler) {
        let mut bytes = self.bytes.clone();
        for _ in 0..=mangler.below(3) {
            let at = self.places[mangler.below(self.places.len())];
            let len = [1, 2, 4, 8][mangler.below(4)].min(bytes.len() - at);
            let value = mangler.number();
            let value = match mangler.below(2) {
                0 => value.to_le_bytes(),
                _ => value.to_be_bytes(),
            };
            bytes[at..at + len].copy_from_slice(&value[..len]);
        }
        if mangler.below(10) == 0 {
            bytes.truncate(mangler.below(bytes.len()));
        }
        if self.driver == "vhdx" && mangler.below(2) == 0 {
            sign(&mut bytes);
        }
        self.file.set_len(bytes.len() as u64).unwrap();
        self.file.write_all_at(&bytes, 0).unwrap();
    }

    fn restore(&self) {
        self.file.set_len(self.bytes.len() as u64).unwrap();
        self.file.write_all_at(&self.bytes, 0).unwrap();
    }

    fn open(&self, writable: bool) -> Option<Arc<Node>> {
        let read_only = if writable { "off" } else { "on" };
        let text = format!(
            "driver={},node-name={},read-only={read_only},file.driver=file,file.filename={}",
            self.driver,
            unique("image"),
            self.image.display()
        );
        Node::open_blockdev(parse_dotted("driver", &text).unwrap()).ok()
    }
}

/// The bytes that are neither zero nor data, and those next to them.
fn places(bytes: &[u8]) -> Vec<usize> {
    let mut places = Vec::new();
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        if page.iter().all(|&byte| byte == DATA) {
            continue;
        }
        let used = page.iter().enumerate().filter(|(_, byte)| **byte != 0);
        places.extend(used.map(|(at, _)| (number * PAGE + at) & !7));
    }
    places.dedup();
    places
}

/// Makes the checksums of a VHDX image's headers and tables of regions right.
fn sign(bytes: &mut [u8]) {
    for (place, len) in [
        (64 << 10, PAGE),
        (128 << 10, PAGE),
        (192 << 10, PIECE),
        (256 << 10, PIECE),
    ] {
        let Some(part) = bytes.get_mut(place..place + len) else {
            continue;
        };
        part[4..8].fill(0);
        let checksum = crc32c(part);
        part[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc = (crc >> 1) ^ (carry * 0x82f6_3b78);
        }
    }
    !crc
}

/// Uses a disk in a few places. Requests may fail.
fn exercise(aio: &AioContext, node: &Arc<Node>, writable: bool, mangler: &mut Mangler) {
    let read = Permissions::CONSISTENT_READ;
    let access = Access {
        needs: if writable {
            read.and(Permissions::WRITE)
        } else {
            read
        },
        shares: Permissions::ALL,
    };
    let edge = node.attach(Parent::new("test", "fuzz"), access).unwrap();
    let backend = BlockBackend::open(&edge, aio);
    let length = node.length();
    let mut offsets = vec![0, length.saturating_sub(PIECE as u64) / 512 * 512];
    for _ in 0..4 {
        let near = mangler.number() % (2 << 20);
        let far = mangler.number();
        offsets.extend([near, far].map(|at| at % length.max(1) / 512 * 512));
    }
    let task = aio.spawn_local(async move {
        for (number, offset) in offsets.into_iter().enumerate() {
            let count = (length - offset).min(PIECE as u64);
            if count == 0 {
                continue;
            }
            let buffer = IoBuffer::zeroed(usize::try_from(count).unwrap());
            let _ = backend.block_status(offset, count).await;
            let (_, buffer) = backend.read(offset, buffer).await;
            match number % 4 {
                _ if !writable => {}
                0 => drop(backend.write(offset, buffer, false).await),
                1 => drop(backend.discard(offset, count).await),
                2 => drop(backend.write_zeroes(offset, count, true, false).await),
                _ => drop(backend.flush().await),
            }
        }
    });
    let task = task.unwrap();
    while !task.is_finished() {
        aio.poll(Wait::Block).unwrap();
    }
    task.try_take().unwrap().unwrap();
}
