//! Tasks that use nodes of every kind: bytes, cancelled requests, drains, fairness, and what is known about ranges.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use gsource::{JoinHandle, Wait};

use super::*;
use crate::block::test_file::TestFile;
use crate::block::test_rig::Rig;
use crate::block::{GraphChange, drain};
use crate::object::options::parse_dotted;

impl Rig {
    /// Runs a task to its end.
    pub(in crate::block) fn run<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> T {
        let task = self.aio.spawn_local(work).unwrap();
        self.finish(&task)
    }

    fn finish<T>(&self, task: &JoinHandle<T>) -> T {
        self.wait(|| task.is_finished());
        task.try_take().unwrap().unwrap()
    }

    pub(in crate::block) fn backend(&self) -> BlockBackend {
        BlockBackend::open(&self.edge, &self.aio)
    }
}

/// The stores whose data can be read back.
fn keepers() -> impl Iterator<Item = (&'static str, Rig)> {
    Rig::all().filter(|(text, _)| !text.contains("null-co"))
}

async fn write(backend: &BlockBackend, offset: u64, bytes: Vec<u8>) {
    let (result, _) = backend
        .write(offset, IoBuffer::copy_of(&bytes), false)
        .await;
    result.unwrap();
}

async fn read(backend: &BlockBackend, offset: u64, len: usize) -> Vec<u8> {
    let (result, buffer) = backend.read(offset, IoBuffer::zeroed(len)).await;
    result.unwrap();
    buffer.to_vec()
}

#[test]
fn what_is_written_is_read_on_every_store() {
    for (text, rig) in keepers() {
        let backend = rig.backend();
        rig.run(async move {
            write(&backend, 4096, vec![7; 8192]).await;
            backend.write_zeroes(8192, 2048, true, true).await.unwrap();
            backend.flush().await.unwrap();
            let expected = [[7; 4096].to_vec(), vec![0; 2048], vec![7; 2048], vec![0; 4]].concat();
            assert_eq!(read(&backend, 4096, 8196).await, expected, "{text}");
            backend.discard(0, 1 << 20).await.unwrap();
        });
    }
}

#[test]
fn a_write_with_fua_syncs_the_file_before_it_ends() {
    let (_, rig) = keepers().next().unwrap();
    let (backend, node) = (rig.backend(), rig.edge.node());
    let before = node.data_syncs();
    rig.run(async move {
        let (result, _) = backend.write(0, IoBuffer::zeroed(512), true).await;
        result.unwrap();
    });
    assert_eq!(node.data_syncs(), before + 1);
}

/// Offsets, lengths and a byte, from a fixed sequence.
fn ranges(seed: u64) -> impl Iterator<Item = (u64, usize, u8)> {
    let mut state = seed;
    let mut next = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    std::iter::from_fn(move || {
        let length = usize::try_from(next(3000)).unwrap();
        Some((next(20_000), length, u8::try_from(next(256)).unwrap()))
    })
}

#[test]
fn bytes_that_fill_no_blocks_change_no_others() {
    for (text, rig) in keepers() {
        let backend = rig.backend();
        rig.run(async move {
            let mut model = vec![0; 32 << 10];
            for (number, (offset, length, byte)) in ranges(1).take(200).enumerate() {
                let start = usize::try_from(offset).unwrap();
                let byte = if number % 3 == 0 { 0 } else { byte };
                model[start..start + length].fill(byte);
                if byte == 0 {
                    let zeroed = backend.write_zeroes(offset, length as u64, true, false);
                    zeroed.await.unwrap();
                } else {
                    write(&backend, offset, vec![byte; length]).await;
                }
                let seen = read(&backend, offset.saturating_sub(700), length + 700).await;
                let from = start.saturating_sub(700);
                assert_eq!(seen, model[from..from + length + 700], "{text} {number}");
            }
            assert_eq!(read(&backend, 0, 32 << 10).await, model, "{text}");
        });
    }
}

