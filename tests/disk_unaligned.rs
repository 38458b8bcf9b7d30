//! Disks whose direct I/O is coarser than a sector: the guest sees sectors of 512 bytes on every file system and device, each
//! can be read and written by itself, and no write is lost.
//!
//! Loop devices and file systems need root; the tests say SKIP where the host makes none.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use qcontext::block::Node;
use qcontext::virtio::{DeviceLimits, VirtioDevice};
use support::directory::TestDir;
use support::disk_model::compare_with_model;
use support::driven_disk::{Disk, IN, OUT, Shape, WRITE_ZEROES, open_node};
use support::front_end::{Guest, Io};
use support::host_storage::{FileSystem, LoopDevice};
use support::random::Random;
use support::seccomp::{Penalty, forbid};
use support::server::Server;
use support::skip::{skip, skip_case};

const ENGINES: [&str; 2] = ["aio=io_uring", "aio=threads"];

const BLOCK: usize = 4096;

/// An image somewhere on the host.
struct Storage {
    name: &'static str,
    path: PathBuf,
    _home: Box<dyn Any>,
}

impl Storage {
    fn file(name: &'static str, home: impl Any, path: PathBuf, bytes: &[u8]) -> Storage {
        std::fs::write(&path, bytes).unwrap();
        Storage {
            name,
            path,
            _home: Box::new(home),
        }
    }

