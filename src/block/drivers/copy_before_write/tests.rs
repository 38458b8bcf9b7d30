//! Data as it was is on the target before it changes, on loops that the test drives.
#![forbid(unsafe_code)]

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use crate::block::common::CommonOptions;
use crate::block::graph::Parent;
use crate::block::options::blockdev;
use crate::block::range_lock::RangeLock;
use crate::block::request::{Op, Request};
use crate::block::test_file::TestFile;
use crate::block::test_filter::filter;
use crate::block::test_rig::Rig;
use crate::block::way::below::Below;
use crate::block::way::task::{Layer, Task};
use crate::object::options::parse_dotted;

use super::*;

mod snapshot;

const CLUSTER: usize = 65536;
const LENGTH: usize = 4 * CLUSTER + 4096;

/// A disk whose bytes are all 1, and a target.
struct Files {
    file: Arc<Node>,
    target: Arc<Node>,
    disk: TestFile,
    copies: TestFile,
}

impl Files {
    fn new(name: &str) -> Files {
        let disk = TestFile::new(&[1; LENGTH], LENGTH as u64);
        let copies = TestFile::new(b"", LENGTH as u64);
        Files {
            file: file_node(&format!("{name}-file"), &disk),
            target: file_node(&format!("{name}-target"), &copies),
            disk,
            copies,
        }
    }

    fn filter(&self, settings: CopySettings) -> Arc<Node> {
        filter_over(&self.file, &self.target, settings)
    }

    /// The first bytes of the target's clusters.
    fn copied(&self) -> Vec<u8> {
        first_bytes(&self.copies)
    }
}

fn first_bytes(file: &TestFile) -> Vec<u8> {
    let bytes = fs::read(file.path()).unwrap();
    bytes.iter().copied().step_by(CLUSTER).collect()
}

fn file_node(name: &str, file: &TestFile) -> Arc<Node> {
    open(&format!("file,node-name={name},filename={}", file.path())).unwrap()
}

fn open(text: &str) -> Result<Arc<Node>> {
    blockdev(parse_dotted("driver", text).unwrap())
}

fn filter_over(file: &Arc<Node>, target: &Arc<Node>, settings: CopySettings) -> Arc<Node> {
    let name = format!("{}-cbw", file.name());
    let filter = Node::named(name, CommonOptions::default(), |node| {
        over(file, target, settings, node).map(|(driver, _)| driver)
    });
    filter.unwrap()
}

/// Begins to write bytes, all 9. Their memory stays for ever.
fn begin(rig: &Rig, op: Op, offset: usize, len: usize, tag: u64) {
    let memory: &mut [u8] = Box::leak(vec![9; len].into_boxed_slice());
    let memory = Mutex::new(memory);
    rig.submit([tag], |channel, tag| {
        let mut request = channel.request(op, offset as u64, tag);
        match op {
            Op::Write | Op::Read => request.set_memory(&mut memory.lock().unwrap()[..]),
            _ => request.set_length(len as u64),
        }
        request
    });
}

/// Returns the result.
fn run(rig: &Rig, op: Op, offset: usize, len: usize) -> i32 {
    let before = rig.finished().len();
    begin(rig, op, offset, len, 0);
    rig.wait(|| rig.finished().len() > before);
    rig.finished()[before].1
}

/// A node whose requests of one kind wait as long as a ticket is held.
#[derive(Debug)]
struct Holding {
    op: Op,
    below: Arc<Below>,
    lock: Arc<RangeLock>,
}

impl Layer for Holding {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move {
            if request.op == self.op {
                let mut ticket = self.lock.shared_ticket(0..u64::MAX);
                (&mut ticket).await;
            }
            self.below.submit(request).await
        })
    }
}

fn holding(target: &Arc<Node>, lock: &Arc<RangeLock>) -> Arc<Node> {
    let lock = Arc::clone(lock);
    filter(target, move |below| {
        Arc::new(Holding {
            op: Op::Write,
            below,
            lock: Arc::clone(&lock),
        })
    })
}

