//! Drains of nodes: in every order of what channels and drains do, and under load on several threads.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::block::channel::Channel;
use crate::block::options::blockdev;
use crate::block::request::Op;
use crate::block::resize_pass::ResizePass;
use crate::block::test_file::TestFile;
use crate::block::test_rig::Rig;
use crate::block::test_waker::{WakeCount, is_ready};
use crate::object::options::parse_dotted;

const UNIT: usize = 4096;

fn open(text: &str) -> Arc<Node> {
    blockdev(parse_dotted("driver", text).unwrap()).unwrap()
}

/// How many channels have a way through the node.
fn passing(node: &Node) -> usize {
    node.crossing().lock().sort_out().0.len()
}

/// Polls a drain once.
fn poll(draining: &mut Draining) -> Option<DrainedNodes> {
    let waker = std::task::Waker::noop();
    match Pin::new(draining).poll(&mut Context::from_waker(waker)) {
        Poll::Ready(drained) => Some(drained),
        Poll::Pending => None,
    }
}

/// Iterates the homes of channels until the drain is quiet.
fn finish(mut draining: Draining, rigs: &[&Rig]) -> DrainedNodes {
    let mut drained = None;
    rigs[0].wait(|| {
        rigs.iter().for_each(|rig| rig.iterate(1));
        drained = poll(&mut draining);
        drained.is_some()
    });
    drained.unwrap()
}

#[test]
fn a_node_without_channels_is_quiet_at_once() {
    let node = open("null-co,node-name=drain-none");
    let drained = poll(&mut drain([&node])).unwrap();
    assert!(drained.contains(&node));
}

#[test]
fn channels_of_the_nodes_above_are_held_and_others_are_not() {
    let file = TestFile::in_directory(Path::new("/var/tmp"), b"", 1 << 20);
    let text = format!(
        "raw,node-name=drain-top,file.node-name=drain-file,file.driver=file,file.filename={}",
        file.path()
    );
    let top = open(&text);
    let below = Node::find("drain-file").unwrap();
    let (through, direct) = (Rig::over(&top), Rig::over(&below));
    through.flush(0..3);
    direct.flush(0..3);
    let wakes = Arc::new(WakeCount::default());
    let mut draining = drain([&top]);
    assert!(!is_ready(&mut draining, &wakes));
    through.wait(|| wakes.get() == 1);
    let first = poll(&mut draining).unwrap();
    assert_eq!((passing(&top), passing(&below)), (0, 1));
    assert_eq!(through.finished().len(), 3);
    direct.wait(|| direct.finished().len() == 3);
    through.flush([3]);
    direct.flush([3]);
    direct.wait(|| direct.finished().len() == 4);

    let all = finish(drain([&below]), &[&through, &direct]);
    assert_eq!(passing(&below), 0);
    direct.flush([4]);
    direct.iterate(5);
    assert_eq!(direct.finished().len(), 4);
    drop(all);
    direct.wait(|| direct.finished().len() == 5);
    through.iterate(5);
    assert_eq!(through.finished().len(), 3, "the other drain goes on");
    drop(first);
    through.wait(|| through.finished().len() == 4);
    assert_eq!((passing(&top), passing(&below)), (1, 2));
}

#[test]
fn a_channel_that_is_opened_during_a_drain_begins_held() {
    let node = open("raw,node-name=drain-late,file.driver=null-co,file.node-name=drain-below");
    let below = Node::find("drain-below").unwrap();
    for held in [&node, &below] {
        let draining = poll(&mut drain([held])).unwrap();
        let rig = Rig::over(&node);
        rig.flush(0..2);
        rig.iterate(5);
        assert!(rig.finished().is_empty(), "{}", held.name());
        drop(draining);
        rig.wait(|| rig.finished().len() == 2);
    }
}

#[test]
fn a_channel_that_is_closed_is_not_waited_for() {
    let node = open("blkdebug,node-name=drain-closed,image.driver=null-co");
    let rig = Rig::over(&node);
    let mut draining = drain([&node]);
    assert!(poll(&mut draining).is_none());
    let channel = rig.channel().take();
    thread::spawn(move || drop(channel)).join().unwrap();
    // Without an iteration of its home.
    assert!(poll(&mut draining).is_some());
}

#[test]
fn a_drain_that_is_given_up_holds_no_longer() {
    let node = open("null-co,node-name=drain-given-up");
    let rig = Rig::over(&node);
    let draining = drain([&node]);
    rig.iterate(3);
    drop(draining);
    rig.flush(0..2);
    rig.wait(|| rig.finished().len() == 2);
}

