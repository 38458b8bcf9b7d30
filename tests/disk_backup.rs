//! `blockdev-backup` and fleecing while a guest works: the copy is the disk at one moment. Every block of the disk has a number in it,
//! which grows with each write, so the copy shows which writes it has.
//!
//! Needs `qemu-img`; the tests say SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::listener::Listener;
use support::over::Over;
use support::qemu_img::{check, content, missing, qemu_img, wait_unlocked};
use support::random::Random;
use support::server::Server;
use support::skip::skip;

const BLOCK: usize = 4096;
const BLOCKS: usize = 4096;
const SIZE: usize = BLOCK * BLOCKS;
const DEPTH: usize = 16;

/// What a guest has written to each block.
struct Stamps {
    /// The number in the last write that was answered.
    answered: Vec<AtomicU64>,
    /// The number in the last one that was made.
    made: Vec<AtomicU64>,
}

impl Stamps {
    fn new() -> Stamps {
        let zeroes = || (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
        Stamps {
            answered: zeroes(),
            made: zeroes(),
        }
    }

    fn read(stamps: &[AtomicU64]) -> Vec<u64> {
        stamps
            .iter()
            .map(|one| one.load(Ordering::SeqCst))
            .collect()
    }

    /// Writes blocks until it is over. Returns how many writes have failed.
    fn write(&self, directory: &TestDir, queues: usize, over: &Over) -> usize {
        let socket = directory.socket("d.sock");
        let memory = queues * DEPTH * BLOCK;
        let mut guest = Guest::connect(&socket, queues, 128, true, memory).unwrap();
        let mut random = Random(7);
        let mut failed = 0;
        let first = |slot| self.begin(&mut guest, queues, slot, &mut random);
        let mut pending: Vec<_> = (0..queues * DEPTH).map(first).collect();
        (0..queues).for_each(|index| guest.kick(index));
        let mut left = pending.len();
        let mut queue = 0;
        while left > 0 {
            queue = (queue + 1) % queues;
            for (slot, result) in guest.try_wait(queue, std::time::Duration::from_millis(1)) {
                let (block, number): (usize, u64) = pending[slot];
                match result {
                    0 => self.answered[block].store(number, Ordering::SeqCst),
                    _ => failed += 1,
                }
                if over.is_set() {
                    left -= 1;
                    continue;
                }
                pending[slot] = self.begin(&mut guest, queues, slot, &mut random);
            }
            guest.kick(queue);
        }
        failed
    }

    /// A slot has the blocks whose number modulo the number of slots is its own, so no two writes meet.
    fn begin(
        &self,
        guest: &mut Guest,
        queues: usize,
        slot: usize,
        random: &mut Random,
    ) -> (usize, u64) {
        let slots = queues * DEPTH;
        let block = slot + slots * random.index(BLOCKS / slots);
        let number = self.made[block].load(Ordering::SeqCst) + 1;
        let memory = &mut guest.memory.bytes()[slot * BLOCK..(slot + 1) * BLOCK];
        for part in memory.chunks_mut(8) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        self.made[block].store(number, Ordering::SeqCst);
        let io = Io {
            write: true,
            offset: (block * BLOCK) as u64,
            segments: vec![(slot * BLOCK, BLOCK)],
        };
        guest.submit(slot / DEPTH, slot, &io);
        (block, number)
    }
}

/// The number in each block of a disk whose blocks are whole.
#[track_caller]
fn numbers(bytes: &[u8]) -> Vec<u64> {
    assert_eq!(bytes.len(), SIZE);
    let blocks = bytes.chunks(BLOCK).enumerate();
    let number = |(index, block): (usize, &[u8])| {
        let number = &block[..8];
        assert!(
            block.chunks(8).all(|part| part == number),
            "block {index} is torn"
        );
        u64::from_le_bytes(number.try_into().unwrap())
    };
    blocks.map(number).collect()
}

/// Checks that a copy has what was answered before it began, and nothing that was made after it had begun.
#[track_caller]
fn check_moment(copy: &[u8], before: &[u64], after: &[u64]) {
    for (block, number) in numbers(copy).into_iter().enumerate() {
        let (first, last) = (before[block], after[block]);
        assert!(
            (first..=last).contains(&number),
            "block {block} has the write {number}, not one of {first}..={last}"
        );
    }
}

/// What differs between runs.
#[derive(Clone, Copy, Debug)]
struct Setup {
    format: &'static str,
    poller: &'static str,
    queues: usize,
}

const SETUPS: [Setup; 4] = [
    Setup {
        format: "raw",
        poller: "epoll",
        queues: 1,
    },
    Setup {
        format: "raw",
        poller: "io_uring",
        queues: 4,
    },
    Setup {
        format: "qcow2",
        poller: "epoll",
        queues: 4,
    },
    Setup {
        format: "qcow2",
        poller: "io_uring",
        queues: 1,
    },
];

/// A disk, and an empty image for its copy.
struct Rig {
    setup: Setup,
    directory: TestDir,
    server: Server,
    listener: Listener,
}

impl Rig {
    fn new(setup: Setup, nodes: &str, drive: &str) -> Rig {
        let directory = TestDir::new();
        for name in ["src", "dst"] {
            let file = format!("{name}.{}", setup.format);
            let size = SIZE.to_string();
            qemu_img(
                directory.path(),
                &["create", "-f", setup.format, &file, &size],
            );
        }
        Rig::over(directory, setup, nodes, drive)
    }

