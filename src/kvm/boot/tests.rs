//! The memory before a kernel starts, and the files that are refused.
#![forbid(unsafe_code)]
#![allow(clippy::shadow_unrelated)] // a test names its steps alike

use std::fs;
use std::path::PathBuf;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout::*;
use super::*;

const MIB: u64 = 1 << 20;

/// A folder that is removed after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("qcontext-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn memory(mebibytes: u64) -> GuestMemoryMmap {
    let length = usize::try_from(mebibytes * MIB).unwrap();
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), length)]).unwrap()
}

pub(super) fn number<const N: usize>(memory: &GuestMemoryMmap, at: u64) -> u64 {
    let mut bytes = [0; 8];
    memory
        .read_slice(&mut bytes[..N], GuestAddress(at))
        .unwrap();
    u64::from_le_bytes(bytes)
}

fn bytes(memory: &GuestMemoryMmap, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage with one sector of setup code, whose protected-mode part is all `K`. It wants 8 MiB at 16 MiB.
fn bzimage() -> Vec<u8> {
    let mut image = vec![b'K'; 3 * 512];
    image[0x1f1..2 * 512].fill(0);
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1fe, &[0x55, 0xaa]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020fu16.to_le_bytes());
    put(&mut image, 0x211, &[1]);
    put(&mut image, 0x214, &0x10_0000u32.to_le_bytes());
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &(16 * MIB).to_le_bytes());
    put(
        &mut image,
        0x260,
        &u32::try_from(8 * MIB).unwrap().to_le_bytes(),
    );
    image
}

/// An ELF kernel of one page at 16 MiB with a second one behind it in memory, and maybe a PVH note.
fn elf(with_note: bool) -> Vec<u8> {
    let mut image = vec![0; 0x2000];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 18, &62u16.to_le_bytes());
    put(&mut image, 24, &(16 * MIB + 0x10).to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &[1 + u8::from(with_note), 0]);
    let mut segment = |index: usize, kind: u32, offset: u64, length: u64, in_memory: u64| {
        let at = 64 + index * 56;
        put(&mut image, at, &kind.to_le_bytes());
        put(&mut image, at + 8, &offset.to_le_bytes());
        put(&mut image, at + 24, &(16 * MIB).to_le_bytes());
        put(&mut image, at + 32, &length.to_le_bytes());
        put(&mut image, at + 40, &in_memory.to_le_bytes());
    };
    segment(0, 1, 0x1000, 0x1000, 0x2000);
    segment(1, 4, 0x800, 20, 20);
    image[0x1000..].fill(b'E');
    // Name size, value size, type 18, "Xen", the entry.
    put(&mut image, 0x800, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut image, 0x80c, b"Xen\0");
    put(&mut image, 0x810, &0x100_0020u32.to_le_bytes());
    image
}

fn prepared(kernel: &Path, initrd: Option<&Path>, line: &str) -> KernelImage {
    let mut image = KernelImage::open(kernel).unwrap();
    if let Some(initrd) = initrd {
        image.set_initrd(initrd).unwrap();
    }
    image.set_command_line(line).unwrap();
    image
}

pub(super) fn platform() -> Platform {
    let window = |index: u64, gsi| MmioWindow {
        address: VIRTIO + index * VIRTIO_STRIDE,
        length: 0x200,
        gsi,
    };
    Platform {
        cpus: 2,
        virtio: vec![window(0, 16), window(1, 17)],
        serial: true,
    }
}

fn refusal(folder: &Folder, name: &str) -> String {
    let name = folder.0.join(name);
    KernelImage::open(&name).unwrap_err().to_string()
}

