//! One connected client: its requests, one after the other, and the answers and events that it has not read yet.
//!
//! # Threads
//! Sessions live in a thread-local list of the monitor's thread. Other threads reach them with
//! [`super::main_loop::post`].
//!
//! # Invariants
//! 1. `state` is never borrowed while a command runs, so a reply may come at any moment.
//! 2. `in_turn` is set while requests are executed. A reply that comes then does not start a second turn.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use gio::prelude::*;

use super::command::Commands;
use super::input::QmpInput;
use super::main_loop;
use super::message::{self, QmpRequest, Received};
use super::outbox::Outbox;
use super::reply::Reply;
use super::stream::Stream;
use crate::object::Value;
use crate::schema::EventType;
use crate::{Error, ErrorKind, Result};

/// A client with this much unread output is not read from.
const UNREAD_LIMIT: usize = 1 << 20;
/// A client with this much unread output is disconnected. Only events can get it there, and it would miss some.
const DISCONNECT_LIMIT: usize = 2 * UNREAD_LIMIT;
/// The most requests that one turn executes, so that other sources of the main loop have their turn.
const REQUESTS_PER_TURN: usize = 8;

thread_local! {
    static SESSIONS: RefCell<Vec<Rc<QmpSession>>> = const { RefCell::new(Vec::new()) };
    static NEXT_KEY: Cell<u64> = const { Cell::new(0) };
}

/// Works with the sessions of this thread. A thread that ends, and calls atexit(3) handlers, has none.
fn with_sessions<T: Default>(work: impl FnOnce(&mut Vec<Rc<QmpSession>>) -> T) -> T {
    let worked = SESSIONS.try_with(|sessions| work(&mut sessions.borrow_mut()));
    worked.unwrap_or_default()
}

/// The sessions of this thread.
pub(super) fn all() -> Vec<Rc<QmpSession>> {
    with_sessions(|sessions| sessions.clone())
}

/// Whether this thread has sessions.
pub(super) fn any_here() -> bool {
    with_sessions(|sessions| !sessions.is_empty())
}

/// Whether a client of this character device is connected.
pub(super) fn is_connected(chardev: &str) -> bool {
    with_sessions(|sessions| sessions.iter().any(|known| known.chardev == chardev))
}

