//! Reading and writing a file as futures: by the io_uring of the home, or by its worker pool where the kernel has none.
//!
//! # Invariants
//! 1. A request in flight owns its buffer and a share of the file: in the table of [`Requests`], which the ring keeps alive, or
//!    in its job. So both stay for the kernel whatever becomes of the future.
//! 2. A table that goes away with requests in flight (the ring ended first) leaves their buffers allocated for ever.
#![allow(unsafe_code)] // entries name the memory of buffers

use super::once::Once;
use crate::aio::lock;
use crate::sync::Mutex;
use crate::{AioContext, Error, IoBatch, IoCompletion, IoQueue, IoSink, Result};
use io_uring::{opcode, squeue, types};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What the kernel moves at most in one call.
const LENGTH_MAX: u32 = 0x7fff_f000;

/// A file of an AioContext, for its tasks. Clones are the same file; it is closed when the last one and the last request are
/// gone.
///
/// A request takes a buffer and gives it back with the result, so the buffer stays where it is until the kernel is done with
/// it, also when the future is dropped.
///
/// ```
/// use gsource::{AioContext, Wait};
/// use std::fs::File;
///
/// let aio = AioContext::new()?;
/// let file = aio.file(File::open("/proc/self/stat").unwrap());
/// let task = aio.spawn_local(async move { file.read_at(vec![0; 16], 0).await })?;
/// while !task.is_finished() {
///     aio.poll(Wait::Block)?;
/// }
/// let (count, buffer) = task.try_take().unwrap()?;
/// assert_eq!(count?, 16);
/// assert!(buffer.starts_with(std::process::id().to_string().as_bytes()));
/// # Ok::<(), gsource::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AsyncFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Arc<File>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Ring(IoQueue, Arc<Requests>),
    Pool(AioContext),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Read(u64),
    Write(u64),
    Sync,
}

/// A result as of a system call, and the buffer.
type Reply = Arc<Once<(i32, Vec<u8>)>>;

/// A request that the kernel has.
#[derive(Debug)]
struct InFlight {
    buffer: Vec<u8>,
    /// Keeps the fd.
    _file: Arc<File>,
    reply: Reply,
}

/// The requests in flight, by the number their entries carry.
#[derive(Debug, Default)]
struct Requests(Mutex<Vec<Option<InFlight>>>);

/// A request to a file as a future; see [`AsyncFile::read_at`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct FileRequest {
    file: AsyncFile,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    New(Op, Vec<u8>),
    Sent(Reply),
}

impl AioContext {
    /// Makes `file` one that tasks of this context can read and write.
    pub fn file(&self, file: impl Into<OwnedFd>) -> AsyncFile {
        let requests = Arc::new(Requests::default());
        let sink: Arc<dyn IoSink> = Arc::<Requests>::clone(&requests);
        let way = match self.register_io(sink) {
            Ok(queue) => Way::Ring(queue, requests),
            Err(_) => Way::Pool(self.clone()),
        };
        AsyncFile::new(file.into(), way)
    }
}

impl AsyncFile {
    fn new(file: OwnedFd, way: Way) -> AsyncFile {
        let file = Arc::new(File::from(file));
        AsyncFile(Arc::new(Inner { file, way }))
    }

    /// Reads at `offset` into `buffer`, as far as it is long; the result is the number of bytes read and the buffer. The
    /// request begins when the future is first polled, which is on the home.
    pub fn read_at(&self, buffer: Vec<u8>, offset: u64) -> FileRequest {
        self.request(Op::Read(offset), buffer)
    }

    /// Writes `buffer` at `offset`; the result is the number of bytes written and the buffer.
    pub fn write_at(&self, buffer: Vec<u8>, offset: u64) -> FileRequest {
        self.request(Op::Write(offset), buffer)
    }

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn fsync(&self) -> Result<()> {
        let (result, _) = self.request(Op::Sync, Vec::new()).await;
        result.map(drop)
    }

    fn request(&self, op: Op, buffer: Vec<u8>) -> FileRequest {
        FileRequest {
            file: self.clone(),
            stage: Stage::New(op, buffer),
        }
    }

    /// Starts a request; when that fails, the buffer comes back at once.
    fn send(&self, op: Op, buffer: Vec<u8>) -> Result<Reply, (Error, Vec<u8>)> {
        match &self.0.way {
            Way::Ring(queue, requests) => self.send_to_ring(queue, requests, op, buffer),
            Way::Pool(aio) => Ok(self.send_to_pool(aio, op, buffer)),
        }
    }

