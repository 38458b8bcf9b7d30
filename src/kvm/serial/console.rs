//! The host's side of the serial console, on `qcontext-main`.
//!
//! While the process is in the background of its terminal, the input is not watched and the terminal's mode is left alone. Nothing
//! tells a process that it is in the foreground again, except SIGCONT if it was stopped. So a timer looks at it.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Clock, FdHandler, Timer};

use super::backend::{Backend, ConsoleFd, Written};
use super::terminal::Terminal;
use super::{BURST, Interrupt, OUTPUT, SerialLink};
use crate::{QContext, Result};

/// How many bytes one call reads or writes.
const CHUNK: usize = 4096;
/// The time until the next attempt to write when no worker could be started.
const RETRY_NS: i64 = 10_000_000;

/// How often a console in the background looks whether it is in the foreground again.
const FOREGROUND_NS: i64 = 250_000_000;

/// The host's side; see the module. Dropping it restores the mode of a terminal.
#[derive(Debug)]
pub struct Console(Arc<ConsoleCore>);

struct ConsoleCore {
    link: Arc<SerialLink>,
    backend: Backend,
    aio: AioContext,
    context: QContext,
    /// Of the current machine. No vcpu takes these locks.
    interrupt: Mutex<Option<Interrupt>>,
    state: Mutex<ConsoleState>,
    /// Writes again when it fires.
    retry: Timer,
    /// Takes the terminal, if it can be taken, when it fires.
    return_timer: Timer,
    terminal: Option<Terminal>,
}

/// Lets a program that a shell stops and continues give the console's terminal back, and take it again.
#[derive(Clone, Debug)]
pub struct JobControl(Weak<ConsoleCore>);

impl JobControl {
    /// Restores the terminal's mode; for the time before the process stops.
    pub fn suspend(&self) {
        with(&self.0, |core| {
            core.terminal.iter().for_each(Terminal::leave);
        });
    }

    /// Takes the terminal: now, or when the process is in its foreground. For a process that continues.
    pub fn resume(&self) {
        with(&self.0, ConsoleCore::take_terminal);
    }
}

/// What the host's side is waiting for.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "five independent facts")]
struct ConsoleState {
    /// The input fd is watched.
    reading: bool,
    /// There is no more input.
    at_end: bool,
    /// Another process group has the terminal.
    away: bool,
    /// The output fd is watched because it has not taken all data, or a worker writes.
    writing: bool,
    /// The output takes no data any more.
    hung_up: bool,
}

impl Console {
    /// A console that is connected to `backend` and runs on `context`, which should be `qcontext-main`.
    ///
    /// # Errors
    /// `Os` if an fd cannot be watched.
    pub fn new(backend: Backend, context: &QContext) -> Result<Console> {
        let terminal = match &backend.input {
            Some(input) => Terminal::new(input.as_fd())?,
            None => None,
        };
        let (link, aio) = (Arc::new(SerialLink::new()?), AioContext::new()?);
        let shared = Arc::new_cyclic(|weak| {
            let [writes, returns] = [(); 2].map(|()| Weak::clone(weak));
            let retry = aio.timer(Clock::Realtime, move || with(&writes, ConsoleCore::write));
            let return_timer = aio.timer(Clock::Realtime, move || {
                with(&returns, ConsoleCore::take_terminal);
            });
            ConsoleCore {
                link,
                backend,
                aio,
                context: context.clone(),
                interrupt: Mutex::default(),
                state: Mutex::default(),
                retry,
                return_timer,
                terminal,
            }
        });
        let weak = Arc::downgrade(&shared);
        let woken = FdHandler::new().on_read(move || with(&weak, ConsoleCore::woken));
        shared
            .aio
            .set_fd_handler(shared.link.wake.as_raw_fd(), woken)?;
        shared.watch_input()?;
        context.attach(&shared.aio, Some("serial"))?;
        shared.take_terminal();
        Ok(Console(shared))
    }

    /// For the program's job control, if the console has a terminal.
    pub fn job_control(&self) -> Option<JobControl> {
        let has_terminal = self.0.terminal.is_some();
        has_terminal.then(|| JobControl(Arc::downgrade(&self.0)))
    }

    /// Connects the device of a new machine.
    pub(super) fn connect(&self, interrupt: &Interrupt) -> Arc<SerialLink> {
        let link = &self.0.link;
        link.reset();
        let old = lock(&self.0.interrupt).replace(Arc::clone(interrupt));
        // Dropped without the lock: it may be the last user of the earlier machine.
        drop(old);
        Arc::clone(link)
    }

