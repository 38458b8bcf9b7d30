//! A disk whose image grows while a guest has it: a Linux guest finds the new capacity, under QEMU 7.2 and 10.
//!
//! Needs what `tests/guest/packages` and `tests/guest/fetch` bring, and says SKIP where that is not there.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use qcontext::QContext;
use support::directory::{TestDir, unique};
use support::linux_guest::{self, Guest};
use support::served_disk::{Disk, Engine};
use support::skip::skip;

const MIB: u64 = 1 << 20;

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
