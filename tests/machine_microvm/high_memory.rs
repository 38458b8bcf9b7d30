//! A machine with memory below and above the hole under 4 GiB; the guest and a disk use both parts.
#![allow(unsafe_code)] // symbols of the assembler

use std::arch::global_asm;
use std::fs;

use support::tiny_kernel;

use super::{Machine, setup};

global_asm!(include_str!("high_memory.s"), options(att_syntax, raw));

unsafe extern "C" {
    static high_memory_kernel_start: u8;
    static high_memory_kernel_end: u8;
}

/// The sector that the guest writes, and from where: the start of the last page of 5 GiB.
const SECTOR: usize = 3;
const LAST_PAGE: u64 = (6 << 30) - 4096;

fn code() -> &'static [u8] {
    let start = &raw const high_memory_kernel_start;
    let end = &raw const high_memory_kernel_end;
    // SAFETY: both labels are of one read-only section, in this order.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

#[test]
fn memory_on_both_sides_of_the_hole_is_the_guests_and_the_disks() {
    let Some(directory) = setup() else { return };
    fs::write(directory.path().join("kernel"), tiny_kernel::file(code())).unwrap();
    let image = directory.image("disk.raw", 1);
    let arguments = [
        "-m",
        "5G",
        "-object",
        "qcontext,id=ctx1,threaded=yes",
        "-drive",
        "if=none,id=d0,file=disk.raw,format=raw",
        "-device",
        "virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1",
    ];
    let mut machine = Machine::start(&directory, &arguments);
    machine.shows("MWR");
    machine.ends();
    let written = fs::read(image).unwrap();
    let (before, rest) = written.split_at(SECTOR * 512);
    let (sector, after) = rest.split_at(512);
    let expected: Vec<u8> = (LAST_PAGE..LAST_PAGE + 512)
        .step_by(8)
        .flat_map(u64::to_le_bytes)
        .collect();
    assert!(sector == expected);
    assert!(before.iter().chain(after).all(|byte| *byte == 0));
}
