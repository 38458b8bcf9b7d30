//! What the command line may say, and what it is told when it should not have.
#![forbid(unsafe_code)]

use super::*;
use crate::block::Driver;
use crate::block::test_file::TestFile;
use crate::object::options;

/// A node that is taken out of the registry at the end.
struct Registered(Arc<Node>);

impl Registered {
    fn open(text: &str) -> Registered {
        Registered(Node::open_blockdev(keyval(text)).unwrap())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        Node::remove(self.0.name()).unwrap();
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
    let image = TestFile::new(b"", 8192);
    let text = format!("if=none,id=d0,file={},format=raw", image.path());
    let node = drive(opts(&text)).unwrap();
    assert_eq!(
        (node.name(), node.driver(), node.length()),
        ("d0", Driver::Raw, 8192)
    );
    assert!(!node.is_read_only());
    assert_eq!(node.filename().as_deref(), Some(image.path()));
}

#[test]
fn drive_mistakes_have_clear_texts() {
    let image = TestFile::new(b"", 8192);
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
            "if=none,id=d0,file=x,format=qed".to_owned(),
            "Unknown driver 'qed': the drivers are blkdebug, copy-before-write, copy-on-read, file, host_device, nbd, null-co, qcow2, raw, snapshot-access, throttle, vdi, vhdx, vmdk",
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
    let image = TestFile::new(b"QFI\xfb\0\0\0\x03", 8192);
    let text = format!("if=none,id=d0,file={}", image.path());
    assert!(drive_error(&text).contains("is a qcow2 image"));
    assert!(drive(opts(&format!("{text},format=raw"))).is_ok());
}

#[test]
fn blockdev_flat_nested_and_null() {
    let image = TestFile::new(b"", 8192);
    let file = format!(
        "driver=file,node-name=prot,filename={},aio=threads",
        image.path()
    );
    let prot = blockdev(keyval(&file)).unwrap();
    assert_eq!(prot.driver(), Driver::File);
    drop(prot);
    let nested = format!(
        "driver=raw,node-name=disk,read-only=on,file.driver=file,file.filename={}",
        image.path()
    );
    let disk = blockdev(keyval(&nested)).unwrap();
    assert_eq!((disk.driver(), disk.is_read_only()), (Driver::Raw, true));
    let null = blockdev(keyval("driver=null-co,node-name=n,size=1G")).unwrap();
    assert_eq!(null.length(), 1 << 30);
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
            "Parameter 'driver' does not accept value 'nosuch'",
        ),
        ("driver=file,node-name=x", "Parameter 'filename' is missing"),
        ("driver=raw,node-name=x", "Parameter 'file' is missing"),
        (
            "driver=raw,node-name=x,file.driver=file",
            "Parameter 'file.filename' is missing",
        ),
        ("driver=raw,node-name=1x,file=x", "Invalid node-name: '1x'"),
        (
            "driver=raw,node-name=a123456789012345678901234567890b,file=x",
            "Node name too long",
        ),
        (
            "driver=file,node-name=x,filename=y,force-share=on",
            "force-share=on can only be used with read-only images",
        ),
        (
            "driver=null-co,node-name=x,detect-zeroes=unmap,discard=ignore",
            "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
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
fn names_are_unique() {
    let _node = Registered::open("driver=null-co,node-name=reg-disk");
    let again = Node::open_blockdev(keyval("driver=null-co,node-name=reg-disk")).unwrap_err();
    assert_eq!(
        again.to_string(),
        "Duplicate nodes with node-name='reg-disk'"
    );
}

#[test]
fn a_node_with_parents_stays() {
    let prot = Registered::open("driver=null-co,node-name=stays-prot");
    let disk = Registered::open("driver=raw,node-name=stays-disk,file=stays-prot");
    let error = Node::remove("stays-prot").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(
        error.to_string(),
        "Block device stays-prot is in use by node 'stays-disk'"
    );
    drop(disk);
    drop(prot);
    assert!(Node::find("stays-prot").is_err());
}

#[test]
fn a_child_that_is_described_in_place_has_a_name_and_takes_over_options() {
    let image = TestFile::new(b"", 8192);
    let path = image.path();
    let _disk = Registered::open(&format!(
        "raw,node-name=place-disk,read-only=on,file.driver=file,file.filename={path},file.node-name=place-prot"
    ));
    let prot = Node::find("place-prot").unwrap();
    assert!(prot.is_read_only());
    let error = Node::remove("place-prot").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Node place-prot is not owned by the monitor"
    );
}

#[test]
fn a_child_without_a_name_has_a_generated_one_and_goes_with_its_parent() {
    let disk = Registered::open("raw,node-name=auto-disk,file.driver=null-co,file.size=3M");
    let is_its_child = |node: &Arc<Node>| {
        let mut parents = node.parents().into_iter();
        parents.any(|parent| parent.name() == "auto-disk")
    };
    let name = Node::list()
        .iter()
        .find(|node| is_its_child(node))
        .unwrap()
        .name()
        .to_owned();
    assert!(name.starts_with("#block"), "{name}");
    assert_eq!(Node::find(&name).unwrap().length(), 3 << 20);
    drop(disk);
    assert!(Node::find(&name).is_err());
}

#[test]
fn a_shared_image_is_read_while_another_program_writes() {
    let image = TestFile::new(b"", 8192);
    let path = image.path();
    let _writer = Registered::open(&format!("file,node-name=share-writer,filename={path}"));
    let reader = |more: &str| {
        let text = format!("file,node-name=share-reader,filename={path},read-only=on{more}");
        blockdev(keyval(&text)).map(drop)
    };
    assert_eq!(reader("").unwrap_err().kind(), ErrorKind::Busy);
    assert!(reader(",force-share=on").is_ok());
}