    fn over(directory: TestDir, setup: Setup, nodes: &str, drive: &str) -> Rig {
        let Setup {
            format,
            poller,
            queues,
        } = setup;
        let line = format!(
            "-object qcontext,id=ctx,threaded=on,poller={poller} \
             -blockdev {format},node-name=src,file.driver=file,file.filename=src.{format} \
             -blockdev {format},node-name=dst,file.driver=file,file.filename=dst.{format} {nodes} \
             -device virtio-blk,id=disk,drive={drive},num-queues={queues},x-data-plane=on,context=ctx,vhost-user=d.sock"
        );
        let words: Vec<&str> = line.split_whitespace().collect();
        let server = Server::start(&directory, &words);
        let listener = Listener::new(&server);
        Rig {
            setup,
            directory,
            server,
            listener,
        }
    }

    /// Does `act` while a guest writes, for a while before and after. Returns what was answered before it and made after it.
    fn act(&mut self, act: impl FnOnce(&mut Listener)) -> (Vec<u64>, Vec<u64>) {
        let stamps = Stamps::new();
        self.act_with(&stamps, act)
    }

    fn act_with(
        &mut self,
        stamps: &Stamps,
        act: impl FnOnce(&mut Listener),
    ) -> (Vec<u64>, Vec<u64>) {
        let over = Over::default();
        let (directory, queues) = (&self.directory, self.setup.queues);
        thread::scope(|scope| {
            let end = over.when_dropped();
            let guest = scope.spawn(|| stamps.write(directory, queues, &over));
            while Stamps::read(&stamps.answered).iter().sum::<u64>() < 1000 {
                thread::yield_now();
            }
            let before = Stamps::read(&stamps.answered);
            act(&mut self.listener);
            let after = Stamps::read(&stamps.made);
            let more = Stamps::read(&stamps.answered).iter().sum::<u64>() + 1000;
            while Stamps::read(&stamps.answered).iter().sum::<u64>() < more {
                thread::yield_now();
            }
            drop(end);
            assert_eq!(guest.join().unwrap(), 0, "writes failed");
            (before, after)
        })
    }

    /// The bytes of the copy, with the program at its end.
    fn copy(&mut self) -> Vec<u8> {
        self.server.stop();
        let name = format!("dst.{}", self.setup.format);
        if self.setup.format == "qcow2" {
            check(self.directory.path(), &name, false);
            check(self.directory.path(), "src.qcow2", false);
        }
        content(self.directory.path(), &name)
    }