/// What may happen next in a test of all orders.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request comes.
    Submit,
    /// The home of the channel goes round once.
    Iterate,
    /// The drain of that number begins, or ends.
    Drain(usize),
    Release(usize),
}

/// Two drains, of the node and of the one below, and a channel with two requests: each step in its order, in all mixtures.
fn orders() -> Vec<Vec<Step>> {
    let threads: [&[Step]; 4] = [
        &[Step::Submit, Step::Submit],
        &[Step::Iterate, Step::Iterate, Step::Iterate],
        &[Step::Drain(0), Step::Release(0)],
        &[Step::Drain(1), Step::Release(1)],
    ];
    let mut found = Vec::new();
    let mut open = vec![([0; 4], Vec::new())];
    while let Some((at, steps)) = open.pop() {
        if at
            .iter()
            .zip(threads)
            .all(|(&at, thread)| at == thread.len())
        {
            found.push(steps);
            continue;
        }
        for (index, thread) in threads.iter().enumerate() {
            if let Some(&step) = thread.get(at[index]) {
                let (mut at, mut steps) = (at, steps.clone());
                at[index] += 1;
                steps.push(step);
                open.push((at, steps));
            }
        }
    }
    found
}

/// In any order of the steps: a quiet node has no way through it and finishes no request, and after the releases all are there.
#[test]
fn all_orders_of_requests_iterations_and_drains_hold_and_lose_nothing() {
    let top =
        open("blkdebug,node-name=drain-orders,image.driver=null-co,image.node-name=drain-ordered");
    let below = Node::find("drain-ordered").unwrap();
    let orders = orders();
    assert_eq!(orders.len(), 7560);
    for order in orders {
        let rig = Rig::over(&top);
        let nodes = [&top, &below];
        let mut draining: HashMap<usize, Draining> = HashMap::new();
        let mut drained: HashMap<usize, DrainedNodes> = HashMap::new();
        for (tag, step) in order.iter().enumerate() {
            let before = rig.finished().len();
            match *step {
                Step::Submit => rig.flush([tag as u64]),
                Step::Iterate => rig.iterate(1),
                Step::Drain(number) => {
                    draining.insert(number, drain([nodes[number]]));
                }
                Step::Release(number) => {
                    draining.remove(&number);
                    drained.remove(&number);
                }
            }
            if !drained.is_empty() {
                assert_eq!(rig.finished().len(), before, "{order:?} at {tag}");
            }
            draining.retain(|&number, waiting| match poll(waiting) {
                Some(quiet) => drained.insert(number, quiet).is_some(),
                None => true,
            });
            for &number in drained.keys() {
                assert_eq!(passing(nodes[number]), 0, "{order:?} at {tag}");
            }
        }
        rig.wait(|| rig.finished().len() == 2);
        rig.iterate(2);
        assert_eq!((passing(&top), passing(&below)), (1, 1), "{order:?}");
        let tags: Vec<u64> = rig.finished().iter().map(|&(tag, _)| tag).collect();
        assert!(tags.is_sorted(), "{order:?}: {tags:?}");
    }
}

/// Writes rounds of its own blocks until it is to stop; returns how many requests it has made.
fn write_rounds(node: &Arc<Node>, first: usize, stop: &AtomicBool) -> usize {
    let rig = Rig::over(node);
    let mut memory = vec![0; 8 * UNIT];
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        memory.fill(u8::try_from(1 + count % 200).unwrap());
        let shared = Mutex::new(&mut memory);
        rig.submit(0..8, |channel: &mut Channel, tag| {
            let index = usize::try_from(tag).unwrap();
            let mut request = channel.request(Op::Write, ((first + index) * UNIT) as u64, tag);
            request.set_memory(&mut shared.lock().unwrap()[index * UNIT..(index + 1) * UNIT]);
            request
        });
        count += 8;
        rig.wait(|| rig.finished().len() == count);
        assert!(rig.finished().iter().all(|&(_, result)| result == 0));
    }
    count
}

/// Blocks the thread until the node is quiet.
fn wait_quiet(mut draining: Draining) -> DrainedNodes {
    let wakes = Arc::new(ThreadWake(thread::current()));
    let waker = Waker::from(wakes);
    loop {
        match Pin::new(&mut draining).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(drained) => return drained,
            Poll::Pending => thread::park(),
        }
    }
}

struct ThreadWake(thread::Thread);

impl std::task::Wake for ThreadWake {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Drains the node many times, and marks the file each time: a write that comes during the drain would change the mark.
fn drain_and_mark(node: &Arc<Node>, path: &str) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; 16 * UNIT];
    for _ in 0..100 {
        let drained = wait_quiet(drain([node]));
        assert_eq!(passing(node), 0);
        file.write_all_at(&[255; 16 * UNIT], 0).unwrap();
        thread::yield_now();
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 255));
        drop(drained);
    }
}

