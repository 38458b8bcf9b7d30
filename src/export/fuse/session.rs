//! The connection to the kernel: takes requests, carries them out as tasks, answers them.
//!
//! What needs no node is answered at once. Everything else is a task, so requests do not wait for each other. At most
//! [`IN_FLIGHT_MAX`] run; the kernel keeps the rest.
//!
//! The end: the mount is taken away while requests are still answered, because that can write back what programs have changed in
//! their memory. Then nothing more is read from the connection, and when the last task has answered the session is quiet.
//!
//! # Threads
//! The home of the AioContext, but for the start.
//!
//! # Invariants
//! 1. Each request that was started is answered once, also if its task is dropped.
//! 2. The lock is not held while a message is read or written, or while code of other modules runs.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fuse_abi::linux::{
    FATTR_SIZE, FOPEN_NOFLUSH, fuse_kstatfs, fuse_lseek_out, fuse_open_out, fuse_setattr_in,
    fuse_statfs_out, fuse_write_out,
};
use gsource::{AioContext, FdHandler};

use super::attributes::Attributes;
use super::content::FuseContent;
use super::greeting;
use super::message::{
    FuseOp, FuseReply, FuseRequest, Garbled, HEAD_LEN, IN_FLIGHT_MAX, TRANSFER_MAX, decode,
};
use super::mount::Mounted;
use crate::Result;
use crate::block::IoBuffer;

/// How many messages are taken before others on the context have their turn.
const MESSAGES_PER_TURN: usize = 16;
/// How many buffers are kept for later.
const BUFFERS_KEPT: usize = 4;

type Callback = Box<dyn FnOnce() + Send>;

/// See the head of this file.
pub(super) struct FuseSession {
    aio: AioContext,
    device: File,
    content: FuseContent,
    state: Mutex<FuseState>,
    this: Weak<FuseSession>,
}

struct FuseState {
    attributes: Attributes,
    /// `None` when it is gone.
    mounted: Option<Mounted>,
    in_flight: u16,
    buffers: Vec<IoBuffer>,
    /// How files are opened, as agreed upon with the kernel.
    open_flags: u32,
    is_stopped: bool,
    /// Called when no request is in flight after the stop.
    on_quiet: Option<Callback>,
}

impl FuseSession {
    /// Serves the file `content`, which is mounted, through the connection to the kernel in the callbacks of `aio`.
    ///
    /// # Errors
    /// `Os` if the connection cannot be watched.
    pub(super) fn start(
        aio: &AioContext,
        mount: (Mounted, File),
        content: FuseContent,
        attributes: Attributes,
    ) -> Result<Arc<FuseSession>> {
        let (mounted, device) = mount;
        let session = Arc::new_cyclic(|this| FuseSession {
            aio: aio.clone(),
            device,
            content,
            state: Mutex::new(FuseState {
                attributes,
                mounted: Some(mounted),
                in_flight: 0,
                buffers: Vec::new(),
                open_flags: 0,
                is_stopped: false,
                on_quiet: None,
            }),
            this: Weak::clone(this),
        });
        session.watch().inspect_err(|_| {
            let refused = session.state().mounted.take();
            let _ = refused.map(|refused| refused.unmount());
        })?;
        Ok(session)
    }

    fn watch(&self) -> Result<()> {
        let [reader, question] = [(); 2].map(|()| self.this.clone());
        let handler = FdHandler::new()
            .on_read(move || reader.upgrade().iter().for_each(|this| this.receive()))
            .read_poll(move || question.upgrade().is_some_and(|this| this.may_receive()));
        self.aio.add_fd_handler(self.device.as_raw_fd(), handler)
    }

    /// Takes the mount away in the pool, then calls `done`. On the home.
    pub(super) fn unmount(&self, done: impl FnOnce() + Send + 'static) {
        let Some(mounted) = self.state().mounted.take() else {
            return done();
        };
        let work = move || mounted.unmount();
        self.aio.submit(work, move |outcome| {
            if let Ok(Err(error)) = outcome {
                glib::g_warning!("qcontext", "cannot unmount a FUSE export: {error}");
            }
            done();
        });
    }

    /// Takes no more requests, and calls `on_quiet` when those in flight are answered. On the home.
    pub(super) fn stop(&self, on_quiet: impl FnOnce() + Send + 'static) {
        self.aio.remove_fd_handler(self.device.as_raw_fd());
        self.content.hurry();
        let mut state = self.state();
        state.is_stopped = true;
        state.on_quiet = Some(Box::new(on_quiet));
        drop(state);
        self.check_quiet();
    }

