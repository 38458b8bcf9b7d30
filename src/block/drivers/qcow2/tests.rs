//! Images made by hand: what they name, and what happens when their bytes are wrong.
#![forbid(unsafe_code)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::block::Parent;
use crate::block::options::blockdev;
use crate::block::request::Op;
use crate::block::test_rig::Rig;
use crate::object::options::parse_dotted;

const CLUSTER: usize = 4096;

/// The fields of a small image: a header, a refcount table, a refcount block and an L1 table, of a cluster each.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) magic: u32,
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) crypt_method: u32,
    pub(super) l1_size: u32,
    pub(super) l1_offset: u64,
    pub(super) refcount_clusters: u32,
    pub(super) refcount_blocks: [u64; 2],
    pub(super) incompatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    pub(super) header_len: u32,
    /// The name of a backing file, and its format unless that is empty.
    pub(super) backing: Option<(String, String)>,
    /// The name of a data file, of an image without a backing file.
    pub(super) data_file: Option<String>,
}

impl Default for Fields {
    fn default() -> Fields {
        Fields {
            magic: 0x5146_49fb,
            version: 3,
            cluster_bits: 12,
            size: 1 << 20,
            crypt_method: 0,
            l1_size: 1,
            l1_offset: 3 * 4096,
            refcount_clusters: 1,
            refcount_blocks: [2 * 4096, 0],
            incompatible: 0,
            autoclear: 0,
            refcount_order: 4,
            header_len: 104,
            backing: None,
            data_file: None,
        }
    }
}