#[test]
fn nothing_is_written_during_drains_from_two_threads_under_load_from_two_homes() {
    for driver in [
        "raw,file.driver=file,file.filename=",
        "blkdebug,image.driver=file,image.filename=",
    ] {
        let file = TestFile::in_directory(Path::new("/var/tmp"), b"", 1 << 20);
        let node = open(&format!("{driver}{},node-name=drain-load", file.path()));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let write = |first| {
                let (node, stop) = (&node, &stop);
                scope.spawn(move || write_rounds(node, first, stop))
            };
            let writers = [0, 8].map(write);
            let drainers = [(); 2].map(|()| scope.spawn(|| drain_and_mark(&node, file.path())));
            let drained = drainers.map(|drainer| drainer.join());
            stop.store(true, Ordering::Relaxed);
            let written = writers.map(|writer| writer.join().unwrap());
            assert!(written.iter().all(|&count| count > 0), "{written:?}");
            drained.into_iter().for_each(|drained| drained.unwrap());
        });
    }
}

#[test]
fn a_drain_waits_for_a_resize_and_a_resize_for_the_release() {
    let file = TestFile::in_directory(Path::new("/var/tmp"), b"", 1 << 20);
    let text = format!(
        "raw,node-name=drain-resized,file.node-name=drain-resized-file,file.driver=file,file.filename={}",
        file.path()
    );
    let top = open(&text);
    let below = Node::find("drain-resized-file").unwrap();
    let pass = ResizePass::wait(&top);
    let wakes = Arc::new(WakeCount::default());
    let mut drains = [drain([&top]), drain([&below]), drain([&top, &below])];
    assert!(drains.iter_mut().all(|drain| !is_ready(drain, &wakes)));
    // What has passed goes on below, as the resize of a filter does.
    below.set_length(2 << 20).unwrap();
    assert!(drains.iter_mut().all(|drain| !is_ready(drain, &wakes)));
    drop(pass);
    assert_eq!(wakes.get(), 3);
    let drained = drains.map(|mut drain| poll(&mut drain).unwrap());
    let order = Arc::new(Mutex::new(Vec::new()));
    let resizing = {
        let (top, order) = (Arc::clone(&top), Arc::clone(&order));
        thread::spawn(move || {
            top.set_length(3 << 20).unwrap();
            order.lock().unwrap().push("resized");
        })
    };
    assert_eq!(top.length(), 2 << 20);
    order.lock().unwrap().push("released");
    drop(drained);
    resizing.join().unwrap();
    assert_eq!(*order.lock().unwrap(), ["released", "resized"]);
    assert_eq!((top.length(), below.length()), (3 << 20, 3 << 20));
}

#[test]
fn a_way_that_was_given_up_counts_until_it_is_gone() {
    let node = open("blkdebug,node-name=drain-leaving,image.driver=null-co");
    let rig = Rig::over(&node);
    let first = drain([&node]);
    // Outside of the bottom half, which drops what was given up.
    rig.with(|channel| channel.reap(&mut Vec::new()));
    let mut second = drain([&node]);
    assert!(poll(&mut second).is_none());
    let drained = finish(second, &[&rig]);
    assert_eq!(passing(&node), 0);
    drop((first, drained));
}

/// Notes how many others have the image when it is woken.
struct ImageWatch(Arc<Node>, Mutex<Vec<usize>>);

impl ImageWatch {
    fn users(&self) -> usize {
        Arc::strong_count(&self.0.file_image())
    }
}

impl std::task::Wake for ImageWatch {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.users());
    }
}

#[test]
fn a_channel_that_is_closed_has_no_way_when_it_counts_as_quiet() {
    let file = TestFile::in_directory(Path::new("/var/tmp"), b"", 1 << 20);
    let node = open(&format!(
        "file,node-name=drain-closed,filename={}",
        file.path()
    ));
    let watch = Arc::new(ImageWatch(Arc::clone(&node), Mutex::default()));
    let alone = watch.users();
    let rig = Rig::over(&node);
    assert!(watch.users() > alone);
    let mut draining = drain([&node]);
    let waker = std::task::Waker::from(Arc::clone(&watch));
    let pending = Pin::new(&mut draining).poll(&mut Context::from_waker(&waker));
    assert!(pending.is_pending());
    drop(rig.channel().take());
    assert_eq!(*watch.1.lock().unwrap(), [alone]);
    drop(draining);
}
