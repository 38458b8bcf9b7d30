//! What the command line may say, and what it is told when it should not have.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::object::options;

struct Image(PathBuf);

impl Image {
    fn new(name: &str, start: &[u8]) -> Image {
        let path = std::env::temp_dir().join(format!("qcontext-opt-{}-{name}", std::process::id()));
        let mut bytes = vec![0; 8192];
        bytes[..start.len()].copy_from_slice(start);
        fs::write(&path, bytes).unwrap();
        Image(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn opts(text: &str) -> Options {
    options::parse(None, text).unwrap()
}

fn keyval(text: &str) -> Options {
    options::parse_dotted("driver", text).unwrap()
}

fn drive_error(text: &str) -> String {
    drive(opts(text)).unwrap_err().to_string()
}

fn blockdev_error(text: &str) -> String {
    blockdev(keyval(text)).unwrap_err().to_string()
}

#[test]
fn the_talks_drive_opens() {
    let image = Image::new("talk", b"");
    let text = format!("if=none,id=d0,file={},format=raw", image.path());
    let (name, driver, content) = drive(opts(&text)).unwrap();
    assert_eq!(
        (name.as_str(), driver, content.length),
        ("d0", Driver::Raw, 8192)
    );
    assert!(!content.read_only);
}

#[test]
fn drive_mistakes_have_clear_texts() {
    let image = Image::new("mistakes", b"");
    let file = format!("if=none,id=d0,file={},format=raw", image.path());
    let cases = [
        (
            "if=none,file=x,format=raw".to_owned(),
            "Parameter 'id' is missing",
        ),
        (
            "if=virtio,id=d0,file=x".to_owned(),
            "if=virtio is not supported: use if=none and a -device with drive=",
        ),
        (
            "if=none,id=1d,file=x".to_owned(),
            "Parameter 'id' expects an identifier",
        ),
        (
            "if=none,id=d0,format=raw".to_owned(),
            "The 'file' block driver requires a file name",
        ),
        (
            "if=none,id=d0,file=x,format=qcow2".to_owned(),
            "Unknown driver 'qcow2': raw, file and null-co are supported",
        ),
        (format!("{file},bogus=1"), "Invalid parameter 'bogus'"),
        (
            format!("{file},aio=native"),
            "aio=native is not supported: use aio=io_uring",
        ),
        (format!("{file},aio=fast"), "invalid aio option"),
        (format!("{file},cache=fast"), "invalid cache option"),
        (
            format!("{file},cache=unsafe"),
            "cache=unsafe is not supported: a flush always reaches the file",
        ),
        (
            format!("{file},readonly=1"),
            "Parameter 'readonly' expects 'on' or 'off'",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(drive_error(&text), expected, "{text}");
    }
}

#[test]
fn a_qcow2_image_is_not_taken_for_raw_unless_told_so() {
    let image = Image::new("qcow2", b"QFI\xfb\0\0\0\x03");
    let text = format!("if=none,id=d0,file={}", image.path());
    assert!(drive_error(&text).contains("is a qcow2 image"));
    assert!(drive(opts(&format!("{text},format=raw"))).is_ok());
}

#[test]
fn blockdev_flat_nested_and_null() {
    let image = Image::new("blockdev", b"");
    let file = format!(
        "driver=file,node-name=prot,filename={},aio=threads",
        image.path()
    );
    let (_, driver, content) = blockdev(keyval(&file)).unwrap();
    assert_eq!((driver, content.aio), (Driver::File, Aio::Threads));
    drop(content);
    let nested = format!(
        "driver=raw,node-name=disk,read-only=on,file.driver=file,file.filename={}",
        image.path()
    );
    let (_, layered, disk) = blockdev(keyval(&nested)).unwrap();
    assert_eq!((layered, disk.read_only), (Driver::Raw, true));
    let (_, _, null) = blockdev(keyval("driver=null-co,node-name=n,size=1G")).unwrap();
    assert_eq!(null.length, 1 << 30);
}

#[test]
fn blockdev_mistakes_have_clear_texts() {
    let cases = [
        (
            "driver=file,filename=x",
            "'node-name' must be specified for the root node",
        ),
        ("node-name=x", "Parameter 'driver' is missing"),
        (
            "driver=nosuch,node-name=x",
            "Unknown driver 'nosuch': raw, file and null-co are supported",
        ),
        (
            "driver=file,node-name=x",
            "The 'file' block driver requires a file name",
        ),
        (
            "driver=raw,node-name=x",
            "A block device must be specified for \"file\"",
        ),
        (
            "driver=raw,node-name=x,file=nosuch",
            "Cannot find device='nosuch' nor node-name='nosuch'",
        ),
        (
            "driver=null-co,node-name=x,size=1X",
            "Parameter 'size' expects a non-negative number below 2^64",
        ),
        (
            "driver=null-co,node-name=x,bogus=1",
            "Parameter 'bogus' is unexpected",
        ),
        (
            "driver=file,node-name=x,filename=y,cache.no-flush=on",
            "cache.no-flush=on is not supported: a flush always reaches the file",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(blockdev_error(text), expected, "{text}");
    }
}

#[test]
fn names_are_unique_and_layered_nodes_share_one_claim() {
    let image = Image::new("registry", b"");
    let file = format!("driver=file,node-name=reg-prot,filename={}", image.path());
    let prot = Node::open_blockdev(keyval(&file)).unwrap();
    let disk = Node::open_blockdev(keyval("driver=raw,node-name=reg-disk,file=reg-prot")).unwrap();
    let again = Node::open_blockdev(keyval("driver=null-co,node-name=reg-disk")).unwrap_err();
    assert_eq!(
        again.to_string(),
        "Duplicate nodes with node-name='reg-disk'"
    );
    let claim = disk.claim().unwrap();
    let error = prot.claim().unwrap_err();
    assert_eq!(
        error.to_string(),
        "Drive 'reg-prot' is already in use by another block device"
    );
    assert_eq!(
        Node::remove("reg-disk").unwrap_err().kind(),
        ErrorKind::Busy
    );
    drop(claim);
    Node::remove("reg-disk").unwrap();
    Node::remove("reg-prot").unwrap();
    assert!(Node::find("reg-prot").is_err());
}