/// The bytes of the image.
pub(super) fn image(fields: &Fields) -> Vec<u8> {
    let mut bytes = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &fields.magic.to_be_bytes());
    put(4, &fields.version.to_be_bytes());
    put(20, &fields.cluster_bits.to_be_bytes());
    put(24, &fields.size.to_be_bytes());
    put(32, &fields.crypt_method.to_be_bytes());
    put(36, &fields.l1_size.to_be_bytes());
    put(40, &fields.l1_offset.to_be_bytes());
    put(48, &4096_u64.to_be_bytes());
    put(56, &fields.refcount_clusters.to_be_bytes());
    put(72, &fields.incompatible.to_be_bytes());
    put(88, &fields.autoclear.to_be_bytes());
    put(96, &fields.refcount_order.to_be_bytes());
    put(100, &fields.header_len.to_be_bytes());
    if let Some((name, format)) = &fields.backing {
        if !format.is_empty() {
            put(104, &0xe279_2aca_u32.to_be_bytes());
            put(108, &u32::try_from(format.len()).unwrap().to_be_bytes());
            put(112, format.as_bytes());
        }
        put(8, &1024_u64.to_be_bytes());
        put(16, &u32::try_from(name.len()).unwrap().to_be_bytes());
        put(1024, name.as_bytes());
    }
    if let Some(name) = &fields.data_file {
        put(72, &header::DATA_FILE.to_be_bytes());
        put(104, &0x4441_5441_u32.to_be_bytes());
        put(108, &u32::try_from(name.len()).unwrap().to_be_bytes());
        put(112, name.as_bytes());
    }
    put(4096, &fields.refcount_blocks[0].to_be_bytes());
    put(4104, &fields.refcount_blocks[1].to_be_bytes());
    for cluster in 0..4 {
        put(2 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    bytes
}

/// A directory that goes with its owner.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("qcontext-{}-qcow2-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// An image over `backing`, which has `format`.
    pub(super) fn overlay(&self, name: &str, backing: &str, format: &str) -> PathBuf {
        let fields = Fields {
            backing: Some((backing.into(), format.into())),
            ..Fields::default()
        };
        self.put(name, &image(&fields))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(super) fn open(path: &Path, more: &str) -> Result<Arc<Node>> {
    let text = format!(
        "node-name=image,driver=qcow2,file.driver=file,file.filename={}{more}",
        path.display()
    );
    blockdev(parse_dotted("driver", &text).unwrap())
}

/// The first byte of the disk.
fn first_byte(node: &Arc<Node>) -> u8 {
    let rig = Rig::over(node);
    let memory = std::sync::Mutex::new(vec![1; 512]);
    rig.submit([0], |channel, tag| {
        let mut request = channel.request(Op::Read, 0, tag);
        request.set_memory(&mut memory.lock().unwrap());
        request
    });
    rig.wait(|| rig.finished().len() == 1);
    assert_eq!(rig.finished(), [(0, 0)]);
    memory.lock().unwrap()[0]
}

#[test]
fn the_backing_file_that_an_image_names_is_opened_beside_it() {
    let folder = Folder::new();
    folder.put("base.raw", &[7; 8192]);
    folder.overlay("middle.qcow2", "base.raw", "raw");
    let top = folder.overlay("top.qcow2", "middle.qcow2", "qcow2");
    let node = open(&top, "").unwrap();
    assert_eq!(first_byte(&node), 7);
    assert!(node.driver() == Driver::Qcow2 && node.length() == 1 << 20);
}

#[test]
fn explicit_backing_wins_over_the_named_one() {
    let folder = Folder::new();
    let top = folder.overlay("top.qcow2", "missing.raw", "raw");
    assert!(open(&top, "").is_err());
    let other = folder.put("other.raw", &[9; 4096]);
    let explicit = format!(",backing.driver=file,backing.filename={}", other.display());
    assert_eq!(first_byte(&open(&top, &explicit).unwrap()), 9);
    assert_eq!(first_byte(&open(&top, ",backing=").unwrap()), 0);
    let json = format!(
        r#"{{"node-name": "image", "driver": "qcow2", "backing": null, "file": {{"driver": "file", "filename": "{}"}}}}"#,
        top.display()
    );
    let node = blockdev(parse_dotted("driver", &json).unwrap()).unwrap();
    assert_eq!(first_byte(&node), 0);
}

/// What is no regular file.
fn add_special_files(folder: &Folder) {
    for (name, kind) in [
        ("fifo", rustix::fs::FileType::Fifo),
        ("socket", rustix::fs::FileType::Socket),
    ] {
        let path = folder.path(name);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o600.into(), 0).unwrap();
    }
}

#[test]
fn data_files_that_could_do_harm_are_refused() {
    let folder = Folder::new();
    add_special_files(&folder);
    let cases = [
        ("fifo", "is not a regular file"),
        ("socket", "is not a regular file"),
        ("/dev/null", "is not a regular file"),
        ("image.qcow2", "is the image itself"),
        ("nbd://host/disk", "only files are opened"),
        ("missing.raw", "No such file"),
    ];
    for (name, expected) in cases {
        let fields = Fields {
            data_file: Some(name.into()),
            ..Fields::default()
        };
        let path = folder.put("image.qcow2", &image(&fields));
        let error = open(&path, "").unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn backing_files_that_could_do_harm_are_refused() {
    let folder = Folder::new();
    add_special_files(&folder);
    folder.put("plain.raw", &[0; 4096]);
    symlink(folder.path("loop.qcow2"), folder.path("link.qcow2")).unwrap();
    folder.overlay("second.qcow2", "first.qcow2", "qcow2");
    let cases = [
        ("fifo.qcow2", "fifo", "raw", "is not a regular file"),
        ("self.qcow2", "self.qcow2", "qcow2", "is an image above it"),
        ("socket.qcow2", "socket", "raw", "is not a regular file"),
        ("null.qcow2", "/dev/null", "raw", "is not a regular file"),
        ("folder.qcow2", ".", "raw", "is not a regular file"),
        ("loop.qcow2", "link.qcow2", "qcow2", "is an image above it"),
        (
            "first.qcow2",
            "second.qcow2",
            "qcow2",
            "is an image above it",
        ),
        ("probe.qcow2", "plain.raw", "", "does not record the format"),
        ("format.qcow2", "plain.raw", "qed", "the format 'qed'"),
        (
            "net.qcow2",
            "nbd://host/disk",
            "raw",
            "only files are opened",
        ),
        ("json.qcow2", "json:{}", "raw", "only files are opened"),
        ("none.qcow2", "missing.raw", "raw", "No such file"),
    ];
    for (name, backing, format, expected) in cases {
        let path = folder.overlay(name, backing, format);
        let error = open(&path, "").unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(error.contains(name), "{name}: {error}");
    }
}

#[test]
fn a_long_chain_is_refused() {
    let folder = Folder::new();
    folder.put("0", &image(&Fields::default()));
    // Of the longer chain, those that are never reached are missing.
    for number in (1..=20).chain(9_700..=10_000) {
        folder.overlay(&number.to_string(), &(number - 1).to_string(), "qcow2");
    }
    let error = open(&folder.path("10000"), "").unwrap_err().to_string();
    assert!(error.contains("more than 200 backing files"), "{error}");
    assert!(open(&folder.path("20"), "").is_ok());
}

#[test]
fn one_base_serves_two_images_and_keeps_writers_away() {
    let folder = Folder::new();
    let file = folder.put("base.raw", &[7; 4096]);
    let text = format!(
        "node-name=qcow2-base,driver=file,filename={}",
        file.display()
    );
    let base = Node::open_blockdev(parse_dotted("driver", &text).unwrap()).unwrap();
    let tops = ["a.qcow2", "b.qcow2"].map(|name| {
        let path = folder.put(name, &image(&Fields::default()));
        open(&path, ",backing=qcow2-base").unwrap()
    });
    let writer = Access {
        needs: Permissions::WRITE,
        shares: Permissions::ALL.without(Permissions::WRITE),
    };
    let uses = tops
        .each_ref()
        .map(|top| top.attach(Parent::new("device", "disk"), writer).unwrap());
    let error = base
        .attach(Parent::new("device", "other"), writer)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    drop((uses, tops));
    assert!(base.attach(Parent::new("device", "other"), writer).is_ok());
    Node::remove("qcow2-base").unwrap();
}

#[test]
fn a_base_may_change_under_an_image_whose_users_let_others_change_it() {
    let folder = Folder::new();
    let file = folder.put("base.raw", &[7; 4096]);
    let text = format!(
        "node-name=changing-base,driver=file,filename={}",
        file.display()
    );
    let base = Node::open_blockdev(parse_dotted("driver", &text).unwrap()).unwrap();
    let disk = Access {
        needs: Permissions::WRITE,
        shares: Permissions::ALL.without(Permissions::WRITE),
    };
    let writer = base.attach(Parent::new("device", "disk"), disk).unwrap();
    let path = folder.put("a.qcow2", &image(&Fields::default()));
    let top = open(&path, ",backing=changing-base").unwrap();
    let copies = Access {
        shares: Permissions::ALL,
        ..disk
    };
    assert!(top.attach(Parent::new("device", "disk2"), disk).is_err());
    assert!(top.attach(Parent::new("job", "copies"), copies).is_ok());
    drop((writer, top));
    Node::remove("changing-base").unwrap();
}

/// Some requests of each kind, which may fail, and a flush.
fn exercise(node: Arc<Node>, random: &mut support::random::Random) {
    let rig = Rig::over(&node);
    let memory = std::sync::Mutex::new(vec![1; 16 << 10]);
    let random = std::sync::Mutex::new(random);
    rig.submit(0..24, |channel, tag| {
        let offset = random.lock().unwrap().below(200) * 4096;
        let op = match tag % 6 {
            0 => Op::Discard,
            1 => Op::WriteZeroes { unmap: true },
            2 | 3 => Op::Write,
            _ => Op::Read,
        };
        let mut request = channel.request(op, offset, tag);
        if matches!(op, Op::Read | Op::Write) {
            request.set_memory(&mut memory.lock().unwrap());
        } else {
            request.set_length(8192);
        }
        request
    });
    rig.wait(|| rig.finished().len() == 24);
    rig.flush([24]);
    rig.wait(|| rig.finished().len() == 25);
}

#[test]
fn images_with_wrong_bytes_do_no_harm() {
    let rounds = std::env::var("FUZZ_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let folder = Folder::new();
    let mut random = support::random::Random(11);
    // An image with data, as it is after some requests.
    let good = folder.put("good.qcow2", &image(&Fields::default()));
    exercise(open(&good, "").unwrap(), &mut random);
    let good = std::fs::read(good).unwrap();
    let mut opened = 0;
    for round in 0..rounds.unwrap_or(150) {
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            // Half of the changes hit the fields of the header.
            let limit = if random.below(2) == 0 {
                112
            } else {
                bytes.len()
            };
            let at = random.index(limit);
            let value = random.number().to_le_bytes()[0];
            bytes[at] = if random.below(2) == 0 {
                value
            } else {
                bytes[at] ^ 1 << (value % 8)
            };
        }
        if random.below(8) == 0 {
            bytes.truncate(random.index(bytes.len()));
        }
        let path = folder.put("wrong.qcow2", &bytes);
        if let Ok(node) = open(&path, "") {
            opened += 1;
            exercise(node, &mut random);
        }
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(
            length <= 1 << 40,
            "round {round}: the file has {length} bytes"
        );
    }
    assert!(opened > 10);
}

/// Writes random bytes to clusters of one part of the disk, and reads them back, with many requests in flight.
fn write_and_read(node: &Arc<Node>, part: u64, seed: u64) {
    const COUNT: usize = 16;
    let rig = Rig::over(node);
    let mut random = support::random::Random(seed);
    let mut written = vec![0; COUNT * CLUSTER];
    let read = std::sync::Mutex::new(vec![0; COUNT * CLUSTER]);
    for round in 0..20_u64 {
        // Some clusters are given back in between, while others are written.
        let first = round * 2 * COUNT as u64;
        random.fill(&mut written);
        for op in [Op::Write, Op::Discard, Op::Read] {
            let memory = std::sync::Mutex::new(&mut written);
            rig.submit(first..first + COUNT as u64, |channel, tag| {
                let index = tag - first;
                let shift = if op == Op::Discard { COUNT as u64 } else { 0 };
                let offset = part + (index + shift) * CLUSTER as u64;
                let mut request = channel.request(op, offset, tag);
                let at = usize::try_from(index).unwrap() * CLUSTER;
                match op {
                    Op::Write => request.set_memory(&mut memory.lock().unwrap()[at..at + CLUSTER]),
                    Op::Read => request.set_memory(&mut read.lock().unwrap()[at..at + CLUSTER]),
                    _ => request.set_length(CLUSTER as u64),
                }
                request
            });
            rig.wait(|| rig.with(|channel| channel.in_flight()) == 0);
        }
        assert!(
            *read.lock().unwrap() == written,
            "part {part}, round {round}"
        );
    }
    rig.flush([0]);
    rig.wait(|| rig.with(|channel| channel.in_flight()) == 0);
    assert!(rig.finished().iter().all(|&(_, result)| result == 0));
}

#[test]
fn queues_on_several_threads_share_an_image() {
    let folder = Folder::new();
    let path = folder.put("shared.qcow2", &image(&Fields::default()));
    let node = open(&path, "").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let node = &node;
            scope.spawn(move || write_and_read(node, thread << 18, thread));
        }
    });
    drop(node);
    // Opened again, the tables of the file are as good as those in memory were.
    let again = open(&path, ",read-only=on").unwrap();
    assert_eq!(again.length(), 1 << 20);
    if support::qemu_img::missing().is_none() {
        support::qemu_img::check(&folder.0, "shared.qcow2", false);
    }
}

