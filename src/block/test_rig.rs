//! A channel on a loop of its own, to nodes of every kind, for the tests of this layer.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use gsource::{AioContext, Wait};
use support::skip::skip_case;

use super::graph::Edge;
use super::options::blockdev;
use super::request::{Finished, Op, Request, Submission};
use super::test_file::TestFile;
use super::{Access, Channel, ChannelOwner, Drained, Node, Parent, Permissions};
use crate::object::options;

/// Where the data is: a directory for a file, and `-blockdev` options, in which `FILE` is the path.
const STORES: [(&str, &str); 10] = [
    ("", "driver=null-co"),
    (
        "/dev/shm",
        "driver=raw,file.driver=file,file.aio=io_uring,file.filename=FILE",
    ),
    (
        "/dev/shm",
        "driver=raw,file.driver=file,file.aio=threads,file.filename=FILE",
    ),
    (
        "/var/tmp",
        "driver=file,aio=io_uring,cache.direct=on,filename=FILE",
    ),
    (
        "/var/tmp",
        "driver=file,aio=threads,cache.direct=on,filename=FILE",
    ),
    ("/var/tmp", "driver=file,aio=io_uring,filename=FILE"),
    ("", "driver=blkdebug,image.driver=null-co"),
    (
        "/var/tmp",
        "driver=blkdebug,image.driver=file,image.aio=io_uring,image.filename=FILE",
    ),
    (
        "/dev/shm",
        "driver=blkdebug,image.driver=file,image.aio=threads,image.filename=FILE",
    ),
    (
        "/var/tmp",
        "driver=blkdebug,image.driver=raw,image.file.driver=blkdebug,image.file.image.driver=file,\
         image.file.image.filename=FILE",
    ),
];

/// Owns a channel and takes what is finished, by tag.
pub(super) struct TestOwner {
    channel: Mutex<Option<Channel>>,
    finished: Mutex<Vec<(u64, i32)>>,
}

impl ChannelOwner for TestOwner {
    fn ready(&self) {
        let mut finished = Vec::new();
        if let Some(channel) = &mut *self.channel.lock().unwrap() {
            channel.reap(&mut finished);
        }
        self.take(finished);
    }
}

impl TestOwner {
    fn take(&self, finished: Vec<Finished>) {
        let tags = finished
            .into_iter()
            .map(|done| (done.request.tag(), done.result));
        self.finished.lock().unwrap().extend(tags);
    }
}

/// A channel on a loop of its own. The fields go in this order.
pub(super) struct Rig {
    pub(super) owner: Arc<TestOwner>,
    pub(super) edge: Edge,
    pub(super) aio: AioContext,
    _file: Option<TestFile>,
}

impl Rig {
    /// `None` if this machine has no such store.
    pub(super) fn new((directory, text): (&str, &str)) -> Option<Rig> {
        let file = (!directory.is_empty())
            .then(|| TestFile::in_directory(Path::new(directory), b"", 2 << 20));
        let path = file.as_ref().map_or("", TestFile::path);
        let text = format!("node-name=rig,{}", text.replace("FILE", path));
        let opened = blockdev(options::parse_dotted("driver", &text).unwrap());
        let node = opened.inspect_err(|error| skip_case(&text, error));
        let mut rig = Rig::over(&node.ok()?);
        rig._file = file;
        Some(rig)
    }

    /// A channel to `node`, which may have others.
    pub(super) fn over(node: &Arc<Node>) -> Rig {
        let read = Permissions::CONSISTENT_READ;
        let write = Permissions::WRITE.and(Permissions::WRITE_UNCHANGED);
        Rig::with_needs(node, read.and(write))
    }

    /// The same, for reading alone.
    pub(super) fn reading(node: &Arc<Node>) -> Rig {
        Rig::with_needs(node, Permissions::CONSISTENT_READ)
    }

    fn with_needs(node: &Arc<Node>, needs: Permissions) -> Rig {
        let access = Access {
            needs,
            shares: Permissions::ALL,
        };
        let edge = node.attach(Parent::new("test", "rig"), access).unwrap();
        let owner = Arc::new(TestOwner {
            channel: Mutex::default(),
            finished: Mutex::default(),
        });
        let weak: Arc<dyn ChannelOwner> = Arc::<TestOwner>::clone(&owner);
        let aio = AioContext::new().unwrap();
        let channel = Channel::open(&edge, &aio, Arc::downgrade(&weak));
        *owner.channel.lock().unwrap() = Some(channel);
        Rig {
            owner,
            edge,
            aio,
            _file: None,
        }
    }

    pub(super) fn all() -> impl Iterator<Item = (&'static str, Rig)> {
        let rigs = STORES.into_iter();
        rigs.filter_map(|store| Some((store.1, Rig::new(store)?)))
    }

    pub(super) fn channel(&self) -> MutexGuard<'_, Option<Channel>> {
        self.owner.channel.lock().unwrap()
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Channel) -> T) -> T {
        act(self.channel().as_mut().unwrap())
    }

    /// Submits flushes with these tags as one batch: they never finish at once on a file.
    pub(super) fn flush(&self, tags: impl IntoIterator<Item = u64>) {
        self.submit(tags, |channel, tag| channel.request(Op::Flush, 0, tag));
    }

    pub(super) fn submit(
        &self,
        tags: impl IntoIterator<Item = u64>,
        make: impl Fn(&mut Channel, u64) -> Box<Request>,
    ) {
        let mut finished = Vec::new();
        self.with(|channel| {
            channel.begin_batch();
            for tag in tags {
                let request = make(channel, tag);
                match channel.submit(request) {
                    Submission::Queued => {}
                    Submission::Done(done) => finished.push(done),
                }
            }
            channel.flush_submissions();
        });
        self.owner.take(finished);
    }

    pub(super) fn finished(&self) -> Vec<(u64, i32)> {
        self.owner.finished.lock().unwrap().clone()
    }

    pub(super) fn drain(&self) -> (Drained, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let drained = self.with(|channel| {
            channel.drain(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            })
        });
        (drained, calls)
    }

    pub(super) fn iterate(&self, count: usize) {
        for _ in 0..count {
            self.aio.poll(Wait::NoBlock).unwrap();
        }
    }

    pub(super) fn wait(&self, mut condition: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !condition() {
            assert!(start.elapsed().as_secs() < 60, "the channel hangs");
            self.aio.poll(Wait::NoBlock).unwrap();
        }
    }
}
