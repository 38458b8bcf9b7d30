//! The NBD server of the process: where it listens, and who may be connected.
//!
//! A client negotiates on the main context, also TLS, within a time. Then it is a matter of the export that it has chosen. While as
//! many clients are connected as may be, no other is accepted; those wait in the kernel's queue.
//!
//! # Threads
//! Started and stopped on the main context's thread. Clients may go on any thread.
//!
//! # Invariants
//! 1. No code of others runs while `state` is locked.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;

use gsource::{AioContext, Clock, FdHandler, Timer};

use super::connection::NbdConnection;
use super::execute::ConnectionTerms;
use super::listener::NbdListener;
use super::negotiation::{Negotiation, ServerTraits};
use super::socket::NbdSocket;
use crate::nbd::stream::NbdStream;
use crate::nbd::tls_creds::TlsCreds;
use crate::{Error, ErrorKind, QContext, Result};

static SERVER: Mutex<Option<Arc<RunningServer>>> = Mutex::new(None);

/// How long to wait before accepting again when there was no fd for another connection.
const RETRY_NS: i64 = 100_000_000;
const SECOND_NS: i64 = 1_000_000_000;

/// Whom the server serves.
#[derive(Clone, Copy, Debug)]
pub(in crate::export) struct ServerLimits {
    /// The most connections; 0 for any number.
    pub(in crate::export) max_connections: u32,
    /// How long a negotiation may take; 0 for any time.
    pub(in crate::export) handshake_max_seconds: u32,
}

/// See the head of this file.
struct RunningServer {
    limits: ServerLimits,
    /// Nothing is said to a client without them.
    tls: Option<Arc<TlsCreds>>,
    /// A client has failed at TLS.
    has_told: AtomicBool,
    aio: AioContext,
    retry: Timer,
    this: Weak<RunningServer>,
    state: Mutex<ServerState>,
}

#[derive(Default)]
struct ServerState {
    /// Absent when the server has stopped.
    listener: Option<NbdListener>,
    /// The listener is watched.
    is_listening: bool,
    connections: u32,
}

/// Starts the server.
///
/// # Errors
/// It runs already.
pub(in crate::export) fn start(
    open: impl FnOnce() -> Result<NbdListener>,
    limits: ServerLimits,
    tls: Option<Arc<TlsCreds>>,
) -> Result<()> {
    check_stopped()?;
    let aio = AioContext::new()?;
    let listener = open()?;
    let server = Arc::new_cyclic(|this: &Weak<RunningServer>| {
        let again = this.clone();
        RunningServer {
            limits,
            tls,
            has_told: AtomicBool::new(false),
            retry: aio.timer(Clock::Realtime, move || with(&again, RunningServer::listen)),
            aio,
            this: this.clone(),
            state: Mutex::new(ServerState {
                listener: Some(listener),
                ..ServerState::default()
            }),
        }
    });
    QContext::main().attach(&server.aio, Some("nbd-server"))?;
    *running() = Some(Arc::clone(&server));
    server.listen();
    Ok(())
}

/// Whether the server runs.
pub(super) fn is_running() -> bool {
    running().is_some()
}

/// Stops the server: nothing listens any more, and clients that negotiate are gone. True if it ran.
pub(in crate::export) fn stop() -> bool {
    let server = running().take();
    let Some(server) = server else {
        return false;
    };
    server.retry.cancel();
    let mut state = server.state();
    server.pause(&mut state);
    let listener = state.listener.take();
    drop(state);
    drop(listener);
    if let Err(error) = server.aio.cancel_tasks() {
        glib::g_warning!("qcontext", "NBD server: {error}");
    }
    QContext::main().detach(&server.aio);
    true
}

fn check_stopped() -> Result<()> {
    match is_running() {
        true => Err(Error::new(
            ErrorKind::AlreadyExists,
            "NBD server already running",
        )),
        false => Ok(()),
    }
}

