//! The host's end of the serial console, on `qcontext-main`.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Clock, FdHandler, Timer};

use super::backend::{Backend, ConsoleFd, Written};
use super::terminal::Terminal;
use super::{BURST, Interrupt, OUTPUT, Wire};
use crate::{QContext, Result};

/// How much is read or written by one call.
const CHUNK: usize = 4096;
/// When writing is tried again after no worker was to be had.
const RETRY_NS: i64 = 10_000_000;

/// The host's end. Dropping it gives a terminal back as it was.
#[derive(Debug)]
pub struct Console(Arc<ConsoleCore>);

struct ConsoleCore {
    wire: Arc<Wire>,
    backend: Backend,
    aio: AioContext,
    context: QContext,
    /// Of the machine that is there. No vcpu takes these locks.
    interrupt: Mutex<Option<Interrupt>>,
    state: Mutex<ConsoleState>,
    /// Tries to write again.
    retry: Timer,
    _terminal: Option<Terminal>,
}

/// What the host's end is waiting for.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts")]
struct ConsoleState {
    /// The input fd is watched.
    reading: bool,
    /// There is no more input.
    at_end: bool,
    /// The output fd is watched, because it did not take everything, or a worker writes.
    writing: bool,
    /// Nobody reads the output any more.
    hung_up: bool,
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
        let (wire, aio) = (Arc::new(Wire::new()?), AioContext::new()?);
        let shared = Arc::new_cyclic(|there| {
            let there = Weak::clone(there);
            let retry = aio.timer(Clock::Realtime, move || with(&there, ConsoleCore::write));
            ConsoleCore {
                wire,
                backend,
                aio,
                context: context.clone(),
                interrupt: Mutex::default(),
                state: Mutex::default(),
                retry,
                _terminal: terminal,
            }
        });
        let there = Arc::downgrade(&shared);
        let woken = FdHandler::new().on_read(move || with(&there, ConsoleCore::woken));
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
        let old = lock(&self.0.interrupt).replace(Arc::clone(interrupt));
        // Dropped without the lock: it may be the last user of the machine before.
        drop(old);
        Arc::clone(wire)
    }

    /// How many bytes that guests have sent are not out yet; none if they cannot get out.
    pub fn unsent(&self) -> usize {
        let hung_up = lock(&self.0.state).hung_up;
        if hung_up { 0 } else { self.0.wire.output.len() }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.0.context.detach(&self.0.aio);
    }
}

impl std::fmt::Debug for ConsoleCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleCore")
            .field("wire", &self.wire)
            .field("backend", &self.backend)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

fn with(shared: &Weak<ConsoleCore>, action: impl FnOnce(&Arc<ConsoleCore>)) {
    if let Some(shared) = shared.upgrade() {
        action(&shared);
    }
}

impl ConsoleCore {
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
        let readable = FdHandler::new().on_read(move || with(&there, ConsoleCore::read));
        let watched = self.aio.set_fd_handler(input.fd(), readable);
        watched.inspect_err(|_| lock(&self.state).reading = false)
    }

    fn unwatch_input(&self, input: &ConsoleFd, at_end: bool) {
        {
            let mut state = lock(&self.state);
            state.reading = false;
            state.at_end = at_end;
        }
        self.aio.remove_fd_handler(input.fd());
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
        match input.read(&mut bytes[..room]) {
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
        let output = &self.backend.output;
        for _ in 0..OUTPUT / CHUNK {
            let count = self.wire.output.peek(&mut bytes);
            if count == 0 {
                return self.watch_output(false);
            }
            let hung_up = lock(&self.state).hung_up;
            let outcome = match hung_up {
                true => Written::Some(count),
                false if output.may_wait() => return self.write_elsewhere(bytes, count),
                false => output.write(&bytes[..count]),
            };
            match outcome {
                Written::Some(_) | Written::Failed => self.written(&outcome),
                Written::Nothing => return self.watch_output(true),
            }
        }
        self.watch_output(true);
    }

    /// Lets a worker write, and goes on when it has done so.
    fn write_elsewhere(self: &Arc<Self>, bytes: [u8; CHUNK], count: usize) {
        lock(&self.state).writing = true;
        let (output, there) = (self.backend.output.share(), Arc::downgrade(self));
        self.aio.submit(
            move || output.write_patiently(&bytes[..count]),
            move |outcome| {
                with(&there, |this| {
                    lock(&this.state).writing = false;
                    match outcome {
                        Ok(outcome) => {
                            this.written(&outcome);
                            this.write();
                        }
                        // No worker is to be had just now.
                        Err(_) => this.retry.arm_in_ns(RETRY_NS),
                    }
                });
            },
        );
    }

    fn written(&self, outcome: &Written) {
        match outcome {
            Written::Some(count) => self.wire.output.drop_first(*count),
            Written::Nothing => {}
            Written::Failed => lock(&self.state).hung_up = true,
        }
        self.tell_room();
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
        let fd = self.backend.output.fd();
        if !wanted && watched {
            self.aio.remove_fd_handler(fd);
        }
        if wanted && !watched {
            let there = Arc::downgrade(self);
            let writable = FdHandler::new().on_write(move || with(&there, ConsoleCore::write));
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
