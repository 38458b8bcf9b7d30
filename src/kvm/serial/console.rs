//! The host's end of the serial console, on `qcontext-main`.
#![allow(unsafe_code)] // poll, and reading and writing fds that other processes share

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, FdHandler};

use super::terminal::Terminal;
use super::{BURST, Interrupt, OUTPUT, Wire};
use crate::{Error, QContext, Result};

/// A pipe that polls as writable takes at least this much without blocking.
const CHUNK: usize = 4096;

/// What the console is connected to.
#[derive(Debug)]
pub struct Backend {
    input: Option<OwnedFd>,
    output: OwnedFd,
}

impl Backend {
    /// Standard input and output.
    ///
    /// # Errors
    /// `Os` if they are closed.
    pub fn stdio() -> Result<Backend> {
        Ok(Backend {
            input: Some(duplicate(std::io::stdin().as_fd())?),
            output: duplicate(std::io::stdout().as_fd())?,
        })
    }

    /// A file, which gets the output; there is no input.
    ///
    /// # Errors
    /// `Os` if it cannot be made.
    pub fn file(path: &Path) -> Result<Backend> {
        let file = File::create(path)
            .map_err(|error| Error::os(format!("cannot write '{}'", path.display()), error))?;
        Ok(Backend {
            input: None,
            output: file.into(),
        })
    }

    #[cfg(test)]
    pub(super) fn fds(input: OwnedFd, output: OwnedFd) -> Backend {
        Backend {
            input: Some(input),
            output,
        }
    }
}

/// The host's end. Dropping it gives a terminal back as it was.
#[derive(Debug)]
pub struct Console(Arc<Shared>);

struct Shared {
    wire: Arc<Wire>,
    backend: Backend,
    aio: AioContext,
    context: QContext,
    /// Of the machine that is there. No vcpu takes these locks.
    interrupt: Mutex<Option<Interrupt>>,
    state: Mutex<State>,
    _terminal: Option<Terminal>,
}

/// What the host's end is waiting for.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts")]
struct State {
    /// The input fd is watched.
    reading: bool,
    /// There is no more input.
    at_end: bool,
    /// The output fd is watched, because it did not take everything.
    writing: bool,
    /// Nobody reads the output any more.
    hung_up: bool,
}

/// What came of writing.
enum Written {
    Some(usize),
    /// Later.
    Nothing,
    /// Never again.
    Failed,
}

impl Console {
    /// A console at `backend`, served by `context`, which should be `qcontext-main`.
    ///
    /// # Errors
    /// `Os` if an fd cannot be watched.
    pub fn new(backend: Backend, context: &QContext) -> Result<Console> {
        let terminal = match &backend.input {
            Some(input) => Terminal::raw(input.as_fd())?,
            None => None,
        };
        let shared = Arc::new(Shared {
            wire: Arc::new(Wire::new()?),
            backend,
            aio: AioContext::new()?,
            context: context.clone(),
            interrupt: Mutex::default(),
            state: Mutex::default(),
            _terminal: terminal,
        });
        let there = Arc::downgrade(&shared);
        let woken = FdHandler::new().on_read(move || with(&there, Shared::woken));
        shared
            .aio
            .set_fd_handler(shared.wire.wake.as_raw_fd(), woken)?;
        shared.watch_input()?;
        context.attach(&shared.aio, Some("serial"))?;
        Ok(Console(shared))
    }

    /// Connects a machine's device, in place of one that is gone.
    pub(super) fn connect(&self, interrupt: &Interrupt) -> Arc<Wire> {
        let wire = &self.0.wire;
        wire.reset();
        *lock(&self.0.interrupt) = Some(Arc::clone(interrupt));
        Arc::clone(wire)
    }

