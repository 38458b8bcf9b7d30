//! A connection of the NBD server, as tasks read and write it.
//!
//! # Threads
//! The home of its AioContext.
//!
//! # Invariants
//! 1. The fd is watched for reading from the first wait on, and not while it is readable and no task waits: so a client whose
//!    requests are not read costs no iterations. It is watched for writing only while a task waits for that.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use gsource::{AioContext, FdHandler};
use rustls::ServerConfig;

use crate::nbd::stream::NbdStream;

/// What one read takes at most. Under TLS it goes on while the socket has something.
const READ_MAX: usize = 256 << 10;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct NbdSocket {
    /// Absent once it was taken out.
    stream: Option<NbdStream>,
    aio: AioContext,
    watch: Arc<SocketWatch>,
}

/// What the handler of the fd shares with the tasks.
#[derive(Debug, Default)]
struct SocketWatch {
    may_read: AtomicBool,
    may_write: AtomicBool,
    state: Mutex<WatchState>,
}

#[derive(Debug, Default)]
struct WatchState {
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// What the fd is watched for.
    reads: bool,
    writes: bool,
}

impl NbdSocket {
    pub(super) fn new(stream: NbdStream, aio: &AioContext) -> NbdSocket {
        let watch = SocketWatch::default();
        watch.may_read.store(true, Ordering::Relaxed);
        watch.may_write.store(true, Ordering::Relaxed);
        NbdSocket {
            stream: Some(stream),
            aio: aio.clone(),
            watch: Arc::new(watch),
        }
    }

    /// The stream, for another AioContext.
    pub(super) fn into_stream(mut self) -> Option<NbdStream> {
        let stream = self.stream.take()?;
        self.aio.remove_fd_handler(stream.as_raw_fd());
        Some(stream)
    }

    /// Goes on under TLS, when the client has shown who it is.
    ///
    /// # Errors
    /// The client is not trusted, or the connection is lost.
    pub(super) async fn accept_tls(&mut self, config: &Arc<ServerConfig>) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stream.accept_tls(config)?;
        poll_fn(|context| self.poll_handshake(context)).await?;
        // Data may have come with the end of the handshake.
        self.watch.may_read.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn poll_handshake(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        match stream.shake_hands() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return Poll::Ready(outcome),
        }
        let has_unsent = stream.has_unsent();
        self.wait(|state| {
            state.reader = Some(context.waker().clone());
            !mem::replace(&mut state.reads, true)
        })?;
        if has_unsent {
            self.wait_to_write(context)?;
        }
        Poll::Pending
    }

    /// Reads what is there, at least a byte. 0 is the end; it is found again by each later read.
    pub(super) fn poll_read(
        &mut self,
        context: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let len = buffer.len().min(READ_MAX);
        let buffer = &mut buffer[..len];
        while self.watch.may_read.load(Ordering::Relaxed) {
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch.may_read.store(false, Ordering::Relaxed);
                }
                result => {
                    // A stream gives what it has, so the socket has no more if the buffer is not full.
                    let is_full = result.as_ref().is_ok_and(|count| *count == buffer.len());
                    let is_full = is_full || stream.has_more();
                    let is_over = !matches!(result, Ok(1..));
                    self.watch
                        .may_read
                        .store(is_full || is_over, Ordering::Relaxed);
                    return Poll::Ready(result);
                }
            }
        }
        self.wait(|state| {
            state.reader = Some(context.waker().clone());
            !mem::replace(&mut state.reads, true)
        })?;
        Poll::Pending
    }

    /// Writes what the socket takes, at least a byte.
    pub(super) fn poll_write(
        &mut self,
        context: &Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        while self.watch.may_write.load(Ordering::Relaxed) {
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            match stream.write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch.may_write.store(false, Ordering::Relaxed);
                }
                result => return Poll::Ready(result),
            }
        }
        self.wait_to_write(context)?;
        Poll::Pending
    }

    /// Gives the socket what TLS has kept back.
    pub(super) fn poll_flush(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        while self.has_unsent() {
            if !self.watch.may_write.load(Ordering::Relaxed) {
                self.wait_to_write(context)?;
                return Poll::Pending;
            }
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let is_full = stream.flush()?;
            self.watch.may_write.store(!is_full, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether TLS has kept bytes back.
    pub(super) fn has_unsent(&self) -> bool {
        self.stream.as_ref().is_some_and(NbdStream::has_unsent)
    }

    fn wait_to_write(&self, context: &Context<'_>) -> io::Result<()> {
        self.wait(|state| {
            state.writer = Some(context.waker().clone());
            !mem::replace(&mut state.writes, true)
        })
    }

    /// Reads until the buffer is full.
    ///
    /// # Errors
    /// `UnexpectedEof` if the connection ends before; the kernel's.
    pub(super) async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match poll_fn(|context| self.poll_read(context, &mut buffer[filled..])).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let slices = [IoSlice::new(bytes)];
            let count = poll_fn(|context| self.poll_write(context, &slices)).await?;
            bytes = &bytes[count..];
        }
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// Notes what is waited for. Watches the fd for that, if `note` says that it is not yet.
    fn wait(&self, note: impl FnOnce(&mut WatchState) -> bool) -> io::Result<()> {
        let mut state = self.watch.state();
        match (note(&mut state), &self.stream) {
            (true, Some(stream)) => rewatch(&self.aio, stream.as_raw_fd(), &state, &self.watch),
            _ => Ok(()),
        }
    }
}

/// Watches the fd for what `state` says.
fn rewatch(
    aio: &AioContext,
    fd: i32,
    state: &WatchState,
    watch: &Arc<SocketWatch>,
) -> io::Result<()> {
    let mut handler = FdHandler::new();
    if state.reads {
        let (watch, aio) = (Arc::clone(watch), aio.clone());
        handler = handler.on_read(move || readable(&watch, &aio, fd));
    }
    if state.writes {
        let (watch, aio) = (Arc::clone(watch), aio.clone());
        handler = handler.on_write(move || writable(&watch, &aio, fd));
    }
    aio.set_fd_handler(fd, handler)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// The fd can be read. If no task waits, it is watched no more.
fn readable(watch: &Arc<SocketWatch>, aio: &AioContext, fd: i32) {
    watch.may_read.store(true, Ordering::Relaxed);
    let mut state = watch.state();
    let reader = state.reader.take();
    if reader.is_none() {
        state.reads = false;
        // To watch for less cannot fail for want of anything.
        let _ = rewatch(aio, fd, &state, watch);
    }
    drop(state);
    reader.into_iter().for_each(Waker::wake);
}

fn writable(watch: &Arc<SocketWatch>, aio: &AioContext, fd: i32) {
    watch.may_write.store(true, Ordering::Relaxed);
    let mut state = watch.state();
    let writer = state.writer.take();
    state.writes = false;
    // To watch for less cannot fail for want of anything.
    let _ = rewatch(aio, fd, &state, watch);
    drop(state);
    writer.into_iter().for_each(Waker::wake);
}

impl SocketWatch {
    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NbdSocket {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.close();
            self.aio.remove_fd_handler(stream.as_raw_fd());
        }
    }
}

#[cfg(test)]
mod tests;
