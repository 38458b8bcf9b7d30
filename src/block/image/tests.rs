//! Opening images: locks, odd lengths, direct I/O.
#![forbid(unsafe_code)]

use support::host_storage::LoopDevice;
use support::skip::skip;

use super::*;
use crate::block::test_file::TestFile;

fn open(file: &TestFile) -> OpenImage {
    OpenImage {
        path: file.path().to_owned(),
        locking: true,
        ..OpenImage::default()
    }
}

#[test]
fn second_writer_is_refused_until_the_first_is_gone() {
    let image = TestFile::new(b"", 4096);
    let first = open(&image).open(None).unwrap();
    let error = open(&image).open(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let text = error.to_string();
    assert!(text.starts_with("Failed to get \"write\" lock\nIs another process using"));
    drop(first);
    assert!(open(&image).open(None).is_ok());
}

#[test]
fn readers_share_but_exclude_writers() {
    let image = TestFile::new(b"", 4096);
    let reader = OpenImage {
        read_only: true,
        ..open(&image)
    };
    let _first = reader.open(None).unwrap();
    let _second = reader.open(None).unwrap();
    let error = open(&image).open(None).unwrap_err();
    assert!(error.to_string().contains("\"write\" lock"));
}

#[test]
fn locking_off_lets_two_writers_in() {
    let image = TestFile::new(b"", 4096);
    let _first = open(&image).open(None).unwrap();
    let careless = OpenImage {
        locking: false,
        ..open(&image)
    };
    assert!(careless.open(None).is_ok());
}

#[test]
fn length_is_rounded_up_to_a_sector() {
    let image = TestFile::new(b"", 1000);
    assert_eq!(open(&image).open(None).unwrap().measure().unwrap(), 1024);
}

#[test]
fn missing_file_and_directory_are_named() {
    let missing = OpenImage {
        path: "/nonexistent/disk.raw".into(),
        ..OpenImage::default()
    };
    let text = missing.open(None).unwrap_err().to_string();
    assert!(text.starts_with("Could not open '/nonexistent/disk.raw': No such file"));
    let directory = OpenImage {
        path: "/".into(),
        read_only: true,
        ..OpenImage::default()
    };
    assert!(
        directory
            .open(None)
            .unwrap_err()
            .to_string()
            .contains("Is a directory")
    );
}

#[test]
fn a_file_is_in_memory_and_a_device_is_not_although_its_name_is() {
    let file = TestFile::in_directory("/dev/shm".as_ref(), b"", 4096);
    assert!(open(&file).open(None).unwrap().in_memory);
    let device = match LoopDevice::new(512, 1 << 20) {
        Ok(device) => device,
        Err(reason) => return skip(reason),
    };
    let image = OpenImage {
        path: device.path().to_str().unwrap().to_owned(),
        ..OpenImage::default()
    };
    assert!(!image.open(None).unwrap().in_memory);
}
