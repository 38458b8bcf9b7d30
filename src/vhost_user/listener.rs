//! The socket of one device: bound at a path, serving one front end at a time.
//!
//! The listener accepts one connection. A second front end that connects meanwhile waits in the kernel's backlog; it is
//! accepted when the first one has gone and the device has finished its requests. So a front end that is restarted is served
//! even if it comes back before the end of its old connection was seen. A front end that waits longer than a moment is
//! reported, once for each connection that is served. When accepting fails because the process or the machine is out of fds, the listener
//! tries again a moment later.
//!
//! # Threads
//! Front ends are accepted and let go on the home thread of the control context; [`Listener`] may be used from any thread.
//!
//! # Invariants
//! 1. No callback of the owner runs while `state` is locked.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Clock, FdHandler, Timer};

use super::connection::{Connection, ConnectionOwner};
use super::session::OfferedDevice;
use crate::unix_socket::{ListeningSocket, SocketAccess};
use crate::virtio::fault::DeviceFault;
use crate::{Error, Result};

/// How long to wait before accepting again when there was no fd for another connection.
const RETRY_NS: i64 = 100_000_000;
/// How long a second front end waits before that is reported: a restarted one waits less.
const PATIENCE_NS: i64 = 1_000_000_000;

/// What a second front end waits for.
const SECOND_WAITS: &str =
    "another front end waits until the present one has disconnected and its requests are finished";

/// Called once, on the home thread, when a listener has shut down.
type DownCallback = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct ListenerState {
    connection: Option<Arc<Connection>>,
    /// Set by shutdown: no front end is accepted any more.
    down: bool,
    callbacks: Vec<DownCallback>,
}

/// What the callbacks of a listener share: the socket and the front end that is connected.
struct ListenerCore {
    socket: ListeningSocket,
    aio: AioContext,
    offered: OfferedDevice,
    retry: Timer,
    /// Armed while a second front end waits that was not reported.
    patience: Timer,
    this: Weak<ListenerCore>,
    state: Mutex<ListenerState>,
    connected: AtomicBool,
}

/// Offers one virtio device to vhost-user front ends.
///
/// [`Listener::shutdown`] lets requests in flight finish before the end; dropping the listener closes everything at once.
pub struct Listener {
    core: Arc<ListenerCore>,
}

impl Listener {
    /// Binds `path` and serves what is `offered`, called `name` in messages, in the callbacks of `aio`.
    ///
    /// A socket file without a listener is replaced.
    ///
    /// # Errors
    /// `Busy` if another process listens at `path`, `AlreadyExists` if something else than a socket is there; `Os` if it
    /// cannot be bound.
    pub fn new(
        name: &str,
        path: &Path,
        aio: &AioContext,
        offered: OfferedDevice,
    ) -> Result<Listener> {
        let socket = ListeningSocket::open(path, SocketAccess::Umask).map_err(|error| {
            let option = format!("vhost-user='{}'", path.display());
            error.describe(&format!("device '{name}': "), &option)
        })?;
        Listener::serve(socket, aio, offered)
    }

    /// Serves what is `offered` at a socket that listens already.
    ///
    /// # Errors
    /// `Os` if the socket cannot be watched.
    pub(crate) fn serve(
        socket: ListeningSocket,
        aio: &AioContext,
        offered: OfferedDevice,
    ) -> Result<Listener> {
        let core = Arc::new_cyclic(|this: &Weak<ListenerCore>| {
            let [retry, patience] = [(); 2].map(|()| this.clone());
            ListenerCore {
                socket,
                aio: aio.clone(),
                offered,
                retry: aio.timer(Clock::Realtime, move || with(&retry, ListenerCore::listen)),
                patience: aio.timer(Clock::Realtime, move || {
                    with(&patience, ListenerCore::report_waiting);
                }),
                this: this.clone(),
                state: Mutex::default(),
                connected: AtomicBool::new(false),
            }
        });
        let listener = Listener { core };
        listener.core.watch()?;
        Ok(listener)
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        self.core.socket.path()
    }

    /// True while a front end is connected.
    pub fn is_connected(&self) -> bool {
        self.core.connected.load(Ordering::Relaxed)
    }

