//! Opening images: locks, odd lengths, direct I/O.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::*;

struct Image(PathBuf);

impl Image {
    fn new(name: &str, length: u64) -> Image {
        let path = std::env::temp_dir().join(format!("qcontext-{}-{name}", std::process::id()));
        File::create(&path).unwrap().set_len(length).unwrap();
        Image(path)
    }

    fn open(&self) -> OpenFile {
        OpenFile {
            path: self.0.to_str().unwrap().to_owned(),
            locking: true,
            ..OpenFile::default()
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn second_writer_is_refused_until_the_first_is_gone() {
    let image = Image::new("writers", 4096);
    let first = image.open().open().unwrap();
    let error = image.open().open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let text = error.to_string();
    assert!(text.starts_with("Failed to get \"write\" lock\nIs another process using"));
    drop(first);
    assert!(image.open().open().is_ok());
}

#[test]
fn readers_share_but_exclude_writers() {
    let image = Image::new("readers", 4096);
    let reader = OpenFile {
        read_only: true,
        ..image.open()
    };
    let _first = reader.open().unwrap();
    let _second = reader.open().unwrap();
    let error = image.open().open().unwrap_err();
    assert!(error.to_string().contains("\"write\" lock"));
}

#[test]
fn locking_off_lets_two_writers_in() {
    let image = Image::new("unlocked", 4096);
    let _first = image.open().open().unwrap();
    let careless = OpenFile {
        locking: false,
        ..image.open()
    };
    assert!(careless.open().is_ok());
}

#[test]
fn length_is_rounded_up_to_a_sector() {
    let image = Image::new("odd", 1000);
    assert_eq!(image.open().open().unwrap().length, 1024);
}

#[test]
fn missing_file_and_directory_are_named() {
    let missing = OpenFile {
        path: "/nonexistent/disk.raw".into(),
        ..OpenFile::default()
    };
    let text = missing.open().unwrap_err().to_string();
    assert!(text.starts_with("Could not open '/nonexistent/disk.raw': No such file"));
    let directory = OpenFile {
        path: "/".into(),
        read_only: true,
        ..OpenFile::default()
    };
    assert!(
        directory
            .open()
            .unwrap_err()
            .to_string()
            .contains("neither a regular file")
    );
}
