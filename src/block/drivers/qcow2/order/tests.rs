//! What is left of an image when the power fails: any of the writes that no flush has made durable, at each moment.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::block::common::CommonOptions;
use crate::block::drivers::qcow2::tests::Folder;
use crate::block::drivers::qcow2::{Qcow2Options, over};
use crate::block::node::Node;
use crate::block::options::blockdev;
use crate::block::request::{Op, Request};
use crate::block::test_filter::filter;
use crate::block::test_rig::Rig;
use crate::block::way::below::Below;
use crate::block::way::task::{Layer, Task};
use crate::object::options::parse_dotted;

const CLUSTER: usize = 512;

/// What happened to a file, in its order.
#[derive(Debug)]
enum Event {
    Written {
        number: usize,
        offset: usize,
        bytes: Vec<u8>,
    },
    /// A flush has ended that makes these writes durable.
    Flushed(Vec<usize>),
}

#[derive(Debug, Default)]
struct Log {
    events: Vec<Event>,
    /// The writes that have ended.
    ended: Vec<usize>,
    count: usize,
}

/// Records the writes and flushes of another node.
#[derive(Debug)]
struct RecorderLayer {
    below: Arc<Below>,
    log: Arc<Mutex<Log>>,
}

impl Layer for RecorderLayer {
    fn run(self: Arc<Self>, request: Box<Request>) -> Task {
        Box::pin(async move {
            let op = request.op;
            assert!(
                matches!(op, Op::Read | Op::Write | Op::Flush | Op::BlockStatus),
                "{op:?}"
            );
            let (number, ended) = self.log.lock().unwrap().begin(&request);
            let finished = self.below.submit(request).await;
            assert_eq!(finished.result, 0);
            self.log.lock().unwrap().end(op, number, ended);
            finished
        })
    }
}

impl Log {
    /// A write may reach the disk from now on. Returns its number, and the writes that a flush makes durable.
    fn begin(&mut self, request: &Request) -> (usize, Vec<usize>) {
        let number = self.count;
        if request.op == Op::Write {
            self.count += 1;
            let mut bytes = vec![0; usize::try_from(request.length).unwrap()];
            request.copy_out(&mut bytes);
            let offset = usize::try_from(request.offset).unwrap();
            self.events.push(Event::Written {
                number,
                offset,
                bytes,
            });
        }
        (number, self.ended.clone())
    }

    fn end(&mut self, op: Op, number: usize, ended: Vec<usize>) {
        match op {
            Op::Write => self.ended.push(number),
            Op::Flush => self.events.push(Event::Flushed(ended)),
            _ => {}
        }
    }
}

fn put(disk: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if disk.len() < end {
        disk.resize(end, 0);
    }
    disk[offset..end].copy_from_slice(bytes);
}

fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    let field = bytes.get(at..at + len).unwrap_or(&[]);
    field
        .iter()
        .fold(0, |sum, &byte| sum << 8 | usize::from(byte))
}

/// Whether each cluster that the tables refer to is counted.
fn check(disk: &[u8]) -> Result<(), String> {
    let (l1, entries, refcounts) = (
        number(disk, 40, 8),
        number(disk, 36, 4),
        number(disk, 48, 8),
    );
    let refcount = |offset: usize| {
        let cluster = offset / CLUSTER;
        let (block, index) = (cluster / (CLUSTER / 2), cluster % (CLUSTER / 2));
        match number(disk, refcounts + block * 8, 8) {
            0 => 0,
            block => number(disk, block + index * 2, 2),
        }
    };
    let mut seen = HashSet::new();
    let mut count = |what: &str, offset: usize| match refcount(offset) {
        0 => Err(format!("{what} at {offset} is not counted")),
        _ if !seen.insert(offset) => Err(format!("{what} at {offset} is used twice")),
        _ => Ok(()),
    };
    count("the L1 table", l1)?;
    for entry in 0..entries {
        let l2 = number(disk, l1 + entry * 8, 8) & 0x00ff_ffff_ffff_fe00;
        if l2 == 0 {
            continue;
        }
        count("an L2 table", l2)?;
        for index in 0..CLUSTER / 8 {
            let data = number(disk, l2 + index * 8, 8) & 0x00ff_ffff_ffff_fe00;
            if data != 0 {
                count("data", data)?;
            }
        }
    }
    Ok(())
}