    /// Removes the socket, ends the connection, lets the device finish what is in flight, and then calls `done` on the home
    /// thread.
    pub fn shutdown(&self, done: impl FnOnce() + Send + 'static) {
        let core = Arc::clone(&self.core);
        self.core
            .aio
            .schedule_oneshot("vhost-user-shutdown", move || {
                core.shut_down(Box::new(done));
            });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.core.stop_listening();
        let connection = {
            let mut state = self.core.state();
            state.down = true;
            state.connection.take()
        };
        drop(connection);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("path", &self.path())
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

impl ListenerCore {
    fn state(&self) -> MutexGuard<'_, ListenerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) -> Result<()> {
        let this = self.this.clone();
        let handler = FdHandler::new().on_read(move || with(&this, ListenerCore::accept));
        self.aio.set_fd_handler(self.socket.as_raw_fd(), handler)
    }

    /// Watches the socket again; tries later when that fails.
    fn listen(&self) {
        if self.state().down {
            return;
        }
        if let Err(error) = self.watch() {
            self.report(error.to_string());
            self.retry.arm_in_ns(RETRY_NS);
        }
    }

    fn stop_listening(&self) {
        self.retry.cancel();
        self.patience.cancel();
        self.aio.remove_fd_handler(self.socket.as_raw_fd());
        self.socket.unlink();
    }

    /// Accepts the next front end. Another one is not accepted before it has gone.
    fn accept(&self) {
        let accepted = match self.socket.accept() {
            Ok(socket) => self.connect(socket),
            Err(error) if is_transient(&error) => return,
            Err(error) => Err(Error::os("cannot accept a connection", error)),
        };
        if let Err(error) = accepted {
            self.report(error.to_string());
            self.aio.remove_fd_handler(self.socket.as_raw_fd());
            self.retry.arm_in_ns(RETRY_NS);
        }
    }

    fn connect(&self, socket: UnixStream) -> Result<()> {
        self.watch_for_second()?;
        let owner: Weak<dyn ConnectionOwner> = self.this.clone();
        let connection = Connection::new(&self.aio, socket, self.offered.clone(), owner)?;
        self.connected.store(true, Ordering::Relaxed);
        self.state().connection = Some(connection);
        Ok(())
    }

    /// While a front end is served, the socket becomes readable when a second one waits.
    fn watch_for_second(&self) -> Result<()> {
        let this = self.this.clone();
        let handler = FdHandler::new().on_read(move || with(&this, ListenerCore::second_waits));
        self.aio.set_fd_handler(self.socket.as_raw_fd(), handler)
    }

    fn second_waits(&self) {
        self.aio.remove_fd_handler(self.socket.as_raw_fd());
        self.patience.arm_in_ns(PATIENCE_NS);
    }

    fn report_waiting(&self) {
        self.report(SECOND_WAITS.to_owned());
    }

    fn report(&self, problem: String) {
        self.offered.device.report(DeviceFault {
            queue: None,
            reason: format!("vhost-user: {problem}"),
        });
    }

    fn shut_down(&self, done: DownCallback) {
        self.stop_listening();
        let connection = {
            let mut state = self.state();
            state.down = true;
            state.callbacks.push(done);
            state.connection.clone()
        };
        match connection {
            Some(connection) => connection.close(),
            None => self.finish(),
        }
    }

    fn finish(&self) {
        let callbacks = std::mem::take(&mut self.state().callbacks);
        for done in callbacks {
            done();
        }
    }
}

impl ConnectionOwner for ListenerCore {
    fn refused(&self, error: &Error) {
        self.report(format!("refused a message: {error}"));
    }

    fn failed(&self, error: &Error) {
        self.report(format!("ended the connection: {error}"));
    }

    fn ended(&self) {
        let (connection, down) = {
            let mut state = self.state();
            (state.connection.take(), state.down)
        };
        self.connected.store(false, Ordering::Relaxed);
        self.patience.cancel();
        drop(connection);
        if down {
            self.finish();
        } else {
            self.listen();
        }
    }
}

/// Runs `f` if the listener still exists.
fn with(core: &Weak<ListenerCore>, f: impl FnOnce(&ListenerCore)) {
    if let Some(core) = core.upgrade() {
        f(&core);
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

#[cfg(test)]
mod tests;