    #[track_caller]
    fn has_no_filter(&mut self) {
        let nodes = self.listener.ask("query-named-block-nodes", "");
        assert!(!nodes.contains("copy-before-write"), "{nodes}");
    }
}

const FULL: &str = r#""job-id":"b","device":"src","target":"dst","sync":"full""#;

#[test]
fn a_backup_is_the_disk_at_the_moment_when_it_began() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for setup in SETUPS {
        let mut rig = Rig::new(setup, "", "src");
        let (before, after) = rig.act(|listener| {
            listener.done(
                "blockdev-backup",
                &format!(r#"{FULL},"filter-node-name":"flt""#),
            );
        });
        let completed = rig.listener.wait("BLOCK_JOB_COMPLETED");
        assert!(!completed.contains("error"), "{completed}");
        rig.listener.status("null");
        rig.has_no_filter();
        check_moment(&rig.copy(), &before, &after);
    }
}

#[test]
fn a_reader_of_a_snapshot_sees_the_disk_at_one_moment() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for setup in SETUPS {
        let nodes = "-blockdev copy-before-write,node-name=cbw,file=src,target=dst \
            -blockdev snapshot-access,node-name=old,file=cbw \
            -nbd-server addr.type=unix,addr.path=nbd.sock -export nbd,id=e,node-name=old";
        let mut rig = Rig::new(setup, nodes, "cbw");
        let directory = rig.directory.path().to_owned();
        rig.act(|_| {
            for _ in 0..3 {
                let url = "nbd+unix:///old?socket=nbd.sock";
                qemu_img(
                    &directory,
                    &["convert", "-f", "raw", "-O", "raw", url, "old.raw"],
                );
                // The disk was empty when the filter was opened.
                assert!(fs::read(directory.join("old.raw")).unwrap() == vec![0; SIZE]);
            }
        });
        rig.server.stop();
    }
}