#[test]
fn a_bzimage_starts_in_long_mode_with_a_zero_page() {
    let folder = Folder::new("bzimage");
    let kernel = folder.file("kernel", &bzimage());
    let initrd = folder.file("initrd", &[b'I'; 5000]);
    let memory = memory(64);
    let image = prepared(&kernel, Some(&initrd), "quiet");
    let entry = image.load(&memory, &platform()).unwrap();

    assert_eq!(
        entry,
        EntryPoint::Long {
            address: HIGH_RAM + 0x200
        }
    );
    assert_eq!(bytes(&memory, HIGH_RAM, 513)[..512], [b'K'; 512]);
    assert_eq!(bytes(&memory, ZERO_PAGE + 0x202, 4), b"HdrS");
    assert_eq!(number::<8>(&memory, ZERO_PAGE + 0x70), ACPI);
    assert_eq!(number::<1>(&memory, ZERO_PAGE + 0x210), 0xff);
    assert_eq!(number::<4>(&memory, ZERO_PAGE + 0x228), COMMAND_LINE);
    // Two pages below the end of memory.
    let start = 64 * MIB - 0x2000;
    assert_eq!(number::<4>(&memory, ZERO_PAGE + 0x218), start);
    assert_eq!(number::<4>(&memory, ZERO_PAGE + 0x21c), 5000);
    assert_eq!(bytes(&memory, start, 5000), vec![b'I'; 5000]);
}

#[test]
fn the_command_line_names_the_devices_behind_the_users_words() {
    let folder = Folder::new("command-line");
    let kernel = folder.file("kernel", &bzimage());
    let expected =
        "console=ttyS0 virtio_mmio.device=512@0xd0000000:16 virtio_mmio.device=512@0xd0001000:17\0";
    let memory = memory(64);
    let image = prepared(&kernel, None, "console=ttyS0");
    image.load(&memory, &platform()).unwrap();
    assert_eq!(
        bytes(&memory, COMMAND_LINE, expected.len()),
        expected.as_bytes()
    );
    let image = prepared(&kernel, None, "quiet -- single");
    image.load(&memory, &platform()).unwrap();
    let line = bytes(&memory, COMMAND_LINE, 128);
    let line = line.split(|byte| *byte == 0).next().unwrap();
    assert!(line.starts_with(b"quiet virtio_mmio.device=") && line.ends_with(b":17 -- single"));
    let alone = Platform {
        cpus: 1,
        ..Platform::default()
    };
    prepared(&kernel, None, "").load(&memory, &alone).unwrap();
    assert_eq!(bytes(&memory, COMMAND_LINE, 1), [0]);
}

#[test]
fn the_memory_map_leaves_out_what_is_taken() {
    let folder = Folder::new("e820");
    let kernel = folder.file("kernel", &bzimage());
    let low = usize::try_from(64 * MIB).unwrap();
    let ranges = [(GuestAddress(0), low), (GuestAddress(4 << 30), 0x10_0000)];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    prepared(&kernel, None, "")
        .load(&memory, &platform())
        .unwrap();

    let count = number::<1>(&memory, ZERO_PAGE + 0x1e8);
    let entry = |index: u64| {
        let at = ZERO_PAGE + 0x2d0 + index * 20;
        (
            number::<8>(&memory, at),
            number::<8>(&memory, at + 8),
            number::<4>(&memory, at + 16),
        )
    };
    let map: Vec<_> = (0..count).map(entry).collect();
    let expected = [
        (0, LOW_RAM_END, 1),
        (LOW_RAM_END, 0x400, 2),
        (ACPI, 0x2_0000, 2),
        (HIGH_RAM, 63 * MIB, 1),
        (4 << 30, 0x10_0000, 1),
    ];
    assert_eq!(map, expected);
}

