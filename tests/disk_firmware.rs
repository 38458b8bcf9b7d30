//! Firmware, under QEMU 7.2 and 10, boots GRUB from disks that `qctx` serves: SeaBIOS, OVMF and U-Boot, whose driver polls without
//! interrupts. GRUB reads files with the firmware's driver, and writes one.
//!
//! Needs what `tests/guest/packages` and `tests/guest/fetch` bring, and says SKIP where that is not there.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::fs;
use std::path::Path;
use std::process::Command;

use support::directory::TestDir;
use support::linux_guest::{self, Guest};
use support::server::Server;
use support::skip::skip;

/// The cache mode of each disk, its queue size, and whether its image is in memory, where direct I/O wants blocks of a page.
const DISKS: [(&str, u32, bool); 10] = [
    ("writeback", 4, false),
    ("writeback", 16, false),
    ("writeback", 128, false),
    ("writeback", 1024, false),
    ("none", 4, false),
    ("none", 16, false),
    ("none", 128, false),
    ("none", 1024, false),
    ("none", 4, true),
    ("none", 128, true),
];

/// What Debian's packages install.
const INSTALLED: [&str; 5] = [
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/lib/u-boot/qemu-x86_64/u-boot.rom",
    "/usr/lib/grub/i386-pc/boot.img",
    "/usr/lib/grub/x86_64-efi/normal.mod",
    "/usr/bin/mcopy",
];

#[test]
fn seabios_boots_grub_under_qemu_7() {
    with_qemu(7, "seabios");
}

#[test]
fn seabios_boots_grub_under_qemu_10() {
    with_qemu(10, "seabios");
}

#[test]
fn ovmf_boots_grub_under_qemu_7() {
    with_qemu(7, "ovmf");
}

#[test]
fn ovmf_boots_grub_under_qemu_10() {
    with_qemu(10, "ovmf");
}

#[test]
fn u_boot_boots_grub_under_qemu_7() {
    with_qemu(7, "u-boot");
}

#[test]
fn u_boot_boots_grub_under_qemu_10() {
    with_qemu(10, "u-boot");
}

fn with_qemu(qemu: u32, firmware: &str) {
    if let Some(reason) = linux_guest::missing(qemu) {
        return skip(reason);
    }
    if let Some(file) = INSTALLED.iter().find(|file| !Path::new(file).exists()) {
        return skip(format!("no {file}, run tests/guest/packages"));
    }
    boots_grub(qemu, firmware);
}

/// Each disk's boot sector or EFI program starts, and GRUB reads and writes that disk.
fn boots_grub(qemu: u32, firmware: &str) {
    let disks = Disks::new();
    let mut server = disks.serve();
    let sockets: Vec<String> = (0..)
        .zip(DISKS)
        .map(|(number, (_, queue_size, _))| format!("disk{number}.sock,{queue_size}"))
        .collect();
    let console = Guest::boot_firmware(disks.directory.path(), qemu, firmware, &sockets).end();
    for (number, sum) in disks.sums.iter().enumerate() {
        let expected = [
            format!("greetings from disk{number}"),
            format!("{sum}  /data"),
        ];
        let said = said_by_grub(&console, number);
        assert!(said == expected, "disk{number}: {said:?} in\n{console}");
        let writes = format!("/machine/peripheral/disk{number}.writes");
        assert!(server.number(&writes) > 0, "disk{number}");
    }
    server.stop();
    for number in 0..DISKS.len() {
        let written = disks.file(number, "/grubenv");
        let expected = format!("\nwritten=disk{number}\n");
        assert!(written.contains(&expected), "{written}");
    }
}

/// The lines that GRUB printed of a disk. Some are empty, because a terminal's line ends have two characters.
fn said_by_grub(console: &str, number: usize) -> Vec<&str> {
    let start = format!("grub: disk{number} starts");
    let end = format!("grub: disk{number} ends");
    let lines = console.lines().map(str::trim);
    let inside = lines.skip_while(|line| !line.ends_with(&start)).skip(1);
    let said = inside.take_while(|line| *line != end);
    said.filter(|line| !line.is_empty()).collect()
}

/// An image for each of [`DISKS`].
struct Disks {
    directory: TestDir,
    memory: TestDir,
    /// Of each disk, the checksum of the file that GRUB is to read.
    sums: Vec<String>,
}

impl Disks {
    fn new() -> Disks {
        let mut disks = Disks {
            directory: TestDir::new(),
            memory: TestDir::in_memory(),
            sums: Vec::new(),
        };
        disks.sums = (0..DISKS.len()).map(|number| disks.make(number)).collect();
        disks
    }

    fn make(&self, number: usize) -> String {
        let words = 0..50_000_usize;
        let data: Vec<u8> = words
            .flat_map(|word| (word ^ (number << 32)).to_le_bytes())
            .collect();
        fs::write(self.directory.file("data"), data).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/grub-disk");
        self.run(&[script, &self.image(number), &number.to_string(), "data"]);
        let sum = self.run(&["sha256sum", "data"]);
        sum.split(' ').next().unwrap().to_owned()
    }

    fn image(&self, number: usize) -> String {
        let (_, _, in_memory) = DISKS[number];
        let place = if in_memory {
            &self.memory
        } else {
            &self.directory
        };
        let image = place.file(&format!("disk{number}.raw"));
        image.to_str().unwrap().to_owned()
    }

    /// The content of a file on a disk.
    fn file(&self, number: usize, name: &str) -> String {
        let partition = format!("{}@@1M", self.image(number));
        self.run(&["mtype", "-i", &partition, &format!("::{name}")])
    }

    fn serve(&self) -> Server {
        let mut words = ["-object", "qcontext,id=ctx1,threaded=yes"]
            .map(str::to_owned)
            .to_vec();
        for (number, (cache, queue_size, _)) in DISKS.into_iter().enumerate() {
            let image = self.image(number);
            let drive = format!("if=none,id=d{number},file={image},format=raw,cache={cache}");
            let device = format!(
                "virtio-blk,id=disk{number},drive=d{number},vhost-user=disk{number}.sock,queue-size={queue_size},\
                 x-data-plane=on,context=ctx1"
            );
            words.extend(["-drive".to_owned(), drive, "-device".to_owned(), device]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Server::start(&self.directory, &words)
    }

    /// Runs a command, which must succeed, and returns what it prints.
    fn run(&self, words: &[&str]) -> String {
        let output = Command::new(words[0])
            .args(&words[1..])
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }
}