    fn send_to_ring(
        &self,
        queue: &IoQueue,
        requests: &Requests,
        op: Op,
        mut buffer: Vec<u8>,
    ) -> Result<Reply, (Error, Vec<u8>)> {
        let entry = entry(op, &self.0.file, &mut buffer);
        let reply = Reply::new(Once::new());
        let user = requests.put(InFlight {
            buffer,
            _file: Arc::clone(&self.0.file),
            reply: Arc::clone(&reply),
        });
        // SAFETY: the table owns the buffer, which does not move, and the file (invariants 1 and 2).
        let push = |batch: &mut IoBatch<'_>| unsafe { batch.push(user as u64, entry) };
        match queue.batch(push).flatten() {
            Ok(()) => Ok(reply),
            Err(error) => {
                let taken = requests.take(user);
                Err((error, taken.map_or_else(Vec::new, |request| request.buffer)))
            }
        }
    }

    fn send_to_pool(&self, aio: &AioContext, op: Op, mut buffer: Vec<u8>) -> Reply {
        let reply = Reply::new(Once::new());
        let (told, file) = (Arc::clone(&reply), Arc::clone(&self.0.file));
        let work = move || {
            let result = match op {
                Op::Read(offset) => file.read_at(&mut buffer, offset),
                Op::Write(offset) => file.write_at(&buffer, offset),
                Op::Sync => file.sync_all().map(|()| 0),
            };
            (number(result), buffer)
        };
        aio.submit(work, move |done| {
            told.set(done.unwrap_or_else(|error| (-error.errno(), Vec::new())));
        });
        reply
    }
}

/// What a system call would have answered.
fn number(result: io::Result<usize>) -> i32 {
    match result {
        Ok(count) => i32::try_from(count).unwrap_or(i32::MAX),
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}

fn entry(op: Op, file: &File, buffer: &mut [u8]) -> squeue::Entry {
    let fd = types::Fd(file.as_raw_fd());
    let length = u32::try_from(buffer.len()).map_or(LENGTH_MAX, |length| length.min(LENGTH_MAX));
    match op {
        Op::Read(offset) => opcode::Read::new(fd, buffer.as_mut_ptr(), length)
            .offset(offset)
            .build(),
        Op::Write(offset) => opcode::Write::new(fd, buffer.as_ptr(), length)
            .offset(offset)
            .build(),
        Op::Sync => opcode::Fsync::new(fd).build(),
    }
}

impl Future for FileRequest {
    /// The number of bytes moved, and the buffer.
    type Output = (Result<usize>, Vec<u8>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::New(op, buffer) = &mut self.stage {
            let (op, buffer) = (*op, mem::take(buffer));
            match self.file.send(op, buffer) {
                Ok(reply) => self.stage = Stage::Sent(reply),
                Err((error, buffer)) => return Poll::Ready((Err(error), buffer)),
            }
        }
        let Stage::Sent(reply) = &self.stage else {
            return Poll::Pending;
        };
        reply.poll(context).map(|(result, buffer)| {
            let count = usize::try_from(result).map_err(|_| {
                let error = io::Error::from_raw_os_error(result.saturating_neg());
                Error::os("a request to a file failed", error)
            });
            (count, buffer)
        })
    }
}

impl Requests {
    fn put(&self, request: InFlight) -> usize {
        let mut table = lock(&self.0);
        let free = table.iter().position(Option::is_none);
        let index = free.unwrap_or(table.len());
        match table.get_mut(index) {
            Some(place) => *place = Some(request),
            None => table.push(Some(request)),
        }
        index
    }

    fn take(&self, index: usize) -> Option<InFlight> {
        lock(&self.0).get_mut(index).and_then(Option::take)
    }
}

impl IoSink for Requests {
    fn complete(&self, completions: &[IoCompletion]) {
        for completion in completions {
            let user = usize::try_from(completion.user).unwrap_or(usize::MAX);
            if let Some(request) = self.take(user) {
                request.reply.set((completion.result, request.buffer));
            }
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let left = mem::take(&mut *lock(&self.0));
        for request in left.into_iter().flatten() {
            // Invariant 2.
            mem::forget(request.buffer);
        }
    }
}

#[cfg(test)]
mod tests;