/// Each task has the bytes of its own number. Their neighbours are in the same blocks.
#[test]
fn tasks_that_change_parts_of_the_same_blocks_at_once_lose_nothing() {
    for (text, rig) in keepers() {
        let backends = [rig.backend(), rig.backend()];
        let tasks: Vec<_> = (0..16_u8)
            .map(|number| {
                let backend = backends[usize::from(number % 2)].clone();
                let work = async move {
                    for piece in 0..20 {
                        let offset = piece * 1600 + u64::from(number) * 100;
                        write(&backend, offset, vec![number + 1; 100]).await;
                    }
                };
                rig.aio.spawn_local(work).unwrap()
            })
            .collect();
        tasks.iter().for_each(|task| rig.finish(task));
        let backend = rig.backend();
        let seen = rig.run(async move { read(&backend, 0, 32_000).await });
        let expected: Vec<u8> = (0..32_000_usize)
            .map(|at| u8::try_from(at / 100 % 16 + 1).unwrap())
            .collect();
        assert!(seen == expected, "{text}");
    }
}

#[test]
fn ranges_beyond_the_end_are_refused() {
    let (_, rig) = Rig::all().next().unwrap();
    let backend = rig.backend();
    let length = rig.edge.node().length();
    rig.run(async move {
        for (offset, count) in [(length, 1), (length - 1, 2), (u64::MAX, 1), (u64::MAX, 0)] {
            let (result, _) = backend.read(offset, IoBuffer::zeroed(count)).await;
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINVAL));
            let count = count as u64;
            backend.discard(offset, count).await.unwrap_err();
            backend.block_status(offset, count).await.unwrap_err();
        }
        assert_eq!(read(&backend, length, 0).await, []);
    });
}

#[test]
fn a_request_whose_future_is_dropped_goes_on_and_keeps_its_memory() {
    for (text, rig) in keepers() {
        let backend = rig.backend();
        for round in 0..10_u8 {
            let writer = backend.clone();
            let task = rig.aio.spawn_local(async move {
                let buffer = IoBuffer::copy_of(&vec![round; 1 << 20]);
                writer.write(0, buffer, false).await.0.unwrap();
            });
            // One poll starts the request; then the future goes.
            rig.iterate(1);
            drop(task);
        }
        rig.wait(|| backend.in_flight() == 0);
        let reader = backend.clone();
        let seen = rig.run(async move { read(&reader, 0, 1 << 20).await });
        assert!(seen.iter().all(|byte| *byte < 10), "{text}");
        assert!(backend.core().state().slots.is_empty(), "{text}");
    }
}

#[test]
fn a_backend_whose_last_handle_goes_ends_with_its_last_request() {
    for (text, rig) in Rig::all() {
        let backend = rig.backend();
        let core = Arc::downgrade(&backend.0.0);
        let task = rig.aio.spawn_local(async move { backend.flush().await });
        rig.iterate(1);
        drop(task);
        rig.wait(|| core.strong_count() == 0);
        assert_eq!(rig.edge.node().parents().len(), 1, "{text}");
    }
}

#[test]
fn a_drained_backend_is_quiet_and_goes_on_after_that() {
    for (text, rig) in Rig::all() {
        let backend = rig.backend();
        let quiet = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (sign, early) = (Arc::clone(&quiet), backend.clone());
        let before = rig
            .aio
            .spawn_local(async move { early.flush().await })
            .unwrap();
        rig.iterate(1);
        let drained = backend.drain(move || sign.store(true, std::sync::atomic::Ordering::Relaxed));
        let late = backend.clone();
        let after = rig
            .aio
            .spawn_local(async move { late.flush().await })
            .unwrap();
        rig.wait(|| quiet.load(std::sync::atomic::Ordering::Relaxed));
        rig.finish(&before).unwrap();
        rig.iterate(20);
        assert!(!after.is_finished(), "{text}");
        assert_eq!(backend.in_flight(), 1, "{text}");
        drop(drained);
        rig.finish(&after).unwrap();
    }
}

#[test]
fn a_task_that_is_always_answered_at_once_leaves_turns_to_others() {
    let rig = Rig::new(("", "driver=null-co,read-zeroes=on")).unwrap();
    let backend = rig.backend();
    let reads = Rc::new(RefCell::new(0));
    let counter = Rc::clone(&reads);
    let greedy = rig.aio.spawn_local(async move {
        loop {
            read(&backend, 0, 4096).await;
            *counter.borrow_mut() += 1;
        }
    });
    for _ in 0..10 {
        *reads.borrow_mut() = 0;
        rig.aio.poll(Wait::NoBlock).unwrap();
        assert!(*reads.borrow() <= 64, "{}", reads.borrow());
    }
    drop(greedy);
}

