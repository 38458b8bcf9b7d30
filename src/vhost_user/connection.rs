//! The connection of one front end: reads messages when the socket is readable, sends the answers, and ends in order.
//!
//! The socket is watched for one thing at a time: for input while a message may be handled, for output while an answer waits
//! to be sent, for nothing while a queue is stopping. So whatever the peer sends or does not read, it costs a bounded amount
//! of memory and of time per iteration.
//!
//! The connection is over when the front end closes its end, breaks the protocol, or the owner calls [`Connection::close`].
//! Then the session stops all queues, and when the device has finished its requests the owner's `ended` is called.
//!
//! # Threads
//! Everything runs on the home thread of the control context. A device may report from any thread that a queue has stopped;
//! a bottom half carries that over.
//!
//! # Invariants
//! 1. `state` is never locked while the owner's `ended` callback runs, and the device never calls back into it: what the
//!    device reports goes through `stopped`.
#![forbid(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::{AioContext, Bh, FdHandler};

use super::framing::{ReadOutcome, Reader, Writer};
use super::session::{OfferedDevice, Session, StopNotice};
use crate::{Error, Result};

/// How many messages are handled before other handlers of the thread get their turn.
const MESSAGES_PER_TURN: usize = 8;

/// What a connection tells its owner, always on the home thread.
pub(super) trait ConnectionOwner: Send + Sync {
    /// A message was refused; the front end was told, and goes on.
    fn refused(&self, error: &Error);
    /// The connection ends because of that.
    fn failed(&self, error: &Error);
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

struct ConnectionState {
    session: Session,
    reader: Reader,
    writer: Writer,
    interest: Interest,
    ended: bool,
}

impl ConnectionState {
    fn new(session: Session) -> ConnectionState {
        ConnectionState {
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
    owner: Weak<dyn ConnectionOwner>,
    state: Mutex<ConnectionState>,
    /// Queues that the device has stopped and the session does not know of yet.
    stopped: Mutex<Vec<(u16, u16)>>,
    /// Takes `stopped` to the home thread.
    bh: Bh,
    this: Weak<Connection>,
}

/// Why a connection is over.
enum ConnectionEnd {
    /// The front end has closed it, or the owner has.
    Closed,
    /// The front end broke the protocol, or the socket failed.
    Failed(Error),
}

impl From<Error> for ConnectionEnd {
    /// A front end that has gone without its answer has closed the connection.
    fn from(error: Error) -> ConnectionEnd {
        match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => ConnectionEnd::Closed,
            _ => ConnectionEnd::Failed(error),
        }
    }
}

/// What one turn led to: the messages that were refused, or the end of the connection.
type Turn = std::result::Result<Vec<Error>, ConnectionEnd>;

/// What one look at the socket led to.
enum Exchange {
    /// A message was handled; the error is why it was refused, if it was.
    Handled(Option<Error>),
    /// There is nothing to do now.
    Idle,
    /// The front end has closed the connection.
    Closed,
}

impl Connection {
    /// Serves a device to the front end at the other end of `socket`.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(super) fn new(
        aio: &AioContext,
        socket: UnixStream,
        offered: OfferedDevice,
        owner: Weak<dyn ConnectionOwner>,
    ) -> Result<Arc<Connection>> {
        let connection = Arc::new_cyclic(|this: &Weak<Connection>| {
            let stopped = this.clone();
            Connection {
                aio: aio.clone(),
                socket,
                owner,
                state: Mutex::new(ConnectionState::new(Session::new(
                    offered,
                    stop_notice(this.clone()),
                ))),
                stopped: Mutex::default(),
                bh: aio.bh("vhost-user-stopped", move || {
                    with(&stopped, Connection::take_stopped);
                }),
                this: this.clone(),
            }
        });
        connection.watch(&mut connection.state(), Interest::Input)?;
        Ok(connection)
    }

    /// Stops serving. The owner's `ended` follows, now or when the device has finished what is in flight.
    pub(super) fn close(&self) {
        self.turn(|_, _| Err(ConnectionEnd::Closed));
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        self.turn(Connection::exchange);
    }

    fn take_stopped(&self) {
        self.turn(Connection::apply_stops);
    }

    /// Runs one piece of work under the lock, reports and ends outside of it.
    fn turn(&self, work: impl FnOnce(&Self, &mut ConnectionState) -> Turn) {
        let (mut refused, mut failure) = (Vec::new(), None);
        let ended = {
            let mut state = self.state();
            match work(self, &mut state) {
                Ok(messages) => refused = messages,
                Err(end) => {
                    if let ConnectionEnd::Failed(error) = end {
                        failure = Some(error);
                    }
                    self.stop_serving(&mut state);
                }
            }
            let ended = state.session.is_closed() && !state.ended;
            state.ended |= ended;
            ended
        };
        let Some(owner) = self.owner.upgrade() else {
            return;
        };
        refused.iter().for_each(|error| owner.refused(error));
        failure.iter().for_each(|error| owner.failed(error));
        if ended {
            owner.ended();
        }
    }

    fn stop_serving(&self, state: &mut ConnectionState) {
        state.interest = Interest::Nothing;
        self.aio.remove_fd_handler(self.socket.as_raw_fd());
        // The front end sees the end at once, also while requests in flight are still being finished.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        state.session.close();
    }

    /// Sends and receives until there is nothing to do, or others should have their turn.
    fn exchange(&self, state: &mut ConnectionState) -> Turn {
        let mut refused = Vec::new();
        for _ in 0..MESSAGES_PER_TURN {
            match self.exchange_one(state)? {
                Exchange::Handled(error) => refused.extend(error),
                Exchange::Idle => break,
                Exchange::Closed => return Err(ConnectionEnd::Closed),
            }
        }
        self.watch_for_next(state)?;
        Ok(refused)
    }

    fn exchange_one(&self, state: &mut ConnectionState) -> Result<Exchange> {
        state.writer.flush(self.socket.as_fd())?;
        if !state.writer.is_empty() || state.session.is_waiting() {
            return Ok(Exchange::Idle);
        }
        match state.reader.read(self.socket.as_fd())? {
            ReadOutcome::Pending => Ok(Exchange::Idle),
            ReadOutcome::Closed => Ok(Exchange::Closed),
            ReadOutcome::Message(message) => {
                let refused = state.session.handle(message, state.writer.buffer())?;
                state.writer.flush(self.socket.as_fd())?;
                Ok(Exchange::Handled(refused))
            }
        }
    }

    fn apply_stops(&self, state: &mut ConnectionState) -> Turn {
        let stopped = {
            let mut list = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *list)
        };
        let mut refused = Vec::new();
        for (index, next_avail) in stopped {
            let out = state.writer.buffer();
            refused.extend(state.session.queue_stopped(index, next_avail, out)?);
        }
        if state.session.is_closed() {
            return Ok(refused);
        }
        refused.extend(self.exchange(state)?);
        Ok(refused)
    }

    fn watch_for_next(&self, state: &mut ConnectionState) -> Result<()> {
        let interest = if !state.writer.is_empty() {
            Interest::Output
        } else if state.session.is_waiting() {
            Interest::Nothing
        } else {
            Interest::Input
        };
        self.watch(state, interest)
    }

    fn watch(&self, state: &mut ConnectionState, interest: Interest) -> Result<()> {
        if state.interest == interest {
            return Ok(());
        }
        state.interest = interest;
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
        self.state().session.close();
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

/// What the device calls when a queue has stopped: carries that over to the home thread.
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
