//! One front end's connection: the socket's readiness turned into messages, messages into answers, the end into an orderly stop.
//!
//! The socket is watched for one thing at a time: for input while a message may be handled, for output while an answer waits
//! to be sent, for nothing while a queue is stopping. So whatever the peer sends or does not read, it costs a bounded amount
//! of memory and of time per iteration.
//!
//! # Threads
//! Everything runs on the home thread of the control context, except the device's word that a queue has stopped, which
//! may come from any thread and is carried over by a bottom half.
//!
//! # Invariants
//! 1. `inner` is never locked while the owner's `ended` callback runs, and the device never calls back into it: what the
//!    device reports goes through `stopped`.
#![forbid(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Bh, FdHandler};

use super::framing::{Input, Reader, Writer};
use super::session::{Served, Session, StopNotice};
use crate::{Error, Result};

/// How many messages are handled before other handlers of the thread get their turn.
const MESSAGES_PER_TURN: usize = 8;

/// What a connection tells its owner, always on the home thread.
pub(super) trait Owner: Send + Sync {
    /// A message was refused, or the connection failed.
    fn report(&self, error: &Error);
    /// The connection is over and the device holds nothing of it any more.
    fn ended(&self);
}

/// What the socket is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interest {
    Nothing,
    Input,
    Output,
}

struct Inner {
    session: Session,
    reader: Reader,
    writer: Writer,
    interest: Interest,
    ended: bool,
}

impl Inner {
    fn new(session: Session) -> Inner {
        Inner {
            session,
            reader: Reader::default(),
            writer: Writer::default(),
            interest: Interest::Nothing,
            ended: false,
        }
    }
}

/// A connected front end.
pub(super) struct Connection {
    aio: AioContext,
    socket: UnixStream,
    owner: Weak<dyn Owner>,
    inner: Mutex<Inner>,
    /// Queues that the device has stopped and the session does not know of yet.
    stopped: Mutex<Vec<(u16, u16)>>,
    /// Takes `stopped` to the home thread.
    bh: Bh,
    this: Weak<Connection>,
}

/// What one turn found: refused messages, or the end and its reason unless the peer simply left.
type Turn = Result<Vec<Error>, Option<Error>>;

/// What one look at the socket found.
enum Step {
    Handled(Option<Error>),
    Idle,
    Closed,
}

impl Connection {
    /// Serves a device to whoever is at the other end of `socket`.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(super) fn new(
        aio: &AioContext,
        socket: UnixStream,
        served: Served,
        owner: Weak<dyn Owner>,
    ) -> Result<Arc<Connection>> {
        let connection = Arc::new_cyclic(|this: &Weak<Connection>| {
            let stopped = this.clone();
            Connection {
                aio: aio.clone(),
                socket,
                owner,
                inner: Mutex::new(Inner::new(Session::new(served, stop_notice(this.clone())))),
                stopped: Mutex::default(),
                bh: aio.bh("vhost-user-stopped", move || {
                    with(&stopped, Connection::take_stopped);
                }),
                this: this.clone(),
            }
        });
        connection.watch(&mut connection.inner(), Interest::Input)?;
        Ok(connection)
    }

    /// Stops serving. The owner's `ended` follows, now or when the device has finished what is in flight.
    pub(super) fn close(&self) {
        self.turn(|_, _| Err(None));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        self.turn(Connection::exchange);
    }

    fn take_stopped(&self) {
        self.turn(Connection::apply_stops);
    }

    /// Runs one piece of work under the lock, reports and ends outside of it.
    fn turn(&self, work: impl FnOnce(&Self, &mut Inner) -> Turn) {
        let mut problems = Vec::new();
        let ended = {
            let mut inner = self.inner();
            match work(self, &mut inner) {
                Ok(refused) => problems.extend(refused),
                Err(error) => {
                    problems.extend(error);
                    self.stop_serving(&mut inner);
                }
            }
            let ended = inner.session.is_closed() && !inner.ended;
            inner.ended |= ended;
            ended
        };
        let Some(owner) = self.owner.upgrade() else {
            return;
        };
        problems.iter().for_each(|error| owner.report(error));
        if ended {
            owner.ended();
        }
    }

    fn stop_serving(&self, inner: &mut Inner) {
        inner.interest = Interest::Nothing;
        self.aio.remove_fd_handler(self.socket.as_raw_fd());
        // The peer learns at once, also while requests in flight are still being finished.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        inner.session.close();
    }

    /// Sends and receives until there is nothing to do, or others should have their turn.
    fn exchange(&self, inner: &mut Inner) -> Turn {
        let mut refused = Vec::new();
        for _ in 0..MESSAGES_PER_TURN {
            match self.exchange_one(inner).map_err(Some)? {
                Step::Handled(error) => refused.extend(error),
                Step::Idle => break,
                Step::Closed => return Err(None),
            }
        }
        self.watch_for_next(inner).map_err(Some)?;
        Ok(refused)
    }

    fn exchange_one(&self, inner: &mut Inner) -> Result<Step> {
        inner.writer.flush(self.socket.as_fd())?;
        if !inner.writer.is_empty() || inner.session.is_waiting() {
            return Ok(Step::Idle);
        }
        match inner.reader.read(self.socket.as_fd())? {
            Input::Pending => Ok(Step::Idle),
            Input::Closed => Ok(Step::Closed),
            Input::Message(message) => {
                let refused = inner.session.handle(message, inner.writer.buffer())?;
                inner.writer.flush(self.socket.as_fd())?;
                Ok(Step::Handled(refused))
            }
        }
    }

    fn apply_stops(&self, inner: &mut Inner) -> Turn {
        let stopped = {
            let mut list = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *list)
        };
        let mut refused = Vec::new();
        for (index, next_avail) in stopped {
            let out = inner.writer.buffer();
            refused.extend(
                inner
                    .session
                    .queue_stopped(index, next_avail, out)
                    .map_err(Some)?,
            );
        }
        if inner.session.is_closed() {
            return Ok(refused);
        }
        refused.extend(self.exchange(inner)?);
        Ok(refused)
    }

    fn watch_for_next(&self, inner: &mut Inner) -> Result<()> {
        let interest = if !inner.writer.is_empty() {
            Interest::Output
        } else if inner.session.is_waiting() {
            Interest::Nothing
        } else {
            Interest::Input
        };
        self.watch(inner, interest)
    }

    fn watch(&self, inner: &mut Inner, interest: Interest) -> Result<()> {
        if inner.interest == interest {
            return Ok(());
        }
        inner.interest = interest;
        let fd = self.socket.as_raw_fd();
        let this = self.this.clone();
        let serve = move || with(&this, Connection::serve);
        match interest {
            Interest::Nothing => {
                self.aio.remove_fd_handler(fd);
                Ok(())
            }
            Interest::Input => self.aio.set_fd_handler(fd, FdHandler::new().on_read(serve)),
            Interest::Output => self
                .aio
                .set_fd_handler(fd, FdHandler::new().on_write(serve)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.aio.remove_fd_handler(self.socket.as_raw_fd());
        self.inner().session.close();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Runs `f` on the connection if it still exists.
fn with(connection: &Weak<Connection>, f: impl FnOnce(&Connection)) {
    if let Some(connection) = connection.upgrade() {
        f(&connection);
    }
}

/// Carries the device's word over to the home thread.
fn stop_notice(connection: Weak<Connection>) -> StopNotice {
    Arc::new(move |index, next_avail| {
        with(&connection, |connection| {
            connection
                .stopped
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((index, next_avail));
            connection.bh.schedule();
        });
    })
}