#[test]
fn an_elf_kernel_with_a_note_starts_by_pvh() {
    let folder = Folder::new("pvh");
    let kernel = folder.file("kernel", &elf(true));
    let initrd = folder.file("initrd", b"I");
    let memory = memory(64);
    let image = prepared(&kernel, Some(&initrd), "a=b");
    let entry = image.load(&memory, &platform()).unwrap();

    assert_eq!(
        entry,
        EntryPoint::Pvh {
            address: 0x100_0020
        }
    );
    assert_eq!(bytes(&memory, 16 * MIB, 0x1000), vec![b'E'; 0x1000]);
    assert_eq!(number::<4>(&memory, START_INFO), 0x336e_c578);
    assert_eq!(number::<4>(&memory, START_INFO + 4), 1);
    assert_eq!(number::<4>(&memory, START_INFO + 12), 1);
    assert_eq!(number::<8>(&memory, START_INFO + 24), COMMAND_LINE);
    assert_eq!(number::<8>(&memory, START_INFO + 32), ACPI);
    let module = number::<8>(&memory, START_INFO + 16);
    assert_eq!(number::<8>(&memory, module), 64 * MIB - 0x1000);
    assert_eq!(number::<8>(&memory, module + 8), 1);
    let map = number::<8>(&memory, START_INFO + 40);
    assert_eq!(number::<4>(&memory, START_INFO + 48), 4);
    assert_eq!(number::<8>(&memory, map + 3 * 24), HIGH_RAM);
    assert_eq!(number::<8>(&memory, map + 3 * 24 + 8), 63 * MIB);
    assert_eq!(number::<4>(&memory, map + 3 * 24 + 16), 1);
}

#[test]
fn an_elf_kernel_without_a_note_starts_in_long_mode() {
    let folder = Folder::new("elf");
    let kernel = folder.file("kernel", &elf(false));
    let memory = memory(64);
    let entry = prepared(&kernel, None, "").load(&memory, &platform());
    assert_eq!(
        entry.unwrap(),
        EntryPoint::Long {
            address: 16 * MIB + 0x10
        }
    );
    assert_eq!(bytes(&memory, ZERO_PAGE + 0x202, 4), b"HdrS");
    assert_eq!(number::<8>(&memory, ZERO_PAGE + 0x70), ACPI);
}

#[test]
fn the_reset_vector_writes_to_the_reset_register() {
    let folder = Folder::new("vector");
    let kernel = folder.file("kernel", &bzimage());
    let memory = memory(64);
    let image = prepared(&kernel, None, "");
    image.load(&memory, &platform()).unwrap();
    let code = bytes(&memory, RESET_VECTOR, 6);
    assert_eq!(code, [0xba, 0x02, 0x06, 0xb0, RESET_VALUE, 0xee]);
}

#[test]
fn loading_again_gives_the_same_memory() {
    let folder = Folder::new("again");
    let kernel = folder.file("kernel", &elf(true));
    let initrd = folder.file("initrd", &[b'I'; 5000]);
    let image = prepared(&kernel, Some(&initrd), "x");
    let (first, second) = (memory(64), memory(64));
    let entries = [&first, &second].map(|memory| image.load(memory, &platform()).unwrap());
    assert_eq!(entries[0], entries[1]);
    let whole = usize::try_from(64 * MIB).unwrap();
    assert!(bytes(&first, 0, whole) == bytes(&second, 0, whole));
}

#[test]
fn files_that_are_no_kernels_are_refused() {
    let folder = Folder::new("no-kernel");
    let path = folder.0.display().to_string();
    let expected = "expected a 64-bit bzImage or an ELF kernel";
    folder.file("text", b"#!/bin/sh\n");
    assert_eq!(
        refusal(&folder, "text"),
        format!("kernel '{path}/text' is neither a bzImage nor an ELF file, {expected}")
    );
    let mut old = bzimage();
    put(&mut old, 0x206, &0x0204u16.to_le_bytes());
    folder.file("old", &old);
    assert_eq!(
        refusal(&folder, "old"),
        format!("kernel '{path}/old' has no 64-bit entry, {expected}")
    );
    let mut arm = elf(true);
    put(&mut arm, 18, &183u16.to_le_bytes());
    folder.file("arm", &arm);
    assert_eq!(
        refusal(&folder, "arm"),
        format!("kernel '{path}/arm' is not an ELF file for x86-64, {expected}")
    );
    let mut low = elf(true);
    put(&mut low, 64 + 24, &0x8_0000u64.to_le_bytes());
    folder.file("low", &low);
    assert_eq!(
        refusal(&folder, "low"),
        format!("kernel '{path}/low' is to be loaded below 1 MiB, or nowhere, {expected}")
    );
    let mut beyond = elf(true);
    put(&mut beyond, 64 + 24, &u64::MAX.to_le_bytes());
    folder.file("beyond", &beyond);
    assert_eq!(
        refusal(&folder, "beyond"),
        format!("kernel '{path}/beyond' is to be loaded beyond the end of all memory, {expected}")
    );
    folder.file("cut", &elf(true)[..100]);
    assert_eq!(
        refusal(&folder, "cut"),
        format!("kernel '{path}/cut' is an ELF file that is cut off, {expected}")
    );
    assert_eq!(
        refusal(&folder, "nothing"),
        format!("cannot open kernel '{path}/nothing': No such file or directory (os error 2)")
    );
}

