//! Headers that are refused, and what they are refused for.
#![forbid(unsafe_code)]

use super::*;
use crate::block::drivers::qcow2::tests::{Fields, image};

/// What opening an image with these fields says, for a file of `file_len` bytes.
fn verdict(fields: &Fields, file_len: u64, read_only: bool) -> String {
    let bytes = image(fields);
    let check = || -> Result<()> {
        let mut header = Qcow2Header::parse(&bytes[..FIXED_LEN])?;
        header.check_features(read_only)?;
        header.check_tables(file_len)?;
        let cluster_len = usize::try_from(header.cluster_size()).unwrap();
        header.parse_names(&bytes[..cluster_len.min(bytes.len())])?;
        let (offset, len) = header.refcount_table();
        let start = usize::try_from(offset).unwrap();
        header.check_refcount_blocks(&bytes[start..start + len], file_len)
    };
    check().map_or_else(|error| error.to_string(), |()| "good".into())
}

const FILE_LEN: u64 = 4 * 4096;

#[test]
fn fields_that_cannot_be_right_are_refused() {
    let with = |change: &dyn Fn(&mut Fields)| {
        let mut fields = Fields::default();
        change(&mut fields);
        fields
    };
    let cases: [(Fields, &str); 23] = [
        (Fields::default(), "good"),
        (with(&|f| f.magic = 0), "Image is not in qcow2 format"),
        (with(&|f| f.version = 4), "Unsupported qcow2 version 4"),
        (
            with(&|f| f.cluster_bits = 8),
            "Unsupported cluster size: 2^8",
        ),
        (
            with(&|f| f.cluster_bits = 22),
            "Unsupported cluster size: 2^22",
        ),
        (
            with(&|f| f.cluster_bits = u32::MAX),
            "Unsupported cluster size: 2^4294967295",
        ),
        (with(&|f| f.header_len = 72), "qcow2 header too short"),
        (
            with(&|f| f.header_len = 8192),
            "qcow2 header exceeds cluster size",
        ),
        (
            with(&|f| f.refcount_order = 7),
            "Reference count entry width too large; may not exceed 64 bits",
        ),
        (
            with(&|f| f.crypt_method = 1),
            "AES encryption of qcow2 is not supported",
        ),
        (
            with(&|f| f.crypt_method = 2),
            "LUKS encryption of qcow2 is not supported",
        ),
        (
            with(&|f| f.crypt_method = 3),
            "Unsupported encryption method 3",
        ),
        (
            with(&|f| f.l1_size = 0x1000_0000),
            "Active L1 table too large",
        ),
        (with(&|f| f.size = 1 << 30), "L1 table is too small"),
        (with(&|f| f.size = u64::MAX), "L1 table is too small"),
        (with(&|f| f.l1_offset = 0), "Active L1 table offset invalid"),
        (
            with(&|f| f.l1_offset = 3 * 4096 + 8),
            "Active L1 table offset invalid",
        ),
        (
            with(&|f| f.l1_offset = 0u64.wrapping_sub(4096)),
            "Active L1 table offset invalid",
        ),
        (
            with(&|f| f.l1_offset = 1 << 40),
            "Active L1 table offset invalid",
        ),
        (
            with(&|f| f.refcount_clusters = 0),
            "Image does not contain a reference count table",
        ),
        (
            with(&|f| f.refcount_clusters = 4096),
            "Reference count table too large",
        ),
        (
            with(&|f| f.refcount_clusters = 4),
            "Reference count table offset invalid",
        ),
        (
            with(&|f| f.refcount_blocks = [8192, 8192]),
            "Reference count block used twice",
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(verdict(&fields, FILE_LEN, false), expected, "{fields:?}");
    }
}

#[test]
fn features_are_named() {
    let cases = [
        (
            CORRUPT,
            "Unsupported qcow2 feature(s): corrupt bit ('qemu-img check -r all' repairs it)",
        ),
        (
            COMPRESSION | EXTENDED_L2,
            "Unsupported qcow2 feature(s): compression type (zstd), extended L2 entries",
        ),
        (
            1 << 40,
            "Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000000",
        ),
        (DATA_FILE, "good"),
    ];
    for (incompatible, expected) in cases {
        let fields = Fields {
            incompatible,
            ..Fields::default()
        };
        assert_eq!(verdict(&fields, FILE_LEN, true), expected);
    }
    for (autoclear, what) in [(BITMAPS, "good"), (RAW_DATA, "data_file_raw")] {
        let fields = Fields {
            autoclear,
            ..Fields::default()
        };
        assert_eq!(verdict(&fields, FILE_LEN, true), "good");
        assert!(verdict(&fields, FILE_LEN, false).contains(what));
    }
}

#[test]
fn names_lie_within_the_first_cluster() {
    let named = |name: &str, format: &str| Fields {
        backing: Some((name.into(), format.into())),
        ..Fields::default()
    };
    let bytes = image(&named("base.raw", "raw"));
    let mut header = Qcow2Header::parse(&bytes[..FIXED_LEN]).unwrap();
    header.parse_names(&bytes[..4096]).unwrap();
    assert_eq!(header.backing_file.as_deref(), Some("base.raw"));
    assert_eq!(header.backing_format.as_deref(), Some("raw"));

    let shifted = |at: usize, value: u32| {
        let mut wrong = bytes.clone();
        wrong[at..at + 4].copy_from_slice(&value.to_be_bytes());
        let mut parsed = Qcow2Header::parse(&wrong[..FIXED_LEN]).unwrap();
        parsed.parse_names(&wrong[..4096]).unwrap_err().to_string()
    };
    // The offset, the length of the name, the length of the first extension.
    assert_eq!(shifted(12, 4090), "Invalid backing file offset");
    assert_eq!(shifted(8, u32::MAX), "Invalid backing file offset");
    assert_eq!(shifted(16, 1024), "Backing file name too long");
    assert_eq!(shifted(108, u32::MAX), "Header extension too large");
    assert_eq!(shifted(108, 4000), "Header extension too large");
}
