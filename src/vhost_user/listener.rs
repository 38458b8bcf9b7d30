//! The socket of one device: bound at a path, serving one front end at a time.
//!
//! The listener accepts one connection and then stops watching the socket. A second front end that connects meanwhile waits in
//! the kernel's backlog; it is accepted when the first one has gone and the device has finished its requests. When accepting
//! fails because the process or the machine is out of fds, the listener tries again a moment later.
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
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Clock, FdHandler, Timer};

use super::connection::{Connection, ConnectionOwner};
use super::session::OfferedDevice;
use crate::unix_socket::{ListeningSocket, SocketAccess};
use crate::{Error, Result};

/// How long to wait before accepting again when there was no fd for another connection.
const RETRY_NS: i64 = 100_000_000;
/// So many problems are reported one by one; then only each one whose number is a power of two, as a peer can make any number.
const REPORTS_IN_FULL: u32 = 16;

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
    /// The device, for messages.
    name: String,
    socket: ListeningSocket,
    aio: AioContext,
    offered: OfferedDevice,
    retry: Timer,
    this: Weak<ListenerCore>,
    state: Mutex<ListenerState>,
    connected: AtomicBool,
    reports: AtomicU32,
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
        let core = Arc::new_cyclic(|this: &Weak<ListenerCore>| {
            let retry = this.clone();
            ListenerCore {
                name: name.to_string(),
                socket,
                aio: aio.clone(),
                offered,
                retry: aio.timer(Clock::Realtime, move || with(&retry, ListenerCore::listen)),
                this: this.clone(),
                state: Mutex::default(),
                connected: AtomicBool::new(false),
                reports: AtomicU32::new(0),
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
            .field("name", &self.core.name)
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
            self.report(&error);
            self.retry.arm_in_ns(RETRY_NS);
        }
    }

    fn stop_listening(&self) {
        self.retry.cancel();
        self.aio.remove_fd_handler(self.socket.as_raw_fd());
        self.socket.unlink();
    }

    /// Accepts the next front end. The socket is not watched again before it has gone.
    fn accept(&self) {
        let accepted = match self.socket.accept() {
            Ok(socket) => self.connect(socket),
            Err(error) if is_transient(&error) => return,
            Err(error) => Err(Error::os("cannot accept a connection", error)),
        };
        if let Err(error) = accepted {
            self.report(&error);
            self.aio.remove_fd_handler(self.socket.as_raw_fd());
            self.retry.arm_in_ns(RETRY_NS);
        }
    }

    fn connect(&self, socket: UnixStream) -> Result<()> {
        self.aio.remove_fd_handler(self.socket.as_raw_fd());
        let owner: Weak<dyn ConnectionOwner> = self.this.clone();
        let connection = Connection::new(&self.aio, socket, self.offered.clone(), owner)?;
        self.connected.store(true, Ordering::Relaxed);
        self.state().connection = Some(connection);
        Ok(())
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
    fn report(&self, error: &Error) {
        let count = self.reports.fetch_add(1, Ordering::Relaxed);
        if count < REPORTS_IN_FULL {
            glib::g_message!("qcontext", "device '{}': vhost-user: {error}", self.name);
        } else if count.is_power_of_two() {
            let name = &self.name;
            glib::g_message!(
                "qcontext",
                "device '{name}': vhost-user: {error} (problem {count})"
            );
        }
    }

    fn ended(&self) {
        let (connection, down) = {
            let mut state = self.state();
            (state.connection.take(), state.down)
        };
        self.connected.store(false, Ordering::Relaxed);
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