    /// What the file has.
    pub(super) fn content(&self) -> &FuseContent {
        &self.content
    }

    fn check_quiet(&self) {
        let mut state = self.state();
        let is_quiet = state.is_stopped && state.in_flight == 0;
        let callback = state.on_quiet.take_if(|_| is_quiet);
        drop(state);
        if let Some(callback) = callback {
            // In an iteration of its own: the last task may be ending.
            self.aio.schedule_oneshot("fuse-quiet", callback);
        }
    }

    fn may_receive(&self) -> bool {
        let state = self.state();
        !state.is_stopped && state.in_flight < IN_FLIGHT_MAX
    }

    /// Takes messages from the kernel until there are no more, or others should have their turn.
    fn receive(&self) {
        for _ in 0..MESSAGES_PER_TURN {
            if !self.may_receive() {
                return;
            }
            let mut head = [0; HEAD_LEN];
            let mut buffer = self.take_buffer();
            buffer.set_len(TRANSFER_MAX);
            let parts = &mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut buffer)];
            match (&self.device).read_vectored(parts) {
                Ok(len) => self.take(decode(&head, &buffer, len), buffer),
                Err(error) => {
                    self.keep_buffer(buffer);
                    match error.raw_os_error() {
                        // ENOENT: the program that asked was killed meanwhile.
                        Some(libc::EINTR | libc::ENOENT) => {}
                        Some(libc::EAGAIN) => return,
                        _ => return self.lose(&error),
                    }
                }
            }
        }
    }

    /// Another process has taken the mount away, and no program has the file open any more.
    fn lose(&self, error: &io::Error) {
        if error.raw_os_error() != Some(libc::ENODEV) {
            glib::g_warning!("qcontext", "cannot read from the kernel's FUSE: {error}");
        }
        self.aio.remove_fd_handler(self.device.as_raw_fd());
        let mounted = self.state().mounted.take();
        drop(mounted);
    }

    fn take(&self, decoded: std::result::Result<FuseRequest, Garbled>, buffer: IoBuffer) {
        let FuseRequest { unique, thread, op } = match decoded {
            Ok(request) => request,
            Err(Garbled(unique)) => {
                self.keep_buffer(buffer);
                return unique
                    .into_iter()
                    .for_each(|unique| self.send(FuseReply::status(unique, libc::EINVAL), &[]));
            }
        };
        let answer = match op {
            FuseOp::Forget => None,
            FuseOp::Init(init) => {
                let (answer, open_flags) = greeting::answer(unique, &init);
                self.state().open_flags = open_flags;
                Some(answer)
            }
            FuseOp::Lookup => Some(FuseReply::status(unique, libc::ENOENT)),
            FuseOp::Open => Some(FuseReply::of(unique, &self.opened(thread))),
            FuseOp::Statfs => Some(FuseReply::of(unique, &statfs())),
            FuseOp::Release | FuseOp::Destroy => Some(FuseReply::status(unique, 0)),
            FuseOp::Unknown(_) => Some(FuseReply::status(unique, libc::ENOSYS)),
            op => return self.begin(unique, op, buffer),
        };
        self.keep_buffer(buffer);
        if let Some(answer) = answer {
            self.send(answer, &[]);
        }
    }

    /// The answer to a thread that opens the file.
    ///
    /// A `close` asks for a flush, so that what a program wrote is durable. But this process must not: when it is killed while
    /// it has the file open, its own connection is not closed yet, and the kernel would wait for the flush for ever.
    fn opened(&self, thread: u32) -> fuse_open_out {
        let is_own = Path::new(&format!("/proc/self/task/{thread}")).exists();
        let own_flags = if is_own { FOPEN_NOFLUSH } else { 0 };
        fuse_open_out {
            open_flags: self.state().open_flags | own_flags,
            ..fuse_open_out::default()
        }
    }

    /// Makes a task of a request.
    fn begin(&self, unique: u64, op: FuseOp, buffer: IoBuffer) {
        let Some(session) = self.this.upgrade() else {
            return;
        };
        self.state().in_flight += 1;
        let pending = Pending {
            session,
            unique: Some(unique),
        };
        let task = async move { carry_out(pending, op, buffer).await };
        // If there can be no task, the pending request is dropped here, which answers it.
        if let Ok(task) = self.aio.spawn_local(task) {
            task.detach();
        }
    }

    async fn set_attributes(&self, wanted: &fuse_setattr_in) -> std::result::Result<(), i32> {
        self.state().attributes.check(wanted)?;
        if wanted.valid & FATTR_SIZE != 0 {
            self.content.resize(wanted.size).await?;
        }
        self.state().attributes.change(wanted);
        Ok(())
    }

    /// Sends an answer and the data that belongs to it.
    fn send(&self, answer: FuseReply, data: &[u8]) {
        let unique = answer.unique();
        let head = answer.encode(data);
        let sent = (&self.device).write_vectored(&[IoSlice::new(&head), IoSlice::new(data)]);
        // ENOENT: the program that asked was killed. ENODEV: the mount is gone.
        let Some(errno) = sent.err().and_then(|error| error.raw_os_error()) else {
            return;
        };
        if errno != libc::ENOENT && errno != libc::ENODEV && !data.is_empty() {
            // The memory that is read into is not there, for example.
            self.send(FuseReply::status(unique, errno), &[]);
        }
    }

    fn take_buffer(&self) -> IoBuffer {
        let kept = self.state().buffers.pop();
        kept.unwrap_or_else(|| IoBuffer::zeroed(TRANSFER_MAX))
    }

    fn keep_buffer(&self, buffer: IoBuffer) {
        let mut state = self.state();
        let is_kept = state.buffers.len() < BUFFERS_KEPT && buffer.capacity() >= TRANSFER_MAX;
        let left = match is_kept {
            true => {
                state.buffers.push(buffer);
                None
            }
            false => Some(buffer),
        };
        drop(state);
        drop(left);
    }

    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, FuseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A started request without an answer. When it is dropped, the answer is an error.