fn status(rig: &Rig, offset: u64, length: u64) -> BlockStatus {
    let backend = rig.backend();
    rig.run(async move { backend.block_status(offset, length).await.unwrap() })
}

#[test]
fn files_and_what_is_over_them_say_where_their_holes_are() {
    for (text, rig) in keepers() {
        let backend = rig.backend();
        rig.run(async move {
            write(&backend, 1 << 20, vec![1; 64 << 10]).await;
            backend.flush().await.unwrap();
        });
        let hole = BlockStatus::zeroes(1 << 20);
        assert_eq!(status(&rig, 0, 2 << 20), hole, "{text}");
        assert_eq!(status(&rig, 0, 3000), BlockStatus::zeroes(3000), "{text}");
        let data = BlockStatus::data(64 << 10);
        assert_eq!(status(&rig, 1 << 20, 1 << 20), data, "{text}");
        assert_eq!(
            status(&rig, (1 << 20) + 5, 5),
            BlockStatus::data(5),
            "{text}"
        );
    }
}

#[test]
fn a_null_disk_has_nothing_or_zeroes() {
    let cases = [("off", false, 0), ("on", true, 1)];
    for (read_zeroes, is_zero, depth) in cases {
        let text = format!("driver=null-co,read-zeroes={read_zeroes}");
        let rig = Rig::new(("", text.leak())).unwrap();
        let expected = BlockStatus {
            length: 1 << 20,
            has_data: false,
            is_zero,
            depth,
        };
        assert_eq!(status(&rig, 0, 1 << 20), expected);
    }
}

/// A write that waits for the end of a drain may find larger blocks, or smaller ones.
#[test]
fn a_write_that_waits_while_blocks_become_larger_keeps_its_neighbours() {
    let (small, large) = ("backend-small", "backend-large");
    let file = TestFile::new(&[7; 8192], 1 << 20);
    let open = |text: &str| Node::open_blockdev(parse_dotted("driver", text).unwrap()).unwrap();
    open(&format!("file,node-name={small},filename={}", file.path()));
    let large_node = open(&format!(
        "blkdebug,node-name={large},align=4096,image={small}"
    ));
    let node = open(&format!("raw,node-name=backend-grows,file={small}"));
    let rig = Rig::over(&node);
    let backend = rig.backend();
    let small_node = Node::find(small).unwrap();
    // The write waits for the change.
    let write_during = |child, offset, bytes: Vec<u8>| {
        let mut change = GraphChange::new();
        change.set_child(&node, "file", Some(child)).unwrap();
        let writer = backend.clone();
        let task = make(change, &rig, async move {
            writer
                .write(offset, IoBuffer::copy_of(&bytes), false)
                .await
                .0
        });
        rig.finish(&task).unwrap();
    };
    for (offset, len) in [(513, 10), (1024, 512)] {
        write_during(&large_node, offset, vec![1; len]);
        assert_eq!(node.block_size(), 4096);
        let mut expected = vec![7; 4096];
        let start = usize::try_from(offset).unwrap();
        expected[start..start + len].fill(1);
        assert!(std::fs::read(file.path()).unwrap()[..4096] == expected);
        write_during(&small_node, 0, vec![7; 4096]);
        assert_eq!(node.block_size(), 1);
    }
}

/// Makes a change while the home of the rig goes round. `work` begins before it and has to wait for its end.
fn make<T: 'static>(
    change: GraphChange,
    rig: &Rig,
    work: impl Future<Output = T> + 'static,
) -> JoinHandle<T> {
    let mut draining = drain(&change.nodes());
    let mut drained = None;
    rig.wait(|| {
        let mut context = Context::from_waker(Waker::noop());
        drained = match Pin::new(&mut draining).poll(&mut context) {
            Poll::Ready(quiet) => Some(quiet),
            Poll::Pending => None,
        };
        drained.is_some()
    });
    let task = rig.aio.spawn_local(work).unwrap();
    rig.iterate(3);
    assert!(!task.is_finished());
    change.make(&drained.unwrap()).unwrap();
    task
}