#[test]
fn segments_that_are_cut_off_are_refused_when_they_are_loaded() {
    let folder = Folder::new("short");
    let kernel = folder.file("short", &elf(false)[..0x1800]);
    let error = prepared(&kernel, None, "").load(&memory(64), &platform());
    let message = error.unwrap_err().to_string();
    assert!(
        message.starts_with(&format!("cannot load kernel '{}'", kernel.display())),
        "{message}"
    );
}

#[test]
fn initrds_that_are_not_there_or_empty_are_refused() {
    let folder = Folder::new("no-initrd");
    let kernel = folder.file("kernel", &bzimage());
    let open = |initrd: &Path| {
        let mut image = KernelImage::open(&kernel).unwrap();
        image.set_initrd(initrd).unwrap_err().to_string()
    };
    let (nothing, empty) = (folder.0.join("nothing"), folder.file("empty", b""));
    assert_eq!(
        open(&nothing),
        format!(
            "cannot open initrd '{}': No such file or directory (os error 2)",
            nothing.display()
        )
    );
    for path in [&empty, &folder.0] {
        let message = format!(
            "initrd '{}' is not a file with something in it",
            path.display()
        );
        assert_eq!(open(path), message);
    }
}

#[test]
fn memory_that_is_too_small_is_refused_with_what_is_needed() {
    let folder = Folder::new("small");
    let kernel = folder.file("kernel", &bzimage());
    let initrd = folder.file("initrd", &vec![b'I'; usize::try_from(3 * MIB).unwrap()]);
    let name = kernel.display();
    let load = |image: KernelImage, mebibytes| image.load(&memory(mebibytes), &platform());
    let error = load(prepared(&kernel, None, ""), 16).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("kernel '{name}' needs at least 24 MiB of memory, there are 16 MiB within reach")
    );
    load(prepared(&kernel, None, ""), 24).unwrap();
    let error = load(prepared(&kernel, Some(&initrd), ""), 26).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "kernel '{name}' with initrd '{}' needs at least 27 MiB of memory, there are 26 MiB within reach",
            initrd.display()
        )
    );
    load(prepared(&kernel, Some(&initrd), ""), 27).unwrap();
}

#[test]
fn an_initrd_stays_below_what_the_kernel_can_reach() {
    let folder = Folder::new("reach");
    let mut image = bzimage();
    put(&mut image, 0x22c, &0x1ff_ffffu32.to_le_bytes());
    let kernel = folder.file("kernel", &image);
    let initrd = folder.file("initrd", b"I");
    let memory = memory(64);
    let image = prepared(&kernel, Some(&initrd), "");
    image.load(&memory, &platform()).unwrap();
    assert_eq!(number::<4>(&memory, ZERO_PAGE + 0x218), 32 * MIB - 0x1000);
}

#[test]
fn command_lines_that_are_too_long_are_refused() {
    let folder = Folder::new("long");
    let kernel = folder.file("kernel", &bzimage());
    let line = "x".repeat(2000);
    let mut image = prepared(&kernel, None, &line);
    let error = image.load(&memory(64), &platform());
    assert_eq!(
        error.unwrap_err().to_string(),
        "the command line has 2074 bytes, the kernel takes at most 2047"
    );
    let mut refused = |line: &str| image.set_command_line(line).unwrap_err().to_string();
    assert_eq!(
        refused(&"x".repeat(2048)),
        "the command line has 2048 bytes, the kernel takes at most 2047"
    );
    assert_eq!(refused("a\0b"), "the command line contains a NUL");
}