#[test]
fn a_cancelled_backup_leaves_the_disk_to_its_guest() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut random = Random(3);
    for setup in SETUPS {
        let mut rig = Rig::new(setup, "", "src");
        let stamps = Stamps::new();
        rig.act_with(&stamps, |listener| {
            for _ in 0..4 {
                listener.done("blockdev-backup", &format!(r#"{FULL},"speed":1000000"#));
                for _ in 0..random.index(20) {
                    listener.ask("query-jobs", "");
                }
                listener.done("job-cancel", r#""id":"b""#);
                listener.wait("BLOCK_JOB_CANCELLED");
                listener.status("null");
            }
        });
        rig.has_no_filter();
        rig.server.stop();
        let source = content(rig.directory.path(), &format!("src.{}", setup.format));
        assert_eq!(numbers(&source), Stamps::read(&stamps.answered));
    }
}

#[test]
fn what_guests_change_is_copied_without_more() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    let size = SIZE.to_string();
    let create = |arguments: &[&str]| {
        qemu_img(
            directory.path(),
            &[&["create", "-f", "qcow2"], arguments].concat(),
        )
    };
    create(&["src.qcow2", &size]);
    create(&["-b", "src.qcow2", "-F", "qcow2", "over.qcow2"]);
    create(&["dst.qcow2", &size]);
    let over =
        "-blockdev qcow2,node-name=over,file.driver=file,file.filename=over.qcow2,backing=src";
    let mut rig = Rig::over(directory, SETUPS[2], over, "src");
    let none = r#""job-id":"b","device":"src","target":"over","sync":"none""#;
    let (before, after) = rig.act(|listener| listener.done("blockdev-backup", none));
    rig.listener.done("job-cancel", r#""id":"b""#);
    rig.listener.wait("BLOCK_JOB_CANCELLED");
    rig.listener.status("null");
    rig.has_no_filter();
    rig.server.stop();
    // What nobody has changed is behind the copy still.
    let copy = content(rig.directory.path(), "over.qcow2");
    check_moment(&copy, &before, &after);
}

#[test]
fn a_kill_leaves_the_disk_as_its_guest_has_written_it() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut random = Random(9);
    for setup in [SETUPS[0], SETUPS[1]] {
        let mut rig = Rig::new(setup, "", "src");
        let stamps = Stamps::new();
        rig.act_with(&stamps, |listener| {
            listener.done("blockdev-backup", &format!(r#"{FULL},"speed":1000000"#));
            for _ in 0..random.index(40) {
                listener.ask("query-jobs", "");
            }
        });
        rig.server.signal("KILL");
        rig.server.wait();
        wait_unlocked(rig.directory.path(), "src.raw");
        let source = fs::read(rig.directory.file("src.raw")).unwrap();
        assert_eq!(numbers(&source), Stamps::read(&stamps.answered));
    }
}

/// A target whose writes fail: the third one, or all.
fn failing(once: bool) -> String {
    let states = "set-state.0.event=write_aio,set-state.0.state=1,set-state.0.new_state=2,\
        set-state.1.event=write_aio,set-state.1.state=2,set-state.1.new_state=3";
    match once {
        true => format!(
            "-blockdev blkdebug,node-name=bad,image=dst,{states},inject-error.0.event=write_aio,\
             inject-error.0.state=3,inject-error.0.once=on,inject-error.0.errno=28"
        ),
        false => "-blockdev blkdebug,node-name=bad,image=dst,inject-error.0.event=write_aio,inject-error.0.errno=28".to_owned(),
    }
}

/// A disk full of data over a target that fails.
fn over_failing(once: bool) -> Rig {
    let directory = TestDir::new();
    fs::write(directory.file("src.raw"), vec![1; SIZE]).unwrap();
    directory.image("dst.raw", (SIZE >> 20) as u64);
    Rig::over(directory, SETUPS[0], &failing(once), "src")
}

const BAD: &str =
    r#""job-id":"b","device":"src","target":"bad","sync":"full","auto-dismiss":false"#;

#[test]
fn a_full_target_ends_the_job() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let mut rig = over_failing(false);
    rig.listener.done("blockdev-backup", BAD);
    let error = rig.listener.wait("BLOCK_JOB_ERROR");
    assert!(error.contains(r#""operation": "write""#) && error.contains(r#""action": "report""#));
    let completed = rig.listener.wait("BLOCK_JOB_COMPLETED");
    assert!(completed.contains("No space left on device"), "{completed}");
    rig.listener.status("concluded");
    rig.has_no_filter();
    rig.server.stop();
}

#[test]
fn a_job_whose_target_has_failed_once_goes_on() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    for (on_error, action) in [("enospc", "stop"), ("ignore", "ignore")] {
        let mut rig = over_failing(true);
        let arguments =
            format!(r#"{BAD},"on-target-error":"{on_error}","x-perf":{{"max-workers":1}}"#);
        rig.listener.done("blockdev-backup", &arguments);
        let error = rig.listener.wait("BLOCK_JOB_ERROR");
        assert!(
            error.contains(&format!(r#""action": "{action}""#)),
            "{error}"
        );
        if action == "stop" {
            rig.listener.status("paused");
            rig.listener.done("job-resume", r#""id":"b""#);
        }
        let completed = rig.listener.wait("BLOCK_JOB_COMPLETED");
        assert!(!completed.contains("error"), "{completed}");
        rig.listener.status("concluded");
        rig.server.stop();
        assert!(fs::read(rig.directory.file("dst.raw")).unwrap() == vec![1; SIZE]);
    }
}

#[test]
fn a_backup_of_the_top_image_has_what_its_backing_file_has_not() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    fs::write(directory.file("base.raw"), vec![5; SIZE]).unwrap();
    for name in ["src.qcow2", "dst.qcow2"] {
        let create = ["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", name];
        qemu_img(directory.path(), &create);
    }
    let mut rig = Rig::over(directory, SETUPS[2], "", "src");
    let socket = rig.directory.socket("d.sock");
    let mut guest = Guest::connect(&socket, 4, 128, true, BLOCK).unwrap();
    guest.memory.bytes().fill(9);
    for block in [0, 17, 100, 101, 4095] {
        let io = Io {
            write: true,
            offset: block * BLOCK as u64,
            segments: vec![(0, BLOCK)],
        };
        assert_eq!(guest.run(0, &io), 0);
    }
    let top = r#""job-id":"b","device":"src","target":"dst","sync":"top""#;
    rig.listener.done("blockdev-backup", top);
    let completed = rig.listener.wait("BLOCK_JOB_COMPLETED");
    assert!(!completed.contains("error"), "{completed}");
    rig.listener.status("null");
    rig.server.stop();
    let (source, copy) = ["src.qcow2", "dst.qcow2"]
        .map(|name| content(rig.directory.path(), name))
        .into();
    assert!(source == copy);
    let map = |name| qemu_img(rig.directory.path(), &["map", "--output=json", name]);
    let (own, copied) = (map("src.qcow2"), map("dst.qcow2"));
    let count = |text: &str| text.matches(r#""depth": 0"#).count();
    assert_eq!((count(&own), count(&copied)), (3, 3), "{own} {copied}");
}