/// Checks what may be on the disk after each event: all that is durable, and some of the rest.
fn check_all(base: &[u8], log: &Log) {
    let mut random = support::random::Random(3);
    let mut durable = base.to_vec();
    // In the order in which they began.
    let mut open: Vec<(usize, usize, &[u8])> = Vec::new();
    for (moment, event) in log.events.iter().enumerate() {
        match event {
            Event::Written {
                number,
                offset,
                bytes,
            } => open.push((*number, *offset, bytes)),
            Event::Flushed(ended) => {
                let is_durable = |write: &(usize, usize, &[u8])| ended.contains(&write.0);
                open.iter()
                    .filter(|write| is_durable(write))
                    .for_each(|(_, offset, bytes)| put(&mut durable, *offset, bytes));
                open.retain(|write| !is_durable(write));
            }
        }
        for attempt in 0..open.len() * 2 + 4 {
            let mut disk = durable.clone();
            for (place, (_, offset, bytes)) in open.iter().enumerate() {
                let is_there = match attempt / 2 {
                    // Only one of them, or all but one.
                    one if one < open.len() => (place == one) == (attempt % 2 == 0),
                    _ => random.below(2) == 0,
                };
                if is_there {
                    put(&mut disk, *offset, bytes);
                }
            }
            if let Err(error) = check(&disk) {
                let kinds: HashMap<_, _> = open.iter().map(|w| (w.0, (w.1, w.2.len()))).collect();
                panic!("after event {moment}, attempt {attempt}: {error}; open: {kinds:?}");
            }
        }
    }
}

/// Allocates, frees and flushes clusters.
fn change(rig: &Rig) {
    let memory = Mutex::new(vec![7; CLUSTER * 4]);
    let random = Mutex::new(support::random::Random(9));
    for round in 0..12 {
        rig.submit(0..6, |channel, tag| {
            let at = random.lock().unwrap().below(600) * CLUSTER as u64;
            let op = match tag % 3 {
                0 if round > 2 => Op::Discard,
                1 if round > 2 => Op::WriteZeroes { unmap: true },
                _ => Op::Write,
            };
            let mut request = channel.request(op, at, tag);
            match op {
                Op::Write => request.set_memory(&mut memory.lock().unwrap()),
                _ => request.set_length(8 * CLUSTER as u64),
            }
            request
        });
        rig.wait(|| rig.with(|channel| channel.in_flight()) == 0);
        if round % 2 == 1 {
            rig.flush([0]);
            rig.wait(|| rig.with(|channel| channel.in_flight()) == 0);
        }
    }
    assert!(rig.finished().iter().all(|&(_, result)| result == 0));
}

#[test]
fn image_is_good_whatever_a_power_failure_leaves_of_it() {
    if let Some(reason) = support::qemu_img::missing() {
        return support::skip::skip(reason);
    }
    let folder = Folder::new();
    let path = folder.path("disk.qcow2");
    let name = path.to_str().unwrap();
    let create = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=512",
        name,
        "320K",
    ];
    support::qemu_img::qemu_img(std::path::Path::new("/"), &create);
    let base = std::fs::read(&path).unwrap();
    let log: Arc<Mutex<Log>> = Arc::default();
    // Without discards below: what these leave is not known.
    let text = format!("node-name=recorded,driver=file,discard=ignore,filename={name}");
    let file = blockdev(parse_dotted("driver", &text).unwrap()).unwrap();
    let recorded = Arc::clone(&log);
    let recorder = filter(&file, move |below| {
        Arc::new(RecorderLayer {
            below,
            log: Arc::clone(&recorded),
        })
    });
    let open = Node::child(None, CommonOptions::default(), |node| {
        over(&recorder, Qcow2Options::plain(), node)
    });
    let rig = Rig::over(&open.unwrap());
    change(&rig);
    drop(rig);
    let log = std::mem::take(&mut *log.lock().unwrap());
    let is_flush = |event: &&Event| matches!(event, Event::Flushed(_));
    let flushes = log.events.iter().filter(is_flush).count();
    assert!(
        flushes > 6 && log.count > 50,
        "{flushes} flushes, {} writes",
        log.count
    );
    check_all(&base, &log);
}
