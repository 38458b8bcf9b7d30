//! Images of VirtualBox, Hyper-V and VMware, of every kind that `qemu-img` makes, read over vhost-user with an independent front
//! end; and those that are refused.
//!
//! Needs `qemu-img`; the tests say SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs::File;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;

use qcontext::block::Node;
use qcontext::object::options;
use qcontext::{QContext, Result};
use support::directory::{TestDir, unique};
use support::front_end::{Guest, Io};
use support::qemu_img::{missing, qemu_img};
use support::random::Random;
use support::served_disk::Disk;
use support::skip::skip;

const SMALL: u64 = 12 << 20;
/// More than two files of 2 GiB, and more than one chunk of a VHDX image with small blocks.
const LARGE: u64 = 5 << 30;
const DEPTH: usize = 16;
const REQUEST_MAX: usize = 256 << 10;

struct Kind {
    driver: &'static str,
    option: &'static str,
    size: u64,
}

const fn kind(driver: &'static str, option: &'static str, size: u64) -> Kind {
    Kind {
        driver,
        option,
        size,
    }
}

const KINDS: [Kind; 13] = [
    kind("vdi", "static=off", SMALL),
    kind("vdi", "static=on", SMALL),
    kind("vdi", "static=off", LARGE),
    kind("vhdx", "subformat=dynamic", SMALL),
    kind("vhdx", "subformat=fixed", SMALL),
    kind("vhdx", "subformat=dynamic,block_size=1M", LARGE),
    kind("vhdx", "subformat=dynamic,block_state_zero=off", SMALL),
    kind("vmdk", "subformat=monolithicSparse", SMALL),
    kind("vmdk", "subformat=monolithicSparse,zeroed_grain=on", SMALL),
    kind("vmdk", "subformat=streamOptimized", SMALL),
    kind("vmdk", "subformat=monolithicFlat", SMALL),
    kind("vmdk", "subformat=twoGbMaxExtentSparse", LARGE),
    kind("vmdk", "subformat=twoGbMaxExtentFlat", LARGE),
];

/// Places with data, some of it next to the borders of blocks and files.
fn data_places(size: u64) -> Vec<u64> {
    let mut places = vec![0, 1 << 20, (2 << 20) - 4096, 5 << 20, SMALL - 65536];
    if size > SMALL {
        let gib = 1 << 30;
        places.extend([
            2 * gib - 65536,
            2 * gib,
            4 * gib - 8192,
            4 * gib + 4096,
            size - 65536,
        ]);
    }
    places
}

/// A raw image with random bytes at some places. Its size is no multiple of a grain.
fn raw(dir: &TestDir, size: u64) -> File {
    let path = dir.file("disk.raw");
    let mut file = File::options();
    let file = file.read(true).write(true).create(true).truncate(true);
    let file = file.open(path).unwrap();
    file.set_len(size + 1536).unwrap();
    let mut bytes = vec![0; 65536];
    for place in data_places(size) {
        Random(place + 1).fill(&mut bytes);
        file.write_all_at(&bytes, place).unwrap();
    }
    file.write_all_at(&bytes[..1536], size).unwrap();
    file
}

fn open(driver: &str, file: &Path, more: &str) -> Result<Arc<Node>> {
    let name = unique("node");
    let text = format!(
        "driver={driver},node-name={name},file.driver=file,file.filename={}{more}",
        file.display()
    );
    Node::open_blockdev(options::parse_dotted("driver", &text).unwrap())
}

/// Reads random pieces around the places with data, with several requests in flight, and compares them.
fn compare(guest: &mut Guest, raw: &File, size: u64, what: &str) {
    let mut random = Random(size);
    let places = data_places(size);
    for _ in 0..24 {
        let mut reads = Vec::new();
        for slot in 0..DEPTH {
            let len = 512 * (1 + random.index(REQUEST_MAX / 512));
            let near = places[random.index(places.len())] + 65536;
            let offset = near.saturating_sub(random.below(1 << 18) / 512 * 512);
            let offset = offset.min(size + 1536 - len as u64);
            let memory = slot * REQUEST_MAX;
            // In two segments, the first of which is short.
            let segments = vec![(memory, 512), (memory + 512, len - 512)];
            let segments = segments.into_iter().filter(|segment| segment.1 > 0);
            let io = Io {
                write: false,
                offset,
                segments: segments.collect(),
            };
            guest.submit(0, slot, &io);
            reads.push((memory, offset, len));
        }
        guest.kick(0);
        let mut left = DEPTH;
        while left > 0 {
            let finished = guest.wait(0);
            assert!(finished.iter().all(|&(_, result)| result == 0), "{what}");
            left -= finished.len();
        }
        for (memory, offset, len) in reads {
            let mut expected = vec![0; len];
            raw.read_exact_at(&mut expected, offset).unwrap();
            let found = &guest.memory.bytes()[memory..memory + len];
            assert!(*found == *expected, "{what}: {len} bytes at {offset}");
        }
    }
}