struct Pending {
    session: Arc<FuseSession>,
    unique: Option<u64>,
}

impl Pending {
    fn answer(mut self, answer: impl FnOnce(u64) -> FuseReply, data: &[u8]) {
        if let Some(unique) = self.unique.take() {
            self.session.send(answer(unique), data);
        }
    }

    fn status(self, result: std::result::Result<(), i32>) {
        self.answer(
            |unique| FuseReply::status(unique, result.err().unwrap_or(0)),
            &[],
        );
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(unique) = self.unique.take() {
            self.session.send(FuseReply::status(unique, libc::EIO), &[]);
        }
        self.session.state().in_flight -= 1;
        self.session.check_quiet();
    }
}

/// Carries out a request and answers it.
async fn carry_out(pending: Pending, op: FuseOp, mut buffer: IoBuffer) {
    let session = Arc::clone(&pending.session);
    let content = &session.content;
    match op {
        FuseOp::Read { offset, size } => {
            let result;
            (result, buffer) = content.read(offset, size, buffer).await;
            match result {
                Ok(()) => pending.answer(FuseReply::success, &buffer),
                failed => pending.status(failed),
            }
        }
        FuseOp::Write { offset, size } => {
            buffer.set_len(usize::try_from(size).unwrap_or(0));
            let result;
            (result, buffer) = content.write(offset, buffer).await;
            match result {
                Ok(count) => pending.answer(|unique| FuseReply::of(unique, &written(count)), &[]),
                Err(errno) => pending.status(Err(errno)),
            }
        }
        FuseOp::Getattr => tell_attributes(pending).await,
        FuseOp::Setattr(wanted) => match session.set_attributes(&wanted).await {
            Ok(()) => tell_attributes(pending).await,
            failed => pending.status(failed),
        },
        FuseOp::Flush => pending.status(content.flush().await),
        FuseOp::Fallocate(wanted) => pending.status(content.allocate(wanted).await),
        FuseOp::Lseek { offset, whence } => match content.seek(offset, whence).await {
            Ok(offset) => {
                pending.answer(
                    |unique| FuseReply::of(unique, &fuse_lseek_out { offset }),
                    &[],
                );
            }
            Err(errno) => pending.status(Err(errno)),
        },
        // All others were answered at once.
        _ => pending.status(Err(libc::ENOSYS)),
    }
    session.keep_buffer(buffer);
}

async fn tell_attributes(pending: Pending) {
    let sizes = pending.session.content.sizes().await;
    let attributes = pending.session.state().attributes.answer(sizes);
    pending.answer(|unique| FuseReply::of(unique, &attributes), &[]);
}

fn written(size: u32) -> fuse_write_out {
    fuse_write_out { size, padding: 0 }
}

/// There is nothing to say about a file system of one file.
fn statfs() -> fuse_statfs_out {
    fuse_statfs_out {
        st: fuse_kstatfs {
            bsize: 512,
            namelen: 255,
            ..fuse_kstatfs::default()
        },
    }
}