#[test]
fn an_image_that_was_opened_anew_is_not_resized_by_its_old_driver() {
    let folder = Folder::new();
    let path = folder.put("old.qcow2", &image(&Fields::default()));
    let node = open(&path, "").unwrap();
    let file = node.children().remove(0);
    let new = NewNode {
        id: node.id(),
        name: "old",
        common: &CommonOptions::default(),
        old: None,
    };
    drop(node);
    let driver = over(&file, Qcow2Options::plain(), &new).unwrap();
    driver.write_back().unwrap();
    driver.superseded();
    assert!(driver.set_length(2 << 20).is_err());
    drop(driver);
    assert_eq!(
        std::fs::read(&path).unwrap()[24..32],
        (1_u64 << 20).to_be_bytes()
    );
}

#[test]
fn an_image_that_cannot_be_opened_after_it_became_shorter_is_opened_later() {
    let folder = Folder::new();
    let path = folder.put("short.qcow2", &image(&Fields::default()));
    // The header cannot be read after something was written.
    let text = format!(
        "node-name=image,driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename={},\
         file.inject-error.0.event=write_aio,file.inject-error.0.iotype=read,file.inject-error.0.sector=0,\
         file.inject-error.0.once=on",
        path.display()
    );
    let node = blockdev(parse_dotted("driver", &text).unwrap()).unwrap();
    assert!(node.set_length(512 << 10).is_err());
    // The header says so.
    assert_eq!(node.length(), 512 << 10);
    assert_eq!(first_byte(&node), 0);
    node.set_length(256 << 10).unwrap();
    assert_eq!((node.length(), first_byte(&node)), (256 << 10, 0));
}