#[test]
fn what_changes_is_on_the_target_as_it_was() {
    let files = Files::new("changes");
    let rig = Rig::over(&files.filter(CopySettings::default()));
    assert_eq!(run(&rig, Op::Read, 0, LENGTH), 0);
    assert_eq!(files.copied(), [0; 5]);
    // A part of one cluster, and parts of two.
    assert_eq!(run(&rig, Op::Write, 512, 512), 0);
    assert_eq!(run(&rig, Op::Write, 2 * CLUSTER - 512, 1024), 0);
    assert_eq!(files.copied(), [1, 1, 1, 0, 0]);
    assert_eq!(run(&rig, Op::Discard, 3 * CLUSTER, 4096), 0);
    assert_eq!(files.copied(), [1, 1, 1, 1, 0]);
    // The last cluster is shorter.
    let zeroes = Op::WriteZeroes { unmap: false };
    assert_eq!(run(&rig, zeroes, 4 * CLUSTER, 4096), 0);
    assert_eq!(fs::read(files.copies.path()).unwrap(), [1; LENGTH]);
    // Once is enough.
    assert_eq!(run(&rig, Op::Write, 0, LENGTH), 0);
    assert_eq!(fs::read(files.copies.path()).unwrap(), [1; LENGTH]);
    assert_eq!(fs::read(files.disk.path()).unwrap(), [9; LENGTH]);
}

#[test]
fn a_write_waits_for_the_copy_that_another_queue_makes_of_its_cluster() {
    let files = Files::new("queues");
    let lock = Arc::default();
    let node = filter_over(
        &files.file,
        &holding(&files.target, &lock),
        CopySettings::default(),
    );
    let shared = Access {
        needs: Permissions::WRITE,
        shares: Permissions::ALL,
    };
    let _user = node.attach(Parent::new("test", "user"), shared).unwrap();
    let (one, other) = (Rig::over(&node), Rig::over(&node));
    let ticket = lock.ticket(0..u64::MAX);
    begin(&one, Op::Write, 0, 512, 1);
    begin(&other, Op::Write, 4096, 512, 2);
    begin(&other, Op::Write, CLUSTER, 512, 3);
    for _ in 0..20 {
        one.iterate(1);
        other.iterate(1);
    }
    assert!(one.finished().is_empty() && other.finished().is_empty());
    assert_eq!(first_bytes(&files.disk), [1; 5]);
    drop(ticket);
    other.wait(|| {
        one.iterate(1);
        other.finished().len() == 2 && one.finished().len() == 1
    });
    assert_eq!(files.copied(), [1, 1, 0, 0, 0]);
    assert_eq!(first_bytes(&files.disk), [9, 9, 1, 1, 1]);
}

#[test]
fn a_write_fails_if_its_copy_does_or_the_old_data_is_lost() {
    let files = Files::new("fails");
    let bad = |name| {
        let text = format!(
            "blkdebug,node-name={name},image=fails-target,inject-error.0.event=write_aio,inject-error.0.errno=28"
        );
        open(&text).unwrap()
    };
    let _kept = [&files.file, &files.target].map(|node| {
        node.enter_owned(|_| unreachable!("the name is new"))
            .unwrap();
        node
    });
    let strict = Rig::over(&filter_over(
        &files.file,
        &bad("bad"),
        CopySettings::default(),
    ));
    assert_eq!(run(&strict, Op::Write, 0, 512), -libc::ENOSPC);
    assert_eq!(run(&strict, Op::Read, 0, 512), 0);
    assert_eq!(first_bytes(&files.disk), [1; 5]);
    drop(strict);
    let settings = CopySettings {
        on_error: OnCopyError::BreakSnapshot,
        ..CopySettings::default()
    };
    let rig = Rig::over(&filter_over(&files.file, &bad("bad2"), settings));
    assert_eq!(run(&rig, Op::Write, 0, 512), 0);
    assert_eq!(run(&rig, Op::Populate, 0, CLUSTER), 0);
    assert_eq!(first_bytes(&files.disk), [9, 1, 1, 1, 1]);
    drop(rig);
    Node::remove("fails-target").unwrap();
    Node::remove("fails-file").unwrap();
}

