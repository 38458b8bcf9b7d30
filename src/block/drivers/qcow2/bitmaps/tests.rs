//! What a directory may be. Whole images are tested with QEMU's tools.
#![forbid(unsafe_code)]

use super::*;

fn entries() -> Vec<DirectoryEntry> {
    let mut entries = vec![
        DirectoryEntry::new("a", 512, AUTO),
        DirectoryEntry::new("ü b", 1 << 31, IN_USE),
    ];
    entries[0].extra = vec![1, 2, 3];
    entries[0].flags |= EXTRA_COMPATIBLE;
    entries
}

#[test]
fn a_directory_is_read_as_it_was_written() {
    let bytes = encode_directory(&entries());
    assert_eq!(bytes.len(), 32 + 32);
    assert_eq!(parse_directory(&bytes, 2).unwrap(), entries());
}

#[test]
fn wrong_directories_are_refused() {
    let right = encode_directory(&entries());
    for (at, byte) in [
        (16, 2),
        (17, 8),
        (17, 32),
        (15, 8),
        (15, 0),
        (19, 0),
        (19, 200),
        (20, 1),
        (8, 255),
    ] {
        let mut wrong = right.clone();
        wrong[at] = byte;
        assert!(parse_directory(&wrong, 2).is_err(), "{at}");
    }
    assert!(parse_directory(&right, 1).is_err());
    assert!(parse_directory(&right[..right.len() - 8], 2).is_err());
    let twice = [&right[..32], &right[..32]].concat();
    assert!(parse_directory(&twice, 2).is_err());
}

#[test]
fn wrong_extensions_are_refused() {
    let extension = BitmapsExtension {
        count: 1,
        directory_len: 24,
        directory: 1 << 16,
    };
    let right = extension.encode();
    assert_eq!(BitmapsExtension::parse(&right).unwrap(), extension);
    assert!(BitmapsExtension::parse(&right[1..]).is_err());
    for (at, byte) in [(3, 0), (0, 1), (8, 1)] {
        let mut wrong = right.clone();
        wrong[at] = byte;
        assert!(BitmapsExtension::parse(&wrong).is_err(), "{at}");
    }
}
