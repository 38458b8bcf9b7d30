//! Disks on every kind of storage of a host: short cuts that the kernel refuses are done the plain way.
//!
//! Loop devices and file systems need root; the tests say SKIP where the host makes none.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use support::directory::TestDir;
use support::driven_disk::{DISCARD, Disk, FLUSH, IN, OUT, Shape, WRITE_ZEROES, open_node};
use support::front_end::{Guest, Io};
use support::host_storage::LoopDevice;
use support::server::Server;
use support::skip::skip;

/// Ways to open a block device through the page cache.
const BUFFERED: [&str; 2] = ["aio=io_uring", "aio=threads"];

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn single_sectors_of_a_block_device_with_large_sectors_are_zeroed_and_discarded() {
    for options in BUFFERED {
        let device = match LoopDevice::new(4096, 1 << 20) {
            Ok(device) => device,
            Err(reason) => return skip(reason),
        };
        let path = device.path().display();
        let node = open_node(&format!("file={path},format=raw,locking=off,{options}")).unwrap();
        let mut disk = Disk::new(node, Shape::default());
        for unmap in [0, 1] {
            let at = 3 + u64::from(unmap);
            let done = disk.request((WRITE_ZEROES, 0), &range(at, 1, unmap), 0);
            assert_eq!(done.status, 0, "{options} unmap={unmap}");
        }
        let done = disk.request((DISCARD, 0), &range(17, 1, 0), 0);
        assert_eq!(done.status, 0, "{options}");
        let read = disk.request((IN, 0), &[], 6 * 512);
        let expected = [[1; 3 * 512].as_slice(), &[0; 2 * 512], &[1; 512]].concat();
        assert!(read.data == expected, "{options}");
        disk.close();
    }
}

#[test]
fn a_discard_of_a_block_device_reaches_the_whole_sectors_in_it() {
    let device = match LoopDevice::new(4096, 1 << 20) {
        Ok(device) => device,
        Err(reason) => return skip(reason),
    };
    let path = device.path().display();
    let node = open_node(&format!("file={path},format=raw,aio=threads")).unwrap();
    let mut disk = Disk::new(node, Shape::default());
    // Sectors 9 to 38: of the device's sectors, those from 16 to 31 lie in it.
    let done = disk.request((DISCARD, 0), &range(9, 30, 0), 0);
    assert_eq!(done.status, 0);
    let read = disk.request((IN, 0), &[], 64 * 512);
    let byte_of = |sector: usize| read.data[sector * 512];
    assert_eq!([9, 15, 32, 38].map(byte_of), [1; 4]);
    assert_eq!([16, 31].map(byte_of), [0; 2]);
    disk.close();
}

#[test]
fn a_front_end_zeroes_single_sectors_of_a_block_device_with_large_sectors() {
    let device = match LoopDevice::new(4096, 1 << 20) {
        Ok(device) => device,
        Err(reason) => return skip(reason),
    };
    let directory = TestDir::new();
    let drive = format!("if=none,id=d0,format=raw,file={}", device.path().display());
    let export = "virtio-blk,id=disk0,drive=d0,vhost-user=disk.sock";
    let mut server = Server::start(&directory, &["-drive", &drive, "-device", export]);
    let mut guest = Guest::connect(&directory.socket("disk.sock"), 1, 64, true, 4096).unwrap();
    guest.submit_zeroes(0, 1, 512, 512);
    guest.submit_discard(0, 2, 2048, 512);
    guest.kick(0);
    let mut finished = Vec::new();
    while finished.len() < 2 {
        finished.extend(guest.wait(0));
    }
    finished.sort_unstable();
    assert_eq!(finished, [(1, 0), (2, 0)]);
    let io = Io {
        write: false,
        offset: 0,
        segments: vec![(0, 1536)],
    };
    assert_eq!(guest.run(0, &io), 0);
    let bytes = &guest.memory.bytes()[..1536];
    assert!(bytes == [[1; 512], [0; 512], [1; 512]].concat());
    drop(guest);
    server.stop();
}

#[test]
fn a_real_error_of_the_plain_way_reaches_the_guest() {
    // Nothing can be written behind the end of a device, in whichever way.
    let device = match LoopDevice::new(512, 1 << 20) {
        Ok(device) => device,
        Err(reason) => return skip(reason),
    };
    let path = device.path().display();
    for options in BUFFERED {
        let node = open_node(&format!("file={path},format=raw,{options},locking=off")).unwrap();
        let mut disk = Disk::new(node, Shape::default());
        assert_eq!(disk.request((OUT, 2047), &[2; 512], 0).status, 0);
        device.set_size(1 << 19);
        let done = disk.request((WRITE_ZEROES, 0), &range(2047, 1, 0), 0);
        assert_eq!((done.status, done.written), (1, 1), "{options}");
        assert_eq!(disk.request((FLUSH, 0), &[], 0).written, 1);
        disk.close();
        device.set_size(1 << 20);
    }
}