    /// Whether everything that guests have sent is out, or cannot get out.
    pub fn is_quiet(&self) -> bool {
        self.0.wire.output.is_empty() || lock(&self.0.state).hung_up
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.0.context.detach(&self.0.aio);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("wire", &self.wire)
            .field("backend", &self.backend)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

fn with(shared: &Weak<Shared>, action: impl FnOnce(&Arc<Shared>)) {
    if let Some(shared) = shared.upgrade() {
        action(&shared);
    }
}

impl Shared {
    /// The device has something for us, or room.
    fn woken(self: &Arc<Self>) {
        self.wire.wake.take();
        self.wire.told.store(false, SeqCst);
        if !lock(&self.state).writing {
            self.write();
        }
        // It was watched before, so it can be watched.
        let _ = self.watch_input();
    }

    fn watch_input(self: &Arc<Self>) -> Result<()> {
        let Some(input) = &self.backend.input else {
            return Ok(());
        };
        {
            let mut state = lock(&self.state);
            if state.reading || state.at_end {
                return Ok(());
            }
            state.reading = true;
        }
        let there = Arc::downgrade(self);
        let readable = FdHandler::new().on_read(move || with(&there, Shared::read));
        let watched = self.aio.set_fd_handler(input.as_raw_fd(), readable);
        watched.inspect_err(|_| lock(&self.state).reading = false)
    }

    fn unwatch_input(&self, input: &OwnedFd, at_end: bool) {
        {
            let mut state = lock(&self.state);
            state.reading = false;
            state.at_end = at_end;
        }
        self.aio.remove_fd_handler(input.as_raw_fd());
    }

    /// Somebody types.
    fn read(self: &Arc<Self>) {
        let (wire, Some(input)) = (&self.wire, &self.backend.input) else {
            return;
        };
        let mut bytes = [0; CHUNK];
        let room = wire.input.room().min(bytes.len());
        if room == 0 {
            self.unwatch_input(input, false);
            wire.starved.store(true, SeqCst);
            // Invariant 2 of the module: the device may have made room before it could see the flag.
            if wire.input.room() > 0 && wire.starved.swap(false, SeqCst) {
                let _ = self.watch_input();
            }
            return;
        }
        match read(input.as_fd(), &mut bytes[..room]) {
            Some(0) => self.unwatch_input(input, true),
            Some(count) => {
                wire.input.put(&bytes[..count]);
                if wire.receiving.load(SeqCst) {
                    self.interrupt();
                }
            }
            None => {}
        }
    }

    /// Brings out what there is, as far as the other side takes it at once. What a guest adds meanwhile has to wait: others
    /// on this context have a turn.
    fn write(self: &Arc<Self>) {
        let mut bytes = [0; CHUNK];
        for _ in 0..OUTPUT / CHUNK {
            let count = self.wire.output.peek(&mut bytes);
            if count == 0 {
                return self.watch_output(false);
            }
            let hung_up = lock(&self.state).hung_up;
            let outcome = match hung_up {
                true => Written::Some(count),
                false => write(self.backend.output.as_fd(), &bytes[..count]),
            };
            match outcome {
                Written::Some(written) => self.wire.output.drop_first(written),
                Written::Nothing => return self.watch_output(true),
                Written::Failed => lock(&self.state).hung_up = true,
            }
            self.tell_room();
        }
        self.watch_output(true);
    }

    /// Tells a driver that waits for the transmitter.
    fn tell_room(&self) {
        if self.wire.output.room() >= BURST && self.wire.busy.swap(false, SeqCst) {
            self.wire.ready.store(true, SeqCst);
            self.interrupt();
        }
    }

    fn watch_output(self: &Arc<Self>, wanted: bool) {
        let watched = std::mem::replace(&mut lock(&self.state).writing, wanted);
        let fd = self.backend.output.as_raw_fd();
        if !wanted && watched {
            self.aio.remove_fd_handler(fd);
        }
        if wanted && !watched {
            let there = Arc::downgrade(self);
            let writable = FdHandler::new().on_write(move || with(&there, Shared::write));
            if self.aio.set_fd_handler(fd, writable).is_err() {
                let mut state = lock(&self.state);
                (state.writing, state.hung_up) = (false, true);
            }
        }
    }

    fn interrupt(&self) {
        let interrupt = lock(&self.interrupt).clone();
        if let Some(interrupt) = interrupt {
            interrupt();
        }
    }
}

/// What these mutexes hold is consistent even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned()
        .map_err(|error| Error::os("cannot use standard input and output", error))
}

/// Reads what is there; none if nothing is, after all.
fn read(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> Option<usize> {
    // SAFETY: the buffer is valid for writes of its length.
    let count = unsafe { libc::read(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
    match usize::try_from(count) {
        Ok(count) => Some(count),
        Err(_) if is_temporary() => None,
        // EIO of a terminal that is gone: there is no more.
        Err(_) => Some(0),
    }
}

/// Writes only if that does not block. The fd's flags are not ours to change: a shell or a parent shares them.
fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Written {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one record, valid for the call.
    if unsafe { libc::poll(&raw mut poll, 1, 0) } == 0 {
        return Written::Nothing;
    }
    // SAFETY: the buffer is valid for reads of its length.
    let count = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    match usize::try_from(count) {
        Ok(count) => Written::Some(count),
        Err(_) if is_temporary() => Written::Nothing,
        Err(_) => Written::Failed,
    }
}

fn is_temporary() -> bool {
    let error = std::io::Error::last_os_error();
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}
