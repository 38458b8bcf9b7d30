//! Reading and writing a file as futures: by the io_uring of the home, or by its worker pool where the kernel has none.
//!
//! # Invariants
//! 1. A request in flight owns its buffer and a share of the file: in [`FileRequests`], which the ring keeps alive, or in its
//!    job. So both stay for the kernel, also if the future is dropped.
#![allow(unsafe_code)] // entries name the memory of buffers

use super::promise::Promise;
use crate::sync::Mutex;
use crate::sync::lock;
use crate::{
    AioContext, Error, FileCall, FileRequests, IoBatch, IoCompletion, IoMemory, IoQueue, IoSink,
    Result,
};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

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
type Reply = Arc<Promise<(i32, Vec<u8>)>>;

/// A request with its buffer, which belongs to it until it has completed.
#[derive(Debug)]
struct Buffered {
    op: Op,
    buffer: Vec<u8>,
    /// Describes the buffer.
    vector: [libc::iovec; 1],
}

// SAFETY: the vector is about memory of its own.
unsafe impl Send for Buffered {}

/// A request that the kernel has.
#[derive(Debug)]
struct InFlight {
    buffered: Buffered,
    reply: Reply,
}

/// The requests in flight.
#[derive(Debug)]
struct Requests(Mutex<FileRequests<File, InFlight>>);

/// A request to a file as a future; see [`AsyncFile::read_at`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct FileRequest {
    file: AsyncFile,
    stage: RequestStage,
}

#[derive(Debug)]
enum RequestStage {
    New(Op, Vec<u8>),
    Sent(Reply),
}

impl AioContext {
    /// Makes `file` one that tasks of this context can read and write.
    pub fn file(&self, file: impl Into<OwnedFd>) -> AsyncFile {
        let file = Arc::new(File::from(file.into()));
        let requests = Mutex::new(FileRequests::new(Arc::clone(&file)));
        let requests = Arc::new(Requests(requests));
        let sink: Arc<dyn IoSink> = Arc::<Requests>::clone(&requests);
        let way = match self.register_io(sink) {
            Ok(queue) => Way::Ring(queue, requests),
            Err(_) => Way::Pool(self.clone()),
        };
        AsyncFile::new(file, way)
    }
}

impl AsyncFile {
    fn new(file: Arc<File>, way: Way) -> AsyncFile {
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
            stage: RequestStage::New(op, buffer),
        }
    }

    /// Starts a request; when that fails, the buffer comes back at once.
    fn send(&self, op: Op, buffer: Vec<u8>) -> Result<Reply, (Error, Vec<u8>)> {
        match &self.0.way {
            Way::Ring(queue, requests) => requests.send(queue, op, buffer),
            Way::Pool(aio) => Ok(self.send_to_pool(aio, op, buffer)),
        }
    }

    fn send_to_pool(&self, aio: &AioContext, op: Op, buffer: Vec<u8>) -> Reply {
        let reply = Reply::new(Promise::new());
        let (promise, file) = (Arc::clone(&reply), Arc::clone(&self.0.file));
        let mut buffered = Buffered::new(op, buffer);
        let work = move || {
            let result = buffered.call().run(file.as_fd(), 0);
            (result, buffered.into_buffer())
        };
        aio.submit(work, move |done| {
            promise.set(done.unwrap_or_else(|error| (-error.errno(), Vec::new())));
        });
        reply
    }
}

impl Buffered {
    fn new(op: Op, mut buffer: Vec<u8>) -> Buffered {
        let vector = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        Buffered {
            op,
            buffer,
            vector: [vector],
        }
    }

    fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    fn call(&mut self) -> FileCall<'_> {
        // SAFETY: the vector describes the buffer, which nothing else uses while `self` is borrowed.
        let memory = unsafe { IoMemory::new(&self.vector) };
        match self.op {
            Op::Read(offset) => FileCall::Read(memory, offset),
            Op::Write(offset) => FileCall::Write(memory, offset),
            Op::Sync => FileCall::Sync,
        }
    }
}

impl Future for FileRequest {
    /// The number of bytes moved, and the buffer.
    type Output = (Result<usize>, Vec<u8>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let RequestStage::New(op, buffer) = &mut self.stage {
            let (op, buffer) = (*op, mem::take(buffer));
            match self.file.send(op, buffer) {
                Ok(reply) => self.stage = RequestStage::Sent(reply),
                Err((error, buffer)) => return Poll::Ready((Err(error), buffer)),
            }
        }
        let RequestStage::Sent(reply) = &self.stage else {
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
    fn send(&self, queue: &IoQueue, op: Op, buffer: Vec<u8>) -> Result<Reply, (Error, Vec<u8>)> {
        let reply = Reply::new(Promise::new());
        let mut request = Some(InFlight {
            buffered: Buffered::new(op, buffer),
            reply: Arc::clone(&reply),
        });
        let push = |batch: &mut IoBatch<'_>| {
            let mut table = lock(&self.0);
            let request = request.take()?;
            // SAFETY: the memory is the buffer's, which is part of the request.
            unsafe { table.push(batch, request, |_, request| request.buffered.call()) }.err()
        };
        let error = match queue.batch(push) {
            Ok(None) => return Ok(reply),
            Ok(Some((back, error))) => return Err((error, back.buffered.into_buffer())),
            Err(error) => error,
        };
        Err((
            error,
            request.map_or_else(Vec::new, |request| request.buffered.into_buffer()),
        ))
    }
}

impl IoSink for Requests {
    fn complete(&self, completions: &[IoCompletion]) {
        for completion in completions {
            let request = lock(&self.0).complete(*completion);
            if let Some(request) = request {
                let buffer = request.buffered.into_buffer();
                request.reply.set((completion.result, buffer));
            }
        }
    }
}

#[cfg(test)]
mod tests;