fn find(key: u64) -> Option<Rc<QmpSession>> {
    with_sessions(|sessions| sessions.iter().find(|known| known.key == key).cloned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionPhase {
    /// Only `qmp_capabilities` is executed.
    Negotiating,
    Open,
    /// Nothing more is read; unsent output still goes out.
    HangingUp,
    Closed,
}

#[derive(Debug)]
struct SessionState {
    phase: SessionPhase,
    input: QmpInput,
    /// A request is executing and has not been answered.
    executing: bool,
    outbox: Outbox,
    sources: SessionSources,
}

/// The sources that are attached now.
#[derive(Debug, Default)]
struct SessionSources {
    /// QmpInput is readable.
    reading: Option<glib::Source>,
    /// Looks whether the terminal is back.
    returning: Option<glib::Source>,
    /// Output is writable.
    writing: Option<glib::Source>,
    /// Runs the next turn.
    again: Option<glib::Source>,
}

/// Called when a client has left.
type LeftCallback = Box<dyn Fn()>;

/// One client.
pub(super) struct QmpSession {
    key: u64,
    stream: Stream,
    commands: Rc<Commands>,
    /// The character device that it came from.
    chardev: String,
    is_pretty: bool,
    /// Called once, when it is closed.
    ended: RefCell<Option<LeftCallback>>,
    in_turn: Cell<bool>,
    state: RefCell<SessionState>,
}

impl QmpSession {
    /// Greets a client and serves it until it leaves.
    pub(super) fn start(
        stream: Stream,
        commands: Rc<Commands>,
        chardev: String,
        is_pretty: bool,
        ended: Option<LeftCallback>,
    ) {
        let mut outbox = Outbox::default();
        outbox.push(&message::line(&message::greeting(), is_pretty));
        let state = SessionState {
            phase: SessionPhase::Negotiating,
            input: QmpInput::new(),
            executing: false,
            outbox,
            sources: SessionSources::default(),
        };
        let session = Rc::new(QmpSession {
            key: NEXT_KEY.replace(NEXT_KEY.get() + 1),
            stream,
            commands,
            chardev,
            is_pretty,
            ended: RefCell::new(ended),
            in_turn: Cell::new(false),
            state: RefCell::new(state),
        });
        with_sessions(|sessions| sessions.push(session.clone()));
        session.settle();
    }

    /// Sends an event to the client.
    pub(super) fn notify(&self, event: &EventType, text: &Value) {
        debug_assert!(
            self.commands.has_event(event),
            "{} is not described",
            event.name
        );
        let mut state = self.state.borrow_mut();
        if state.phase != SessionPhase::Open {
            return;
        }
        state.outbox.push(&message::line(text, self.is_pretty));
        let too_slow = state.outbox.len() > DISCONNECT_LIMIT;
        drop(state);
        if too_slow {
            let limit = DISCONNECT_LIMIT >> 20;
            glib::g_message!(
                "qcontext",
                "monitor: a client is disconnected: it has not read {limit} MiB of events"
            );
            self.close();
        } else {
            self.settle();
        }
    }

    /// Reads no more, and closes when the client has read everything.
    pub(super) fn hang_up(&self) {
        self.state.borrow_mut().hang_up();
        self.settle();
    }

    /// Whether nothing is left to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.state.borrow().outbox.is_empty()
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        self.state.borrow_mut().close();
        let this = with_sessions(|sessions| {
            let index = sessions.iter().position(|known| known.key == self.key)?;
            Some(sessions.swap_remove(index))
        });
        if let Some(owner) = this
            .as_ref()
            .and_then(|session| session.stream.owner.as_ref())
        {
            // An error means that the peer has closed it already.
            let _ = owner.close(None::<&gio::Cancellable>);
        }
        let ended = self.ended.take();
        ended.iter().for_each(|ended| ended());
    }

    /// Executes what has arrived, within the bounds of one turn.
    fn turn(&self) {
        if self.in_turn.replace(true) {
            return;
        }
        for _ in 0..REQUESTS_PER_TURN {
            let Some(frame) = self.state.borrow_mut().next_frame() else {
                break;
            };
            match frame {
                Ok(value) => self.execute(value),
                Err(error) => self.refuse(error),
            }
        }
        self.in_turn.set(false);
        self.settle();
    }

    fn refuse(&self, error: Error) {
        let over = error.kind() == ErrorKind::LimitExceeded;
        let mut state = self.state.borrow_mut();
        let answer = message::answer(None, Err(error));
        state.outbox.push(&message::line(&answer, self.is_pretty));
        if over {
            state.hang_up();
        }
    }

    fn execute(&self, value: Value) {
        let Received { id, request } = message::decode(value);
        self.state.borrow_mut().executing = true;
        let phase = self.state.borrow().phase;
        match request {
            Err(error) => self.answer(id, Err(error)),
            Ok(request) if phase == SessionPhase::Negotiating => {
                let outcome = self.negotiate(request);
                self.answer(id, outcome);
            }
            Ok(request) if request.execute == "qmp_capabilities" => {
                self.answer(id, Err(already_negotiated()));
            }
            Ok(request) => {
                let key = self.key;
                let reply = Reply::new(move |outcome| {
                    if let Some(session) = find(key) {
                        session.answer(id, outcome);
                    }
                });
                self.commands
                    .execute(&request.execute, request.arguments, reply);
            }
        }
    }

    fn negotiate(&self, request: QmpRequest) -> Result<Value> {
        if request.execute != "qmp_capabilities" {
            return Err(Error::new(
                ErrorKind::CommandNotFound,
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            ));
        }
        let nothing = message::negotiate(request.arguments)?;
        self.state.borrow_mut().phase = SessionPhase::Open;
        Ok(nothing)
    }

    fn answer(&self, id: Option<Value>, outcome: Result<Value>) {
        let text = message::line(&message::answer(id, outcome), self.is_pretty);
        let mut state = self.state.borrow_mut();
        if state.phase != SessionPhase::Closed {
            state.executing = false;
            state.outbox.push(&text);
        }
        drop(state);
        self.turn();
    }

    /// Writes what the client takes, then attaches the sources of what the session waits for.
    fn settle(&self) {
        if self.in_turn.get() {
            return;
        }
        let mut state = self.state.borrow_mut();
        let alive = state.outbox.flush(&self.stream) && !state.is_over();
        if alive {
            state.rearm(self.key, &self.stream);
        }
        drop(state);
        if !alive {
            self.close();
        }
    }

    /// Writes first: what the client takes makes room for the answers to its next requests.
    fn writable(&self) {
        self.settle();
        self.turn();
    }

    fn readable(&self) {
        if self.stream.is_away() {
            return self.settle();
        }
        let alive = self.state.borrow_mut().input.read(&self.stream);
        if alive {
            self.turn();
        } else {
            self.close();
        }
    }
}

impl fmt::Debug for QmpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QmpSession")
            .field("key", &self.key)
            .field("chardev", &self.chardev)
            .finish_non_exhaustive()
    }
}