#[test]
fn images_of_every_kind_read_as_what_they_were_made_of() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let context = QContext::builder(&unique("ctx")).threaded(true);
    let context = context.build().unwrap();
    for (index, kind) in KINDS.iter().enumerate() {
        let what = format!("{} {}", kind.driver, kind.option);
        let dir = TestDir::new();
        let raw = raw(&dir, kind.size);
        let convert = ["convert", "-f", "raw", "-O", kind.driver, "-o", kind.option];
        let files = ["disk.raw", "disk.image"];
        qemu_img(dir.path(), &[convert.as_slice(), &files].concat());
        let file = dir.file("disk.image");
        let engine = [",file.aio=threads", ",file.cache.direct=on", ""][index % 3];
        let node = open(kind.driver, &file, &format!(",read-only=on{engine}")).unwrap();
        assert!(node.is_read_only(), "{what}");
        assert_eq!(node.length(), kind.size + 1536, "{what}");
        let disk = Disk::serve(dir, file, node, 1, &context);
        let mut guest = Guest::connect(&disk.socket, 1, 256, true, DEPTH * REQUEST_MAX).unwrap();
        compare(&mut guest, &raw, kind.size, &what);
        drop(guest);
        assert_eq!(disk.stats().errors, 0, "{what}");
    }
}

#[test]
fn the_end_of_an_image_is_read_where_files_have_larger_blocks() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let context = QContext::builder(&unique("ctx")).threaded(true);
    let context = context.build().unwrap();
    for driver in ["vdi", "vhdx", "vmdk"] {
        let dir = TestDir::new();
        let raw = raw(&dir, SMALL);
        let convert = [
            "convert",
            "-f",
            "raw",
            "-O",
            driver,
            "disk.raw",
            "disk.image",
        ];
        qemu_img(dir.path(), &convert);
        let file = dir.file("disk.image");
        let text = format!(
            "driver={driver},node-name={},read-only=on,file.driver=blkdebug,file.align=4096,file.image.driver=file,\
             file.image.filename={}",
            unique("node"),
            file.display()
        );
        let node = Node::open_blockdev(options::parse_dotted("driver", &text).unwrap()).unwrap();
        assert_eq!(node.length(), SMALL + 1536, "{driver}");
        let disk = Disk::serve(dir, file, node, 1, &context);
        let mut guest = Guest::connect(&disk.socket, 1, 256, true, DEPTH * REQUEST_MAX).unwrap();
        compare(&mut guest, &raw, SMALL, driver);
        drop(guest);
        assert_eq!(disk.stats().errors, 0, "{driver}");
    }
}

#[test]
fn vhdx_with_sectors_of_4096_bytes_is_read() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let dir = TestDir::new();
    let raw = raw(&dir, SMALL);
    raw.set_len(SMALL).unwrap();
    qemu_img(
        dir.path(),
        &["convert", "-O", "vhdx", "disk.raw", "disk.vhdx"],
    );
    let file = dir.file("disk.vhdx");
    let sector_size = [
        0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab,
        0x5f,
    ];
    patch(&file, item(&file, sector_size), &4096_u32.to_le_bytes());
    let node = open("vhdx", &file, ",read-only=on").unwrap();
    assert_eq!(node.length(), SMALL);
    let context = QContext::builder(&unique("ctx")).threaded(true);
    let context = context.build().unwrap();
    let disk = Disk::serve(dir, file, node, 1, &context);
    let mut guest = Guest::connect(&disk.socket, 1, 256, true, DEPTH * REQUEST_MAX).unwrap();
    compare(&mut guest, &raw, SMALL - 1536, "vhdx");
}

#[test]
fn image_that_would_be_written_is_refused() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let dir = TestDir::new();
    for driver in ["vdi", "vhdx", "vmdk"] {
        qemu_img(dir.path(), &["create", "-q", "-f", driver, driver, "1M"]);
        let error = open(driver, &dir.file(driver), "").unwrap_err().to_string();
        assert!(
            error.contains("can only be read: give read-only=on"),
            "{error}"
        );
        let node = open(driver, &dir.file(driver), ",auto-read-only=on").unwrap();
        assert!(node.is_read_only());
        Node::remove(node.name()).unwrap();
    }
}