#[test]
fn a_write_waits_no_longer_than_the_timeout_and_a_drain_waits_for_the_copy() {
    let files = Files::new("timeout");
    let lock = Arc::default();
    let settings = CopySettings {
        timeout_ns: Some(1),
        ..CopySettings::default()
    };
    let node = filter_over(&files.file, &holding(&files.target, &lock), settings);
    let rig = Rig::over(&node);
    let ticket = lock.ticket(0..u64::MAX);
    assert_eq!(run(&rig, Op::Write, 0, 512), -libc::ETIMEDOUT);
    assert_eq!(rig.with(|channel| channel.in_flight()), 1);
    let (drained, calls) = rig.drain();
    rig.iterate(20);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    drop(ticket);
    rig.wait(|| calls.load(Ordering::Relaxed) == 1);
    assert_eq!(files.copied(), [1, 0, 0, 0, 0]);
    drop(drained);
    assert_eq!(run(&rig, Op::Write, 0, 512), 0);
    assert_eq!(first_bytes(&files.disk), [9, 1, 1, 1, 1]);
}

#[test]
fn what_nobody_changes_is_copied_for_jobs() {
    let files = Files::new("populate");
    // Only the last cluster of the disk is data.
    fs::write(files.disk.path(), vec![0; LENGTH]).unwrap();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(files.disk.path())
        .unwrap();
    file.set_len(0).unwrap();
    file.set_len(LENGTH as u64).unwrap();
    let rig = Rig::over(&files.filter(CopySettings::default()));
    fs::write(files.copies.path(), vec![7; LENGTH]).unwrap();
    assert_eq!(run(&rig, Op::Write, 4 * CLUSTER, 512), 0);
    fs::write(files.copies.path(), vec![7; LENGTH]).unwrap();
    assert_eq!(run(&rig, Op::Populate, CLUSTER, LENGTH - CLUSTER), 0);
    // The last one had been copied before.
    assert_eq!(files.copied(), [7, 0, 0, 0, 7]);
    assert_eq!(run(&rig, Op::Populate, 0, CLUSTER), 0);
    assert_eq!(files.copied(), [0, 0, 0, 0, 7]);
}

#[test]
fn a_node_with_a_writer_gets_a_filter_that_the_writer_can_move_to() {
    let files = Files::new("writer");
    let disk = Access {
        needs: Permissions::CONSISTENT_READ.and(Permissions::WRITE),
        shares: Permissions::ALL.without(Permissions::WRITE),
    };
    let writer = files.file.attach(Parent::new("device", "d"), disk).unwrap();
    let filter = files.filter(CopySettings::default());
    let reader = Access {
        needs: Permissions::CONSISTENT_READ,
        shares: Permissions::ALL,
    };
    let refused = filter
        .attach(Parent::new("export", "e"), reader)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Permission conflict on node 'writer-file': permissions 'write' are both required by device 'd' (uses node \
         'writer-file' as 'root' child) and unshared by node 'writer-file-cbw' (uses node 'writer-file' as 'file' child)."
    );
    drop(writer);
    let _writer = filter.attach(Parent::new("device", "d"), disk).unwrap();
    assert!(filter.attach(Parent::new("export", "e"), reader).is_ok());
    assert!(
        files
            .file
            .attach(Parent::new("device", "d2"), disk)
            .is_err()
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (text, expected) in [
        ("file.driver=null-co", "Parameter 'target' is missing"),
        (
            "file.driver=null-co,target.driver=null-co,target.read-only=on",
            "Block node is read-only",
        ),
        (
            "file.driver=null-co,target.driver=null-co,min-cluster-size=1000",
            "Cannot create block-copy-state: min-cluster-size needs to be a power of 2",
        ),
        (
            "file.driver=null-co,target.driver=null-co,min-cluster-size=4G",
            "Cannot create block-copy-state: min-cluster-size too large: 4294967296 > 2147483648",
        ),
        (
            "file.driver=null-co,file.size=2M,target.driver=null-co,target.node-name=small,target.size=1M,file.node-name=large",
            "target 'small' is shorter than node 'large'",
        ),
        (
            "file.driver=null-co,file.size=4E,target.driver=null-co,target.size=4E",
            "node 'refused-cbw': 4611686018427387904 bytes are too many clusters of 65536 bytes: give a larger min-cluster-size",
        ),
    ] {
        let text = format!("copy-before-write,node-name=refused-cbw,{text}");
        assert_eq!(open(&text).unwrap_err().to_string(), expected);
    }
}
