//! The registers of both boot protocols.
#![forbid(unsafe_code)]

use super::super::layout::*;
use super::super::tests::{memory, number};
use super::*;

#[test]
fn long_mode_starts_with_flat_segments_and_identity_mapping() {
    let memory = memory(64);
    write_tables(&memory).unwrap();
    let entry = EntryPoint::Long { address: 0x10_0200 };
    let general = general(entry);
    assert_eq!(
        (general.rip, general.rsi, general.rflags),
        (0x10_0200, ZERO_PAGE, 2)
    );
    let system = system(entry, kvm_bindings::kvm_sregs::default());
    assert_eq!(
        (system.cs.selector, system.cs.l, system.cs.db),
        (0x10, 1, 0)
    );
    assert_eq!((system.ds.selector, system.ss.selector), (0x18, 0x18));
    assert_eq!((system.cr0, system.cr4), (0x8000_0011, 0x20));
    assert_eq!((system.cr3, system.efer), (PAGE_TABLES, 0x500));
    assert_eq!(number::<8>(&memory, GDT + 0x10), 0x00af_9b00_0000_ffff);
    assert_eq!(number::<8>(&memory, GDT + 0x18), 0x00cf_9300_0000_ffff);
    // Any address below 4 GiB leads to itself.
    let walk = |address: u64| {
        let next =
            |table: u64, shift: u32| number::<8>(&memory, table + (address >> shift & 511) * 8);
        let pointers = next(system.cr3, 39) & !0xfff;
        let directory = next(pointers, 30) & !0xfff;
        let page = next(directory, 21);
        assert_eq!(page & 0x83, 0x83, "{address:#x}");
        (page & !0x1f_ffff) | (address & 0x1f_ffff)
    };
    for address in [0, 0x1234, 0x20_0000, 0xbfff_fff8, 0xfee0_0000, 0xffff_ffff] {
        assert_eq!(walk(address), address);
    }
}

#[test]
fn pvh_starts_in_protected_mode_without_paging() {
    let entry = EntryPoint::Pvh {
        address: 0x100_0000,
    };
    let general = general(entry);
    assert_eq!(
        (general.rip, general.rbx, general.rflags),
        (0x100_0000, START_INFO, 2)
    );
    let system = system(entry, kvm_bindings::kvm_sregs::default());
    assert_eq!((system.cr0, system.cr4, system.efer), (0x11, 0, 0));
    assert_eq!(
        (system.cs.l, system.cs.db, system.cs.limit),
        (0, 1, 0xffff_ffff)
    );
    assert_eq!(
        (system.tr.type_, system.tr.limit, system.tr.s),
        (0xb, 0x67, 0)
    );
}