    /// How many bytes of output are still to be written; 0 if the output takes no data any more.
    pub fn unsent(&self) -> usize {
        let hung_up = lock(&self.0.state).hung_up;
        if hung_up { 0 } else { self.0.link.output.len() }
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
            .field("link", &self.link)
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
    /// The device has output, or room for input.
    fn woken(self: &Arc<Self>) {
        self.link.wake.take();
        self.link.wake_pending.store(false, SeqCst);
        if !lock(&self.state).writing {
            self.write();
        }
        // Does not fail: the fd has been watched before.
        let _ = self.watch_input();
    }

    fn watch_input(self: &Arc<Self>) -> Result<()> {
        let Some(input) = &self.backend.input else {
            return Ok(());
        };
        {
            let mut state = lock(&self.state);
            if state.reading || state.at_end || state.away {
                return Ok(());
            }
            state.reading = true;
        }
        let weak = Arc::downgrade(self);
        let readable = FdHandler::new().on_read(move || with(&weak, ConsoleCore::read));
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

    /// Sets raw mode and reads the input, if this process is in the foreground of its terminal. Looks again later if it is not.
    fn take_terminal(self: &Arc<Self>) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        if !terminal.is_ours() {
            return self.give_way();
        }
        terminal.enter();
        lock(&self.state).away = false;
        // Does not fail: the fd has been watched before.
        let _ = self.watch_input();
    }

    /// Leaves the terminal to the process group in its foreground.
    fn give_way(&self) {
        let was_reading = {
            let mut state = lock(&self.state);
            state.away = true;
            std::mem::replace(&mut state.reading, false)
        };
        if let (Some(input), true) = (&self.backend.input, was_reading) {
            self.aio.remove_fd_handler(input.fd());
        }
        self.return_timer.arm_in_ns(FOREGROUND_NS);
    }

    fn is_foreground(&self) -> bool {
        self.terminal.as_ref().is_none_or(Terminal::is_ours)
    }

    /// There is input.
    fn read(self: &Arc<Self>) {
        let (link, Some(input)) = (&self.link, &self.backend.input) else {
            return;
        };
        let mut bytes = [0; CHUNK];
        let room = link.input.room().min(bytes.len());
        if room == 0 {
            self.unwatch_input(input, false);
            link.has_more_input.store(true, SeqCst);
            // Invariant 2 of the module: the device may have made room before it saw the flag.
            if link.input.room() > 0 && link.has_more_input.swap(false, SeqCst) {
                let _ = self.watch_input();
            }
            return;
        }
        match input.read(&mut bytes[..room]) {
            Some(0) if !self.is_foreground() => self.give_way(),
            Some(0) => self.unwatch_input(input, true),
            Some(count) => {
                link.input.put(&bytes[..count]);
                if link.wants_input.load(SeqCst) {
                    self.interrupt();
                }
            }
            None => {}
        }
    }

    /// Writes the output until the fd takes no more. Writes at most one queue's size, so that a guest that keeps sending does not
    /// starve other handlers of the context.
    fn write(self: &Arc<Self>) {
        let mut bytes = [0; CHUNK];
        let output = &self.backend.output;
        for _ in 0..OUTPUT / CHUNK {
            let count = self.link.output.peek(&mut bytes);
            if count == 0 {
                return self.watch_output(false);
            }
            let hung_up = lock(&self.state).hung_up;
            let outcome = match hung_up {
                true => Written::Some(count),
                false if output.may_block() => return self.write_by_worker(bytes, count),
                false => output.write(&bytes[..count]),
            };
            match outcome {
                Written::Some(_) | Written::Failed(_) => self.written(&outcome),
                Written::Nothing => return self.watch_output(true),
            }
        }
        self.watch_output(true);
    }

    /// Makes a worker write a chunk, and continues when it has.
    fn write_by_worker(self: &Arc<Self>, bytes: [u8; CHUNK], count: usize) {
        lock(&self.state).writing = true;
        let (output, weak) = (self.backend.output.share(), Arc::downgrade(self));
        self.aio.submit(
            move || output.write_blocking(&bytes[..count]),
            move |outcome| {
                with(&weak, |this| {
                    lock(&this.state).writing = false;
                    match outcome {
                        Ok(outcome) => {
                            this.written(&outcome);
                            this.write();
                        }
                        // No worker could be started.
                        Err(_) => this.retry.arm_in_ns(RETRY_NS),
                    }
                });
            },
        );
    }

    fn written(&self, outcome: &Written) {
        match outcome {
            Written::Some(count) => self.link.output.drop_first(*count),
            Written::Nothing => {}
            Written::Failed(errno) => self.hang_up(&io::Error::from_raw_os_error(*errno)),
        }
        self.tell_room();
    }

    /// Drops the output from now on. The guest does not notice, so it is said here; not of a reader that has left.
    fn hang_up(&self, error: &io::Error) {
        lock(&self.state).hung_up = true;
        if error.raw_os_error() != Some(libc::EPIPE) {
            glib::g_message!(
                "qcontext",
                "serial console: output is dropped from now on: {error}"
            );
        }
    }

    /// Interrupts a driver that waits for the transmitter, if there is room.
    fn tell_room(&self) {
        if self.link.output.room() >= BURST && self.link.seen_busy.swap(false, SeqCst) {
            self.link.now_ready.store(true, SeqCst);
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
            let weak = Arc::downgrade(self);
            let writable = FdHandler::new().on_write(move || with(&weak, ConsoleCore::write));
            if let Err(error) = self.aio.set_fd_handler(fd, writable) {
                lock(&self.state).writing = false;
                self.hang_up(&io::Error::from_raw_os_error(error.errno()));
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

/// Locks a mutex. A panic of a holder leaves the data consistent, because no callback runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
