//! The contents of the ACPI tables.
#![forbid(unsafe_code)]
#![allow(clippy::shadow_unrelated)] // a test names its steps alike

use super::super::layout::*;
use super::super::tests::platform;
use super::Tables;

/// The tables of the root table's list by signature, each with its bytes.
fn tables(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let number = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        usize::try_from(u64::from_le_bytes(word)).unwrap()
    };
    let table = |address: usize| {
        let at = address - usize::try_from(ACPI).unwrap();
        let length = number(&bytes[at + 4..at + 8]);
        let table = bytes[at..at + length].to_vec();
        (String::from_utf8(table[..4].to_vec()).unwrap(), table)
    };
    let root = table(number(&bytes[24..32]));
    let entries = root.1[36..].chunks(8).map(|entry| table(number(entry)));
    let mut all: Vec<_> = entries.collect();
    let dsdt = table(number(&all[0].1[140..148]));
    all.extend([root, dsdt]);
    all
}

#[test]
fn acpi_tables_are_found_from_the_root_and_add_up() {
    let bytes = Tables::new(&platform()).bytes;
    assert_eq!(&bytes[..8], b"RSD PTR ");
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
    let tables = tables(&bytes);
    let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["FACP", "APIC", "XSDT", "DSDT"]);
    for (name, table) in &tables {
        assert_eq!(sum(table), 0, "{name}");
    }
}

#[test]
fn the_largest_machine_s_tables_fit_below_one_mebibyte() {
    let mut largest = platform();
    largest.cpus = CPUS_MAX;
    largest.virtio = vec![largest.virtio[0]; VIRTIO_GSIS.len()];
    let length = Tables::new(&largest).bytes.len();
    assert!(
        u64::try_from(length).unwrap() <= HIGH_RAM - ACPI,
        "{length}"
    );
}

#[test]
fn acpi_says_how_to_sleep_and_reset() {
    let tables = tables(&Tables::new(&platform()).bytes);
    let fadt = &tables[0].1;
    let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
    assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
    // Generic addresses: I/O space, 8 bits, byte access, the port.
    let register = |port: u16| {
        let [low, high] = port.to_le_bytes();
        [1, 8, 0, 1, low, high, 0, 0, 0, 0, 0, 0]
    };
    assert_eq!(
        (&fadt[116..128], fadt[128]),
        (&register(RESET)[..], RESET_VALUE)
    );
    assert_eq!(fadt[244..256], register(SLEEP_CONTROL));
    assert_eq!(fadt[256..268], register(SLEEP_STATUS));
    let dsdt = &tables[3].1;
    // Name (_S5_, Package (4) { 5, 0, 0, 0 })
    let off = [
        8,
        b'_',
        b'S',
        b'5',
        b'_',
        0x12,
        7,
        4,
        0x0a,
        SLEEP_TYPE_OFF,
        0,
        0,
        0,
    ];
    assert!(dsdt.windows(off.len()).any(|window| window == off));
}

#[test]
fn acpi_turns_a_pulse_into_a_press_of_the_power_button() {
    let tables = tables(&Tables::new(&platform()).bytes);
    let dsdt = &tables[3].1;
    let contains = |pattern: &[u8]| dsdt.windows(pattern.len()).any(|window| window == pattern);
    assert!(contains(b"ACPI0013"));
    // Interrupt (ResourceConsumer, Edge, ActiveHigh) { 9 }
    assert!(contains(&[0x89, 6, 0, 3, 1, 9, 0, 0, 0]));
    // Method (_EVT, 1, Serialized) { Notify (\\_SB.PWRB, 0x80) }
    let mut method = vec![0x14, 19];
    method.extend(b"_EVT\x09\x86\\\x2e_SB_PWRB\x0a\x80");
    assert!(contains(&method));
}

#[test]
fn acpi_lists_processors_and_the_io_apic() {
    let tables = tables(&Tables::new(&platform()).bytes);
    let madt = &tables[1].1;
    assert_eq!(madt[36..40], LOCAL_APIC.to_le_bytes());
    let [a, b, c, d] = IO_APIC.to_le_bytes();
    let expected = [
        0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 1, 0, 0, 0, 1, 12, 2, 0, a, b, c, d, 0, 0, 0, 0,
    ];
    assert_eq!(madt[44..], expected);
}

#[test]
fn acpi_gives_each_device_its_window_and_its_line() {
    let tables = tables(&Tables::new(&platform()).bytes);
    let dsdt = &tables[3].1;
    let place = |pattern: &[u8]| {
        let mut windows = dsdt.windows(pattern.len());
        windows.position(|window| window == pattern)
    };
    let mut last = 0;
    for (address, gsi) in [(0xd000_0000u32, 16u8), (0xd000_1000, 17)] {
        // Memory32Fixed (ReadWrite, address, 512), Interrupt (ResourceConsumer, Edge, ActiveHigh) { gsi }
        let mut resources = vec![0x86, 9, 0, 1];
        resources.extend(address.to_le_bytes());
        resources.extend([0, 2, 0, 0, 0x89, 6, 0, 3, 1, gsi, 0, 0, 0]);
        let found = place(&resources).unwrap();
        assert!(found > last);
        last = found;
    }
    let names = dsdt.windows(8).filter(|window| window == b"LNRO0005");
    assert_eq!(names.count(), 2);
    // IO (Decode16, 0x3f8, 0x3f8, 1, 8)
    assert!(place(&[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]).is_some());
}