#[test]
fn foreign_image_is_a_backing_file() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let context = QContext::builder(&unique("ctx")).threaded(true);
    let context = context.build().unwrap();
    for driver in ["vdi", "vhdx", "vmdk"] {
        let dir = TestDir::new();
        let raw = raw(&dir, SMALL);
        qemu_img(dir.path(), &["convert", "-O", driver, "disk.raw", "base"]);
        let create = ["create", "-q", "-f", "qcow2", "-b", "base", "-F", driver];
        qemu_img(dir.path(), &[create.as_slice(), &["top.qcow2"]].concat());
        let file = dir.file("top.qcow2");
        let node = open("qcow2", &file, "").unwrap();
        let disk = Disk::serve(dir, file, node, 1, &context);
        let mut guest = Guest::connect(&disk.socket, 1, 256, true, DEPTH * REQUEST_MAX).unwrap();
        compare(&mut guest, &raw, SMALL, driver);
    }
}

/// A VMDK descriptor with one extent.
fn descriptor(extent: &str) -> String {
    format!("# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\n{extent}\n")
}

#[test]
fn extents_outside_of_the_folder_are_refused() {
    let dir = TestDir::new();
    let inner = dir.file("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(dir.file("secret"), [1; 4096]).unwrap();
    std::fs::write(inner.join("flat"), [2; 4096]).unwrap();
    symlink(dir.file("secret"), inner.join("link")).unwrap();
    let fifo = inner.join("fifo");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, 0o600.into(), 0).unwrap();
    let secret = dir.file("secret").display().to_string();
    let cases = [
        ("../secret", "is outside of the image's folder"),
        (secret.as_str(), "is outside of the image's folder"),
        ("link", "is outside of the image's folder"),
        ("fifo", "is not a regular file"),
        (".", "is outside of the image's folder"),
        ("missing", "No such file"),
    ];
    let image = inner.join("disk.vmdk");
    for (name, expected) in cases {
        std::fs::write(&image, descriptor(&format!("RW 8 FLAT \"{name}\" 0"))).unwrap();
        let error = open("vmdk", &image, ",read-only=on")
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    std::fs::write(&image, descriptor("RW 8 FLAT \"flat\" 0")).unwrap();
    let node = open("vmdk", &image, ",read-only=on").unwrap();
    assert_eq!(node.length(), 4096);
    Node::remove(node.name()).unwrap();
}

#[test]
fn images_that_are_not_supported_are_refused_by_name() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let dir = TestDir::new();
    let create =
        |arguments: &[&str]| qemu_img(dir.path(), &[&["create", "-q", "-f"], arguments].concat());
    create(&["vmdk", "base.vmdk", "1M"]);
    create(&["vmdk", "-b", "base.vmdk", "-F", "vmdk", "top.vmdk"]);
    create(&["vdi", "difference.vdi", "1M"]);
    create(&["vhdx", "log.vhdx", "1M"]);
    create(&["vhdx", "parent.vhdx", "1M"]);
    patch(&dir.file("difference.vdi"), 0x4c, &4_u32.to_le_bytes());
    use_log(&dir.file("log.vhdx"));
    let parameters = [
        0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7,
        0x6b,
    ];
    let parent = dir.file("parent.vhdx");
    patch(&parent, item(&parent, parameters) + 4, &2_u32.to_le_bytes());
    let cases = [
        (
            "vmdk",
            "top.vmdk",
            "VMDK images with a parent are not supported",
        ),
        (
            "vdi",
            "difference.vdi",
            "unsupported VDI image (differencing)",
        ),
        ("vhdx", "log.vhdx", "'qemu-img check -r all"),
        ("vhdx", "parent.vhdx", "(differencing) are not supported"),
        ("vhdx", "base.vmdk", "Image not in VHDX format"),
        ("vdi", "base.vmdk", "Image not in VDI format"),
        ("vmdk", "difference.vdi", "Image not in VMDK format"),
    ];
    for (driver, name, expected) in cases {
        let error = open(driver, &dir.file(name), ",read-only=on").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(expected) && error.contains(name),
            "{name}: {error}"
        );
    }
}

/// Where the metadata item of a VHDX image is.
fn item(image: &Path, id: [u8; 16]) -> u64 {
    const REGION: usize = 1 << 20;
    let bytes = std::fs::read(image).unwrap();
    let entry = bytes.windows(16).position(|window| window == id).unwrap();
    let offset = bytes[entry + 16..entry + 20].try_into().unwrap();
    (entry / REGION * REGION) as u64 + u64::from(u32::from_le_bytes(offset))
}

fn patch(file: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(file).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// Gives both headers of a VHDX image the id of a log.
fn use_log(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    for place in [64 << 10, 128 << 10] {
        let mut header = [0; 4096];
        file.read_exact_at(&mut header, place).unwrap();
        header[48] = 1;
        header[4..8].fill(0);
        let checksum = crc32c(&header);
        header[4..8].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&header, place).unwrap();
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