impl SessionState {
    /// The next request or syntax error, if one is complete and may be executed.
    fn next_frame(&mut self) -> Option<Result<Value>> {
        self.may_execute()
            .then(|| self.input.next_frame())
            .flatten()
    }

    fn may_execute(&self) -> bool {
        matches!(self.phase, SessionPhase::Negotiating | SessionPhase::Open)
            && !self.executing
            && self.outbox.len() < UNREAD_LIMIT
    }

    /// Whether the last byte is out and no request can come.
    fn is_over(&self) -> bool {
        let no_more = self.input.has_ended() && !self.input.has_bytes();
        let leaving = no_more || self.phase == SessionPhase::HangingUp;
        leaving && !self.executing && self.outbox.is_empty()
    }

    fn hang_up(&mut self) {
        if self.phase == SessionPhase::Closed {
            return;
        }
        self.phase = SessionPhase::HangingUp;
        self.input.discard();
    }

    fn close(&mut self) {
        self.hang_up();
        self.phase = SessionPhase::Closed;
        self.outbox = Outbox::default();
        let SessionSources {
            reading,
            returning,
            writing,
            again,
        } = std::mem::take(&mut self.sources);
        for source in [reading, returning, writing, again].into_iter().flatten() {
            source.destroy();
        }
    }

    /// Attaches exactly those sources that can bring the session forward.
    fn rearm(&mut self, key: u64, stream: &Stream) {
        let may_execute = self.may_execute();
        let pending = self.input.has_bytes();
        let read = may_execute && !pending && !self.input.has_ended();
        let write = !self.outbox.is_empty();
        let is_away = stream.is_away();
        let SessionSources {
            reading,
            returning,
            writing,
            again,
        } = &mut self.sources;
        wait(again, may_execute && pending, || {
            main_loop::idle_source(move || run(key, QmpSession::turn))
        });
        wait(writing, write, || {
            stream.writing_source(move || run(key, QmpSession::writable))
        });
        wait(returning, read && is_away, || {
            Stream::returning_source(move || run(key, QmpSession::settle))
        });
        wait(reading, read && !is_away, || {
            stream.reading_source(move || run(key, QmpSession::readable))
        });
    }
}

fn wait(slot: &mut Option<glib::Source>, wanted: bool, make: impl FnOnce() -> glib::Source) {
    if wanted && slot.is_none() {
        let source = slot.insert(make());
        source.attach(Some(&glib::MainContext::default()));
    } else if !wanted && let Some(source) = slot.take() {
        source.destroy();
    }
}

fn already_negotiated() -> Error {
    Error::new(
        ErrorKind::CommandNotFound,
        "Capabilities negotiation is already complete, command ignored",
    )
}

/// Runs `action` on a session. The source stays attached until `rearm` destroys it or the session is gone.
fn run(key: u64, action: impl FnOnce(&QmpSession)) -> glib::ControlFlow {
    match find(key) {
        Some(session) => {
            action(&session);
            glib::ControlFlow::Continue
        }
        None => glib::ControlFlow::Break,
    }
}