    /// The image opened past the page cache. Without locks: a program that another test starts has the files of this process
    /// for a moment, and with them the lock of an image that was closed.
    fn open(&self, options: &str) -> Arc<Node> {
        let path = self.path.display();
        let locking = "locking=off";
        open_node(&format!(
            "file={path},format=raw,cache=none,{locking},{options}"
        ))
        .unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

/// The image on each kind of storage.
fn storages(bytes: &[u8]) -> Vec<Storage> {
    let homes = [
        ("tmpfs", TestDir::in_memory()),
        ("the disk", TestDir::new()),
    ];
    let files = homes.into_iter().map(|(name, home)| {
        let path = home.file("disk.raw");
        Storage::file(name, home, path, bytes)
    });
    let mut all: Vec<Storage> = files.chain(coarse_files(bytes)).collect();
    match FileSystem::served() {
        Ok(home) => {
            let path = home.file("disk.raw");
            all.push(Storage::file("FUSE", home, path, bytes));
        }
        Err(reason) => skip_case("FUSE", reason),
    }
    all
}

/// The image on the file systems whose direct I/O takes blocks of 4096 bytes.
fn coarse_files(bytes: &[u8]) -> Vec<Storage> {
    let mut all = Vec::new();
    for kind in ["btrfs", "xfs"] {
        match FileSystem::new(kind) {
            Ok(home) => {
                let path = home.file("disk.raw");
                let copy = home.file("copy.raw");
                let storage = Storage::file(kind, home, path, bytes);
                share(&storage.path, &copy);
                all.push(storage);
            }
            Err(reason) => skip_case(kind, reason),
        }
    }
    all
}

/// Makes a copy that shares its blocks, as a backup does.
fn share(path: &Path, copy: &Path) {
    let copied = Command::new("cp")
        .arg("--reflink=always")
        .args([path, copy])
        .status();
    assert!(copied.unwrap().success());
}

/// The image on a block device with sectors of 4096 bytes. Its length is a multiple of that.
fn coarse_device(bytes: &[u8]) -> Option<Storage> {
    let device = LoopDevice::new(4096, bytes.len());
    let device = device.inspect_err(|reason| skip_case("loop device", reason));
    let device = device.ok()?;
    let path = device.path().to_owned();
    Some(Storage::file("a device", device, path, bytes))
}

/// The image on each kind of storage, devices included.
fn everywhere(bytes: &[u8]) -> Vec<Storage> {
    let mut all = storages(bytes);
    all.extend(coarse_device(bytes));
    all
}

fn pattern(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Random(11).fill(&mut bytes);
    bytes
}

/// What the guest reads in the configuration space: capacity, block size.
fn capacity_and_block_size(node: Arc<Node>) -> (u64, u32) {
    let disk = Disk::stopped(node, Shape::default());
    let limits = DeviceLimits {
        queues: 1,
        queue_size: 256,
    };
    let mut space = [0; 24];
    disk.blk.read_config(limits, 0, &mut space);
    let capacity = u64::from_le_bytes(space[..8].try_into().unwrap());
    let block_size = u32::from_le_bytes(space[20..].try_into().unwrap());
    disk.close();
    (capacity, block_size)
}

#[test]
fn the_guest_sees_the_same_disk_on_every_storage_in_every_cache_mode() {
    for storage in storages(&pattern(5 * 512)) {
        for cache in ["writeback", "none", "writethrough", "directsync"] {
            let path = storage.path.display();
            let node =
                open_node(&format!("file={path},format=raw,cache={cache},locking=off")).unwrap();
            let seen = capacity_and_block_size(node);
            assert_eq!(seen, (5, 512), "{} cache={cache}", storage.name);
        }
    }
}

#[test]
fn random_sectors_match_the_model_on_every_storage() {
    let mut number = 20;
    let image = pattern(1 << 20);
    for storage in everywhere(&image) {
        for (engine, depth) in [(ENGINES[0], 32), (ENGINES[1], 32), (ENGINES[0], 1)] {
            let mut model = storage.bytes();
            let mut disk = Disk::new(storage.open(engine), Shape::default());
            number += 1;
            disk.random = Random(number);
            compare_with_model(&mut disk, &mut model, depth.min(16), 300);
            disk.stop(0);
            disk.close();
            let name = storage.name;
            assert!(storage.bytes() == model, "{name} {engine} {depth}");
        }
    }
}

#[test]
fn the_last_sectors_of_a_file_that_ends_within_a_block_can_be_used_and_it_keeps_its_length() {
    const LEN: usize = BLOCK + 3 * 512;
    for storage in storages(&pattern(LEN)) {
        for engine in ENGINES {
            let name = storage.name;
            let mut model = storage.bytes();
            let mut disk = Disk::new(storage.open(engine), Shape::default());
            let read = disk.request((IN, 10), &[], 512);
            assert!(read.data == model[LEN - 512..], "{name} {engine}");
            // The last sector; across the border of the block; the whole disk.
            for (sector, count, byte) in [(10, 1, 1), (6, 4, 2), (0, 11, 3), (9, 2, 4)] {
                let data = vec![byte; count * 512];
                let place = sector * 512..(sector + count) * 512;
                model[place].copy_from_slice(&data);
                let done = disk.request((OUT, sector as u64), &data, 0);
                assert_eq!(done.status, 0, "{name} {engine} {sector}");
                let whole = disk.request((IN, 0), &[], LEN);
                assert!(whole.data == model, "{name} {engine} {sector}");
            }
            let range = [9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(disk.request((WRITE_ZEROES, 0), &range, 0).status, 0);
            model[9 * 512..].fill(0);
            disk.close();
            assert!(storage.bytes() == model, "{name} {engine}");
        }
    }
}

#[test]
fn a_file_grows_to_the_sector_that_is_written_and_no_further() {
    for storage in storages(&[7; 1000]) {
        for engine in ENGINES {
            let mut disk = Disk::new(storage.open(engine), Shape::default());
            assert_eq!(disk.request((OUT, 1), &[8; 512], 0).status, 0);
            disk.close();
            let expected = [[7; 512], [8; 512]].concat();
            assert!(storage.bytes() == expected, "{} {engine}", storage.name);
        }
    }
}

#[test]
fn single_sectors_of_a_device_with_large_sectors_are_zeroed_past_the_page_cache() {
    for engine in ENGINES {
        let mut model = pattern(1 << 20);
        let Some(storage) = coarse_device(&model) else {
            return;
        };
        let mut disk = Disk::new(storage.open(engine), Shape::default());
        for (sector, count) in [(3_u64, 1_u32), (17, 100), (8, 8)] {
            let mut range = sector.to_le_bytes().to_vec();
            range.extend(count.to_le_bytes());
            range.extend([0; 4]);
            let done = disk.request((WRITE_ZEROES, 0), &range, 0);
            assert_eq!(done.status, 0, "{engine} {sector}");
            let start = usize::try_from(sector).unwrap() * 512;
            model[start..start + count as usize * 512].fill(0);
        }
        disk.close();
        assert!(storage.bytes() == model, "{engine}");
    }
}

/// Puts single sectors of one block into several queues at once, as often as `rounds`; the last of each must be there.
fn write_sectors_at_once(storage: &Storage, engine: &str, rounds: u8) {
    let shape = Shape {
        queues: 4,
        ..Shape::default()
    };
    let mut disk = Disk::new(storage.open(engine), shape);
    for round in 1..=rounds {
        for sector in 0..8_u8 {
            let queue = usize::from(sector % 4);
            let data = [round ^ sector; 512];
            disk.put(queue, (OUT, sector.into()), &data, 0, 1);
        }
        for queue in 0..4 {
            disk.kick(queue);
        }
        let mut left = 8;
        disk.wait(|disk| {
            for queue in 0..4 {
                while let Some((_, done)) = disk.take_done(queue) {
                    assert_eq!(done.status, 0);
                    left -= 1;
                }
            }
            left == 0
        });
        let read = disk.request((IN, 0), &[], BLOCK);
        for sector in 0..8_u8 {
            let start = usize::from(sector) * 512;
            let name = storage.name;
            assert!(
                read.data[start..start + 512] == [round ^ sector; 512],
                "{name} {engine}: round {round} lost sector {sector}"
            );
        }
    }
    disk.close();
}

#[test]
fn sectors_of_one_block_that_queues_write_at_once_are_all_there() {
    let image = pattern(64 * BLOCK);
    for storage in everywhere(&image) {
        for engine in ENGINES {
            write_sectors_at_once(&storage, engine, 100);
        }
    }
}

#[test]
fn a_whole_block_that_is_written_beside_one_of_its_sectors_is_not_lost() {
    let image = pattern(64 * BLOCK);
    let coarse = coarse_files(&image);
    for storage in coarse.into_iter().chain(coarse_device(&image)) {
        for engine in ENGINES {
            let mut disk = Disk::new(storage.open(engine), Shape::default());
            for round in 1..=200_u8 {
                let (block, sector) = (vec![round; BLOCK], [255 - round; 512]);
                let mut writes = [(0, &block[..]), (3, &sector[..])];
                if round % 2 == 0 {
                    writes.reverse();
                }
                for (at, data) in writes {
                    disk.put(0, (OUT, at), data, 0, 1);
                }
                disk.kick(0);
                let mut left = 2;
                disk.wait(|disk| {
                    while let Some((_, done)) = disk.take_done(0) {
                        assert_eq!(done.status, 0);
                        left -= 1;
                    }
                    left == 0
                });
                let read = disk.request((IN, 0), &[], BLOCK);
                let mut others = read.data[..3 * 512].iter().chain(&read.data[4 * 512..]);
                let name = storage.name;
                assert!(others.all(|&byte| byte == round), "{name} {engine} {round}");
                let both = [round, 255 - round];
                assert!(both.contains(&read.data[3 * 512]), "{name} {engine}");
            }
            disk.close();
        }
    }
}

/// Random requests to the image, which direct I/O of an older kernel takes as it can.
fn compare_without_statx(storage: &Storage) {
    let mut model = storage.bytes();
    let mut disk = Disk::new(storage.open(ENGINES[1]), Shape::default());
    disk.random = Random(3);
    compare_with_model(&mut disk, &mut model, 16, 300);
    disk.stop(0);
    disk.close();
    assert!(storage.bytes() == model, "{}", storage.name);
}

#[test]
fn a_kernel_that_does_not_say_what_direct_io_wants_is_asked_by_trying() {
    let all = everywhere(&pattern(1 << 20));
    let forbidden = forbid(&[libc::SYS_statx], Penalty::Errno(libc::ENOSYS));
    if let Err(error) = forbidden {
        return skip(format!("seccomp: {error}"));
    }
    all.iter().for_each(compare_without_statx);
}

#[test]
fn what_direct_io_wants_can_show_when_the_image_is_in_use() {
    let device = LoopDevice::new(4096, 64 << 20);
    let home = match device.and_then(|device| FileSystem::on(device, "ext4")) {
        Ok(home) => home,
        Err(reason) => return skip(reason),
    };
    // The kernel reads any part of a hole, but writes blocks only.
    let path = home.file("disk.raw");
    let storage = Storage::file("ext4", home, path, &[]);
    let file = std::fs::File::options().write(true).open(&storage.path);
    file.unwrap().set_len(1 << 20).unwrap();
    let forbidden = forbid(&[libc::SYS_statx], Penalty::Errno(libc::ENOSYS));
    if let Err(error) = forbidden {
        return skip(format!("seccomp: {error}"));
    }
    compare_without_statx(&storage);
}

#[test]
fn a_front_end_uses_single_sectors_past_the_page_cache() {
    let image = pattern(5 * 512);
    for storage in storages(&image) {
        let name = storage.name;
        let mut model = storage.bytes();
        let directory = TestDir::new();
        let path = storage.path.display();
        let drive = format!("if=none,id=d0,format=raw,file={path},cache=none");
        let device = "virtio-blk,id=disk0,drive=d0,vhost-user=disk.sock";
        let mut server = Server::start(&directory, &["-drive", &drive, "-device", device]);
        let socket = directory.socket("disk.sock");
        let mut guest = Guest::connect(&socket, 1, 64, true, 4096).unwrap();
        assert_eq!((guest.capacity(), guest.block_size()), (5 * 512, 512));
        guest.memory.bytes()[..512].fill(9);
        let io = |write, sector: usize, len| Io {
            write,
            offset: sector as u64 * 512,
            segments: vec![(0, len)],
        };
        for sector in [1, 4] {
            assert_eq!(guest.run(0, &io(true, sector, 512)), 0, "{name}");
            model[sector * 512..(sector + 1) * 512].fill(9);
        }
        assert_eq!(guest.run(0, &io(false, 0, model.len())), 0, "{name}");
        assert!(guest.memory.bytes()[..model.len()] == model, "{name}");
        drop(guest);
        server.stop();
        assert!(storage.bytes() == model, "{name}");
    }
}
