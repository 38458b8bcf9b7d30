//! A guest that writes what it likes into its ring, its descriptors and the headers of its requests.
#![forbid(unsafe_code)]

use support::driven_disk::{Disk, IN, Shape, open_node};
use support::mock_driver::{Buffer, INDIRECT, NEXT, RAM_START};

use crate::mangle::Mangler;

const SIZE: u16 = 16;
/// Where requests stand, at the end of the memory.
const AREA: u64 = 0x4000;

/// A disk whose queue is started anew for each input.
pub struct Target(Disk);

impl Target {
    pub fn new() -> Target {
        let shape = Shape {
            size: SIZE,
            indirect: true,
            slots: 1,
            ..Shape::default()
        };
        let node = open_node("driver=null-co,size=64K,read-zeroes=on").unwrap();
        Target(Disk::stopped(node, shape))
    }

    /// Chains and headers of all kinds, and numbers anywhere in the queue. Then the queue stops, and a new start heals it.
    pub fn offer(&mut self, mangler: &mut Mangler) {
        let disk = &mut self.0;
        write_requests(disk, mangler);
        for index in 0..SIZE {
            set_descriptor(disk, mangler, index);
        }
        disk.start(0, disk.clients[0].ring.avail_index).unwrap();
        for _ in 0..=mangler.below(usize::from(SIZE)) {
            let head = u16::try_from(mangler.below(usize::from(SIZE) + 2)).unwrap();
            disk.clients[0].ring.offer(&disk.ram, head);
        }
        disk.clients[0].ring.publish(&disk.ram);
        if mangler.below(4) == 0 {
            scribble(disk, mangler);
        }
        disk.iterate(1 + mangler.below(3));
        disk.stop(0);
        heal(disk);
    }
}

fn area(disk: &Disk) -> u64 {
    RAM_START + disk.ram.size() - AREA
}

/// Headers that are right in most places, every 16 bytes.
fn write_requests(disk: &Disk, mangler: &mut Mangler) {
    let mut bytes = Vec::new();
    while bytes.len() < usize::try_from(AREA).unwrap() {
        let kind = match mangler.below(8) {
            0 => mangler.number(),
            _ => [0, 1, 4, 8, 11, 13][mangler.below(6)],
        };
        let sector = match mangler.below(4) {
            0 => mangler.number(),
            _ => mangler.below(130) as u64,
        };
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&sector.to_le_bytes());
    }
    disk.ram.write(area(disk), &bytes);
}

fn set_descriptor(disk: &Disk, mangler: &mut Mangler, index: u16) {
    let ring = &disk.clients[0].ring;
    let place = 16 * mangler.below(usize::try_from(AREA / 16).unwrap()) as u64;
    let address = match mangler.below(16) {
        0 => mangler.number(),
        1 => ring.descriptors,
        2 => ring.used,
        _ => area(disk) + place,
    };
    let len = match mangler.below(8) {
        0 => mangler.number(),
        1 | 2 => 1,
        3 => 512 * mangler.below(20) as u64,
        _ => 16 * mangler.below(9) as u64,
    };
    let buffer = Buffer {
        address,
        len: u32::try_from(len & 0xffff_ffff).unwrap(),
        writable: mangler.below(2) == 0,
    };
    let flags = match mangler.below(8) {
        0 => u16::try_from(mangler.number() & 0xffff).unwrap(),
        1 => INDIRECT,
        2 | 3 => 0,
        _ => NEXT,
    };
    let next = match mangler.below(4) {
        0 => mangler.below(20),
        _ => usize::from(index) + 1,
    };
    ring.set_descriptor(
        &disk.ram,
        index,
        buffer,
        flags,
        u16::try_from(next).unwrap(),
    );
}

/// The guest changes its queue under the device's hands.
fn scribble(disk: &Disk, mangler: &mut Mangler) {
    let ring = &disk.clients[0].ring;
    for _ in 0..=mangler.below(4) {
        let (start, len) = [
            (ring.descriptors, 16 * usize::from(SIZE)),
            (ring.available, 6 + 2 * usize::from(SIZE)),
            (ring.used, 6 + 8 * usize::from(SIZE)),
        ][mangler.below(3)];
        let at = mangler.below(len - 2) as u64;
        let number = mangler.number().to_le_bytes();
        disk.ram.write(start + at, &number[..2]);
    }
}

/// The driver begins anew, as after a reset, and is served.
fn heal(disk: &mut Disk) {
    let ring = &mut disk.clients[0].ring;
    ring.avail_index = 0;
    ring.publish(&disk.ram);
    disk.ram.write(ring.used, &[0; 4]);
    ring.used_seen = 0;
    disk.start(0, 0).unwrap();
    assert_eq!(disk.request((IN, 0), &[], 512).status, 0, "a restart heals");
    disk.stop(0);
    assert_eq!(disk.clients[0].ring.used_index(&disk.ram), 1);
}