impl RunningServer {
    /// Listens, unless there are as many clients as may be.
    fn listen(&self) {
        let mut state = self.state();
        let fd = state.listener.as_ref().map(NbdListener::as_raw_fd);
        let Some(fd) = fd.filter(|_| !state.is_listening && !self.is_full(&state)) else {
            return;
        };
        let this = self.this.clone();
        let handler = FdHandler::new().on_read(move || with(&this, RunningServer::accept));
        let watched = self.aio.set_fd_handler(fd, handler);
        state.is_listening = watched.is_ok();
        drop(state);
        if let Err(error) = watched {
            self.try_again_later(&error.to_string());
        }
    }

    fn is_full(&self, state: &ServerState) -> bool {
        let max = self.limits.max_connections;
        max != 0 && state.connections >= max
    }

    /// Accepts no connection for now.
    fn pause(&self, state: &mut ServerState) {
        state.is_listening = false;
        if let Some(listener) = &state.listener {
            self.aio.remove_fd_handler(listener.as_raw_fd());
        }
    }

    fn try_again_later(&self, problem: &str) {
        glib::g_warning!("qcontext", "NBD server: {problem}");
        self.pause(&mut self.state());
        self.retry.arm_in_ns(RETRY_NS);
    }

    fn accept(&self) {
        let accepted = self.state().listener.as_ref().map(NbdListener::accept);
        match accepted {
            Some(Ok(stream)) => self.welcome(stream),
            None => {}
            Some(Err(error)) if is_transient(&error) => {}
            Some(Err(error)) => {
                self.try_again_later(&format!("cannot accept a connection: {error}"));
            }
        }
    }

    /// Lets a client negotiate.
    fn welcome(&self, stream: NbdStream) {
        let Some(this) = self.this.upgrade() else {
            return;
        };
        let mut state = self.state();
        state.connections += 1;
        if self.is_full(&state) {
            self.pause(&mut state);
        }
        drop(state);
        let seat = Seat(Arc::clone(&this));
        let spawned = self
            .aio
            .spawn_local(async move { this.serve(stream, seat).await });
        match spawned {
            Ok(task) => task.detach(),
            Err(error) => glib::g_warning!("qcontext", "NBD server: {error}"),
        }
    }

    async fn serve(self: Arc<Self>, stream: NbdStream, seat: Seat) {
        let mut socket = NbdSocket::new(stream, &self.aio);
        let Some(terms) = self.negotiate(&mut socket).await else {
            return;
        };
        if let Some(same) = socket.into_stream() {
            NbdConnection::start(same, terms, seat);
        }
    }

    /// What the client and the server agree on, if that is in time.
    async fn negotiate(&self, socket: &mut NbdSocket) -> Option<ConnectionTerms> {
        let server = ServerTraits {
            multi_conn: self.limits.max_connections != 1,
            tls: self.tls.as_ref().and_then(|creds| creds.server().ok()),
        };
        let mut negotiation = pin!(Negotiation::run(socket, server));
        let seconds = self.limits.handshake_max_seconds;
        let time = i64::from(seconds) * SECOND_NS;
        let mut deadline = pin!(self.aio.sleep_ns(Clock::Realtime, time));
        poll_fn(|context| {
            if let Poll::Ready(outcome) = negotiation.as_mut().poll(context) {
                let agreed = outcome.inspect_err(|error| self.tell_of_tls(error));
                return Poll::Ready(agreed.ok().flatten());
            }
            if seconds > 0 && deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// Warns of the first client that is not trusted, or does not trust.
    fn tell_of_tls(&self, error: &io::Error) {
        let is_tls = error
            .get_ref()
            .is_some_and(|cause| cause.is::<rustls::Error>());
        if is_tls && !self.has_told.swap(true, Ordering::Relaxed) {
            glib::g_warning!(
                "qcontext",
                "NBD server: a client's TLS handshake failed: {error}; later failures are not reported"
            );
        }
    }

    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connected client. Another client may come when it is dropped.
pub(super) struct Seat(Arc<RunningServer>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.state().connections -= 1;
        self.0.listen();
    }
}

/// Runs `work` if the server still exists.
fn with(server: &Weak<RunningServer>, work: impl FnOnce(&RunningServer)) {
    if let Some(server) = server.upgrade() {
        work(&server);
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

fn running() -> MutexGuard<'static, Option<Arc<RunningServer>>> {
    SERVER.lock().unwrap_or_else(PoisonError::into_inner)
}
