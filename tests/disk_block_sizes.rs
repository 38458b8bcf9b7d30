//! The sizes that a disk announces are those of its options, in every transport, and the unit of requests is the one that is
//! announced.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use qcontext::virtio::blk::BlockSizes;
use support::directory::TestDir;
use support::driven_disk::{
    DISCARD, Disk, Done, FLUSH, IN, Image, Medium, OUT, Shape, WRITE_ZEROES, try_open,
};
use support::front_end::Guest;
use support::server::Server;
use support::skip::skip;
use support::tiny_kernel;

const DRIVE: &str = "driver=null-co,if=none,id=d0,size=1M";
const SIZES: &str = "logical_block_size=4096,physical_block_size=16K,min_io_size=32K,opt_io_size=1M,\
                     discard_granularity=64K";

/// The properties and their values with `SIZES`.
const VALUES: [(&str, i64); 5] = [
    ("logical_block_size", 4096),
    ("physical_block_size", 16 << 10),
    ("min_io_size", 32 << 10),
    ("opt_io_size", 1 << 20),
    ("discard_granularity", 64 << 10),
];

#[test]
fn requests_that_are_not_made_of_logical_blocks_are_refused() {
    let image = Image::new(Medium::Memory, &[1; 64 * 1024]);
    for cache in ["writeback", "none"] {
        let node = try_open(&image, &format!("aio=threads,cache={cache}")).unwrap();
        let shape = Shape {
            sizes: BlockSizes {
                logical: 4096,
                physical: 4096,
                ..BlockSizes::default()
            },
            ..Shape::default()
        };
        let mut disk = Disk::new(node, shape);
        let range = |sector: u64, count: u32| {
            let mut bytes = sector.to_le_bytes().to_vec();
            bytes.extend(count.to_le_bytes());
            bytes.extend([0; 4]);
            bytes
        };
        let cases: [(u32, u64, Vec<u8>, usize, u8); 11] = [
            (IN, 8, vec![], 4096, 0),
            (IN, 1, vec![], 4096, 1),
            (IN, 8, vec![], 512, 1),
            (OUT, 8, vec![2; 4096], 0, 0),
            (OUT, 9, vec![3; 4096], 0, 1),
            (OUT, 8, vec![3; 4096 + 512], 0, 1),
            (FLUSH, 0, vec![], 0, 0),
            (WRITE_ZEROES, 0, range(16, 8), 0, 0),
            (WRITE_ZEROES, 0, range(24, 1), 0, 1),
            (DISCARD, 0, range(32, 8), 0, 0),
            (DISCARD, 0, range(33, 8), 0, 1),
        ];
        let count = cases.iter().filter(|case| case.4 == 1).count();
        for (kind, sector, out, room, status) in cases {
            let done: Done = disk.request((kind, sector), &out, room);
            assert_eq!(done.status, status, "{cache} {kind} {sector} {}", out.len());
        }
        assert_eq!(disk.blk.stats(0).errors, count as u64);
        disk.close();
        let bytes = std::fs::read(image.path()).unwrap();
        assert!(bytes[4096..8192].iter().all(|&byte| byte == 2));
        assert!(bytes[24 * 512..32 * 512].iter().all(|&byte| byte == 1));
        std::fs::write(image.path(), [1; 64 * 1024]).unwrap();
    }
}

#[test]
fn a_front_end_reads_the_sizes_and_so_does_a_client() {
    let directory = TestDir::new();
    let device = format!("virtio-blk,id=disk0,drive=d0,vhost-user=disk.sock,{SIZES}");
    let mut server = Server::start(&directory, &["-drive", DRIVE, "-device", &device]);
    let guest = Guest::connect(&directory.socket("disk.sock"), 1, 64, true, 4096).unwrap();
    let config = guest.config();
    assert_eq!(u32::from(config.blk_size), 4096);
    assert_eq!((config.physical_block_exp, config.alignment_offset), (2, 0));
    assert_eq!(u16::from(config.min_io_size), 8);
    assert_eq!(u32::from(config.opt_io_size), 256);
    assert_eq!(u32::from(config.discard_sector_alignment), 128);
    drop(guest);
    for (name, value) in VALUES {
        let path = format!("/machine/peripheral/disk0.{name}");
        assert_eq!(server.number(&path), value, "{name}");
    }
    server.stop();
}

#[test]
fn a_disk_without_options_announces_sectors_and_nothing_else() {
    let directory = TestDir::new();
    let device = "virtio-blk,id=disk0,drive=d0,vhost-user=disk.sock";
    let mut server = Server::start(&directory, &["-drive", DRIVE, "-device", device]);
    let guest = Guest::connect(&directory.socket("disk.sock"), 1, 64, true, 4096).unwrap();
    let config = guest.config();
    let sizes = (
        u32::from(config.blk_size),
        config.physical_block_exp,
        u16::from(config.min_io_size),
        u32::from(config.opt_io_size),
        u32::from(config.discard_sector_alignment),
    );
    assert_eq!(sizes, (512, 0, 0, 0, 1));
    drop(guest);
    let path = "/machine/peripheral/disk0.discard_granularity";
    assert_eq!(server.number(path), i64::from(u32::MAX));
    server.stop();
}

#[test]
fn a_disk_of_a_machine_has_the_sizes_of_its_options() {
    if let Err(error) = qcontext::kvm::open() {
        return skip(error);
    }
    let directory = TestDir::new();
    let kernel = directory.file("kernel");
    std::fs::write(&kernel, tiny_kernel::elf()).unwrap();
    let device = format!("virtio-blk,id=disk0,drive=d0,{SIZES}");
    let kernel = kernel.to_str().unwrap();
    let machine = ["-machine", "microvm", "-S", "-kernel", kernel];
    let disk = ["-drive", DRIVE, "-device", &device];
    let server = Server::start(&directory, &[&machine[..], &disk].concat());
    for (name, value) in VALUES {
        let path = format!("/machine/peripheral/disk0.{name}");
        assert_eq!(server.number(&path), value, "{name}");
    }
    assert!(server.quit().success());
}

#[test]
fn a_size_that_is_wrong_is_refused_over_qmp_and_nothing_is_left() {
    let mut server = Server::start_alone(&["-drive", DRIVE]);
    let mut client = server.client();
    for (size, message) in [
        (
            "513",
            "parameter logical_block_size must be a power of 2 between 512 and 2097152",
        ),
        ("\"4k\"", "Parameter 'logical_block_size' expects uint64"),
        (
            "4096",
            "logical_block_size > physical_block_size not supported",
        ),
    ] {
        let command = format!(
            "{{\"execute\":\"device_add\",\"arguments\":{{\"driver\":\"virtio-blk\",\"id\":\"disk0\",\
             \"drive\":\"d0\",\"vhost-user\":\"disk.sock\",\"logical_block_size\":{size}}}}}"
        );
        let answer = client.ask(&command);
        assert!(answer.contains(message), "{answer}");
    }
    drop(client);
    assert_eq!(server.sockets(), ["qmp.sock"]);
    server.stop();
}
