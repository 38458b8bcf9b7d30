//! A disk whose image gets longer or shorter while a guest has it: the front end hears of it, the guest uses the new space, and
//! Linux finds the new capacity, under QEMU 7.2 and 10.
//!
//! Linux needs what `tests/guest/packages` and `tests/guest/fetch` bring; its tests say SKIP where that is not there.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;

use qcontext::QContext;
use support::directory::{TestDir, unique};
use support::front_end::{Guest as Driver, Io};
use support::linux_guest::{self, Guest};
use support::raw_front_end::{FrontEnd, memory};
use support::served_disk::{Disk, Engine};
use support::skip::skip;

const MIB: u64 = 1 << 20;

/// "The configuration has changed", as a front end reads it.
const CONFIG_CHANGED: [u8; 12] = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

fn connect(disk: &Disk) -> FrontEnd {
    let front_end = FrontEnd::connect(&disk.socket);
    for message in FrontEnd::negotiation(memory()) {
        front_end.send(&message);
    }
    front_end
}

fn next_request(requests: &mut UnixStream) -> [u8; 12] {
    let mut request = [0; 12];
    requests.read_exact(&mut request).unwrap();
    request
}

#[test]
fn front_end_hears_that_the_disk_has_another_size_and_reads_it() {
    let context = QContext::new(&unique("ctx"), true).unwrap();
    let disk = Disk::new(Engine::Uring { direct: false }, MIB, 1, &context);
    let front_end = connect(&disk);
    let mut requests = front_end.backend_requests();
    assert_eq!(front_end.capacity(), MIB);
    // Another program makes the file longer, and the node looks at it again.
    let file = File::options().write(true).open(&disk.file).unwrap();
    file.set_len(3 * MIB).unwrap();
    disk.node.refresh_length().unwrap();
    assert_eq!(next_request(&mut requests), CONFIG_CHANGED);
    assert_eq!(front_end.capacity(), 3 * MIB);
    // The node is asked to change.
    disk.node.set_length(2 * MIB).unwrap();
    assert_eq!(next_request(&mut requests), CONFIG_CHANGED);
    assert_eq!(front_end.capacity(), 2 * MIB);
    assert_eq!(file.metadata().unwrap().len(), 2 * MIB);
}

#[test]
fn next_front_end_hears_of_changes_too_and_a_refresh_without_change_is_silent() {
    let context = QContext::new(&unique("ctx"), true).unwrap();
    let disk = Disk::new(Engine::Uring { direct: false }, MIB, 1, &context);
    drop(connect(&disk).backend_requests());
    let front_end = connect(&disk);
    let mut requests = front_end.backend_requests();
    disk.node.refresh_length().unwrap();
    disk.node.set_length(2 * MIB).unwrap();
    assert_eq!(next_request(&mut requests), CONFIG_CHANGED);
    assert_eq!(front_end.capacity(), 2 * MIB);
    requests.set_nonblocking(true).unwrap();
    assert!(requests.read(&mut [0]).is_err());
}

#[test]
fn guest_uses_the_space_that_a_disk_has_got_while_its_queues_run() {
    let context = QContext::new(&unique("ctx"), true).unwrap();
    let disk = Disk::new(Engine::Uring { direct: false }, MIB, 1, &context);
    let mut guest = Driver::connect(&disk.socket, 1, 64, true, 4096).unwrap();
    let behind_the_end = |write| Io {
        write,
        offset: MIB,
        segments: vec![(0, 4096)],
    };
    assert_eq!(guest.run(0, &behind_the_end(true)), -5);
    disk.node.set_length(2 * MIB).unwrap();
    guest.memory.bytes().fill(7);
    assert_eq!(guest.run(0, &behind_the_end(true)), 0);
    guest.memory.bytes().fill(0);
    assert_eq!(guest.run(0, &behind_the_end(false)), 0);
    assert!(guest.memory.bytes().iter().all(|byte| *byte == 7));
    disk.node.set_length(MIB).unwrap();
    assert_eq!(guest.run(0, &behind_the_end(false)), -5);
}

/// Grows the disk when the guest waits for that; all that the guest has said.
fn grow(mut guest: Guest, disk: &Disk) -> String {
    while guest.next_line().expect("a guest that waits") != "guest: disk0 waiting to grow" {}
    disk.node.set_length(24 * MIB).unwrap();
    guest.finish(1)
}

fn a_guest_sees_its_disk_grow(qemu: u32) {
    if let Some(reason) = linux_guest::missing(qemu) {
        return skip(reason);
    }
    let context = QContext::new(&unique("ctx"), true).unwrap();
    let disk = Disk::new(Engine::Threads { direct: false }, 16 * MIB, 1, &context);
    let directory = TestDir::new();
    let socket = disk.socket.to_str().unwrap();
    let console = grow(
        Guest::boot(directory.path(), qemu, 1, "grow", &[socket]),
        &disk,
    );
    assert!(
        console.contains("guest: disk0 grew to 25165824"),
        "{console}"
    );
    assert!(disk.stats().reads > 0);
}

#[test]
fn a_guest_under_qemu_7_sees_its_disk_grow() {
    a_guest_sees_its_disk_grow(7);
}

#[test]
fn a_guest_under_qemu_10_sees_its_disk_grow() {
    a_guest_sees_its_disk_grow(10);
}
