//! The length of nodes over files.
#![forbid(unsafe_code)]

use super::*;
use crate::block::options::drive;
use crate::block::test_file::TestFile;
use crate::object::options::parse;

impl Node {
    /// The open file of a `file` node.
    pub(in crate::block) fn file_image(&self) -> Arc<crate::block::image::Image> {
        Arc::clone(self.state().driver.image().unwrap())
    }
}

fn open(file: &TestFile, more: &str) -> Arc<Node> {
    let text = format!("id=d0,format=raw,file={},{more}", file.path());
    drive(parse(None, &text).unwrap()).unwrap()
}

#[test]
fn a_new_length_reaches_the_file() {
    let file = TestFile::new(b"data", 4096);
    let node = open(&file, "aio=threads");
    node.set_length(1 << 20).unwrap();
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 1 << 20);
    node.set_length(512).unwrap();
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 512);
    assert_eq!(node.length(), 512);
    assert!(std::fs::read(file.path()).unwrap().starts_with(b"data"));
}

#[test]
fn a_file_that_another_program_resizes_is_noticed_below_the_raw_node() {
    let file = TestFile::new(b"", 4096);
    let node = open(&file, "aio=threads");
    file.set_length(10_000);
    assert_eq!(node.length(), 4096);
    node.refresh_length().unwrap();
    assert_eq!(node.length(), 10_240);
}

#[test]
fn a_read_only_file_keeps_its_length() {
    let file = TestFile::new(b"", 4096);
    let node = open(&file, "aio=threads,readonly=on");
    let error = node.set_length(8192).unwrap_err();
    assert_eq!(error.to_string(), "Image is read-only");
    assert_eq!(node.length(), 4096);
}

/// The length that was read last counts, not the one that was stored last.
#[test]
fn refreshes_at_the_same_time_end_with_the_files_length() {
    const ROUNDS: u64 = 20_000;
    let file = TestFile::new(b"", 4096);
    let node = open(&file, "aio=threads");
    let turn = std::sync::Barrier::new(2);
    let resize = |mine: u64| {
        let mut wrong = 0;
        for round in 1..=ROUNDS {
            turn.wait();
            file.set_length(512 * (2 * round + mine));
            node.refresh_length().unwrap();
            turn.wait();
            let length = std::fs::metadata(file.path()).unwrap().len();
            wrong += u64::from(node.length() != length);
            turn.wait();
        }
        wrong
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| resize(0));
        assert_eq!((resize(1), other.join().unwrap()), (0, 0));
    });
}
