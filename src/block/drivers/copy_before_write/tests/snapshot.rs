//! The data as they were, read while the node is written.
#![forbid(unsafe_code)]

use support::random::Random;

use super::*;

/// A disk above the filter, and a reader of the data as they were.
struct Rigs {
    disk: Rig,
    reader: Rig,
}

impl Rigs {
    fn new(name: &str, filter: &Arc<Node>) -> Rigs {
        filter.enter(|_| unreachable!("the name is new")).unwrap();
        let text = format!("snapshot-access,node-name={name},file={}", filter.name());
        let reader = Rig::over(&open(&text).unwrap());
        Rigs {
            disk: Rig::over(filter),
            reader,
        }
    }

    /// What the reader reads, or the result.
    fn read(&self, offset: usize, len: usize) -> std::result::Result<Vec<u8>, i32> {
        let memory: &mut [u8] = Box::leak(vec![7; len].into_boxed_slice());
        let memory = Mutex::new(memory);
        let before = self.reader.finished().len();
        self.reader.submit([0], |channel, tag| {
            let mut request = channel.request(Op::Read, offset as u64, tag);
            request.set_memory(&mut memory.lock().unwrap()[..]);
            request
        });
        self.reader.wait(|| {
            self.disk.iterate(1);
            self.reader.finished().len() > before
        });
        match self.reader.finished()[before].1 {
            0 => Ok(memory.lock().unwrap().to_vec()),
            result => Err(result),
        }
    }
}

#[test]
fn a_reader_sees_the_data_as_they_were() {
    let files = Files::new("as-they-were");
    let rigs = Rigs::new("old", &files.filter(CopySettings::default()));
    assert_eq!(run(&rigs.disk, Op::Write, CLUSTER, CLUSTER), 0);
    assert_eq!(run(&rigs.disk, Op::Discard, 3 * CLUSTER, CLUSTER), 0);
    // From the node, from the target, and from both.
    assert_eq!(rigs.read(0, 4096).unwrap(), [1; 4096]);
    assert_eq!(rigs.read(CLUSTER, 4096).unwrap(), [1; 4096]);
    assert_eq!(rigs.read(0, LENGTH).unwrap(), [1; LENGTH]);
    assert_eq!(run(&rigs.reader, Op::Write, 0, 512), -libc::ENOTSUP);
    assert_eq!(run(&rigs.reader, Op::Flush, 0, 0), 0);
    assert_eq!(first_bytes(&files.disk), [1, 9, 1, 0, 1]);
}

#[test]
fn random_writes_never_change_what_a_reader_sees() {
    let mut random = Random(17);
    let files = Files::new("random");
    let mut old = vec![0; LENGTH];
    old.fill_with(|| random.number().to_le_bytes()[0]);
    fs::write(files.disk.path(), &old).unwrap();
    let rigs = Rigs::new("random-old", &files.filter(CopySettings::default()));
    for tag in 0..400 {
        let offset = random.index(LENGTH / 512) * 512;
        let len = (random.index(200) + 1) * 512;
        let len = len.min(LENGTH - offset);
        match random.index(4) {
            0 => assert_eq!(rigs.read(offset, len).unwrap(), old[offset..offset + len]),
            1 => begin(&rigs.disk, Op::Discard, offset, len, tag),
            _ => begin(&rigs.disk, Op::Write, offset, len, tag),
        }
    }
    assert_eq!(rigs.read(0, LENGTH).unwrap(), old);
    rigs.disk
        .wait(|| rigs.disk.with(|channel| channel.in_flight()) == 0);
}

#[test]
fn a_write_waits_for_those_who_read_the_node() {
    let files = Files::new("reading");
    let lock = Arc::default();
    let slow = filter(&files.file, {
        let lock = Arc::clone(&lock);
        move |below| {
            Arc::new(Holding {
                op: Op::Read,
                below,
                lock: Arc::clone(&lock),
            })
        }
    });
    let node = filter_over(&slow, &files.target, CopySettings::default());
    let rigs = Rigs::new("reading-old", &node);
    let ticket = lock.ticket(0..u64::MAX);
    begin(&rigs.reader, Op::Read, 0, 512, 1);
    begin(&rigs.disk, Op::Write, 0, 512, 2);
    for _ in 0..20 {
        rigs.disk.iterate(1);
        rigs.reader.iterate(1);
    }
    assert!(rigs.disk.finished().is_empty() && rigs.reader.finished().is_empty());
    drop(ticket);
    rigs.disk.wait(|| {
        rigs.reader.iterate(1);
        !rigs.disk.finished().is_empty()
    });
    assert_eq!(rigs.reader.finished(), [(1, 0)]);
    assert_eq!(files.copied(), [1, 0, 0, 0, 0]);
}

#[test]
fn what_a_reader_discards_is_not_copied_and_not_read() {
    let files = Files::new("discards");
    let rigs = Rigs::new("discards-old", &files.filter(CopySettings::default()));
    // Whole clusters only.
    assert_eq!(run(&rigs.reader, Op::Discard, 512, 2 * CLUSTER), 0);
    assert_eq!(run(&rigs.disk, Op::Write, 0, LENGTH), 0);
    assert_eq!(files.copied(), [1, 0, 1, 1, 1]);
    assert_eq!(rigs.read(CLUSTER, 512), Err(-libc::EACCES));
    assert_eq!(rigs.read(CLUSTER - 512, 1024), Err(-libc::EACCES));
    assert_eq!(rigs.read(0, 512).unwrap(), [1; 512]);
    // What was copied goes, and the end of the disk is the end of a cluster.
    assert_eq!(run(&rigs.reader, Op::Discard, 4 * CLUSTER, 4096), 0);
    assert_eq!(files.copied(), [1, 0, 1, 1, 0]);
}

#[test]
fn old_data_that_was_lost_is_not_read() {
    let files = Files::new("lost");
    files
        .target
        .enter(|_| unreachable!("the name is new"))
        .unwrap();
    let text = "blkdebug,node-name=lost-bad,image=lost-target,inject-error.0.event=write_aio";
    let settings = CopySettings {
        on_error: OnCopyError::BreakSnapshot,
        ..CopySettings::default()
    };
    let rigs = Rigs::new(
        "lost-old",
        &filter_over(&files.file, &open(text).unwrap(), settings),
    );
    assert_eq!(rigs.read(0, 512).unwrap(), [1; 512]);
    assert_eq!(run(&rigs.disk, Op::Write, 0, 512), 0);
    assert_eq!(rigs.read(0, 512), Err(-libc::EACCES));
    assert_eq!(rigs.read(CLUSTER, 512), Err(-libc::EACCES));
}

#[test]
fn only_nodes_that_keep_their_old_data_can_be_below() {
    let refused =
        open("snapshot-access,node-name=refused-sa,file.driver=null-co,file.node-name=plain");
    assert_eq!(
        refused.unwrap_err().to_string(),
        "snapshot-access needs a copy-before-write node, not 'plain' (null-co)"
    );
}
