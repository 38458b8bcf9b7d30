//! One connected client: its bytes, its requests in turn, its unread replies.
//!
//! # Threads
//! Sessions live on the monitor's thread, in a thread-local list; other threads reach them by [`super::event::post`].
//!
//! # Invariants
//! 1. `state` is never borrowed while a handler runs, so a reply may come at any moment.
//! 2. `in_turn` is set while requests are executed; a reply that comes then does not start a second round.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use gio::prelude::*;

use super::command::{Commands, Reply};
use super::message::{self, Request};
use super::outbox::Outbox;
use crate::json::{Framer, Limits};
use crate::object::Value;
use crate::{Error, ErrorKind, Result};

/// With this much unread output a client is not read from.
pub(super) const UNREAD_LIMIT: usize = 1 << 20;
/// With this much, made by events, it is disconnected: it could only learn a part of what happens.
const HOPELESS: usize = 2 * UNREAD_LIMIT;
/// Read at most this much before others have their turn.
const READ_CHUNK: usize = 32 << 10;
/// Execute at most this many requests before others have their turn.
const REQUESTS_PER_TURN: usize = 8;

thread_local! {
    static SESSIONS: RefCell<Vec<Rc<Session>>> = const { RefCell::new(Vec::new()) };
    static NEXT_KEY: Cell<u64> = const { Cell::new(0) };
}

/// The sessions of this thread.
pub(super) fn all() -> Vec<Rc<Session>> {
    SESSIONS.with_borrow(Clone::clone)
}

/// Whether this is the thread that has the sessions.
pub(super) fn any_here() -> bool {
    SESSIONS.with_borrow(|sessions| !sessions.is_empty())
}

fn find(key: u64) -> Option<Rc<Session>> {
    SESSIONS.with_borrow(|sessions| sessions.iter().find(|known| known.key == key).cloned())
}

/// Gives a session the answer it waits for, if it is still there.
pub(super) fn deliver(key: u64, id: Option<Value>, outcome: Result<Value>) {
    if let Some(session) = find(key) {
        session.answer(id, outcome);
    }
}

/// Where a session reads and writes.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) input: gio::PollableInputStream,
    pub(super) output: gio::PollableOutputStream,
    /// Write at most this much at once.
    pub(super) chunk: usize,
    /// Closes both when it goes.
    pub(super) owner: Option<gio::IOStream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Only `qmp_capabilities` is executed.
    Negotiating,
    Open,
    /// What is unsent still goes out; nothing more is read.
    HangingUp,
    Closed,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    framer: Framer,
    /// Read, but not yet framed, from `framed` on.
    unread: Vec<u8>,
    framed: usize,
    end_of_input: bool,
    /// A request is executing and has not been answered.
    executing: bool,
    outbox: Outbox,
    reading: Option<glib::Source>,
    writing: Option<glib::Source>,
    again: Option<glib::Source>,
}

/// One client.
#[derive(Debug)]
pub(super) struct Session {
    key: u64,
    stream: Stream,
    commands: Rc<Commands>,
    in_turn: Cell<bool>,
    state: RefCell<State>,
}

impl Session {
    /// Greets a client and serves it until it leaves.
    pub(super) fn start(stream: Stream, commands: Rc<Commands>) {
        let mut outbox = Outbox::default();
        outbox.push(&message::greeting());
        let state = State {
            phase: Phase::Negotiating,
            framer: Framer::new(Limits::default()),
            unread: Vec::new(),
            framed: 0,
            end_of_input: false,
            executing: false,
            outbox,
            reading: None,
            writing: None,
            again: None,
        };
        let session = Rc::new(Session {
            key: NEXT_KEY.replace(NEXT_KEY.get() + 1),
            stream,
            commands,
            in_turn: Cell::new(false),
            state: RefCell::new(state),
        });
        SESSIONS.with_borrow_mut(|sessions| sessions.push(session.clone()));
        session.settle();
    }

    /// Tells the client about an event.
    pub(super) fn notify(&self, text: &str) {
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Open {
            return;
        }
        state.outbox.push(text);
        let hopeless = state.outbox.len() > HOPELESS;
        drop(state);
        if hopeless {
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
        let this = SESSIONS.with_borrow_mut(|sessions| {
            let index = sessions.iter().position(|known| known.key == self.key)?;
            Some(sessions.swap_remove(index))
        });
        if let Some(owner) = this
            .as_ref()
            .and_then(|session| session.stream.owner.as_ref())
        {
            // The peer may have been faster.
            let _ = owner.close(None::<&gio::Cancellable>);
        }
    }

    /// Executes what has arrived, within this turn's bounds.
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
        state.outbox.push(&message::answer(None, Err(error)));
        if over {
            state.hang_up();
        }
    }

    fn execute(&self, value: Value) {
        let (id, request) = message::request(value);
        self.state.borrow_mut().executing = true;
        let negotiating = self.state.borrow().phase == Phase::Negotiating;
        match request {
            Err(error) => self.answer(id, Err(error)),
            Ok(request) if negotiating || request.execute == "qmp_capabilities" => {
                let outcome = self.negotiate(request, negotiating);
                self.answer(id, outcome);
            }
            Ok(request) => {
                let reply = Reply::new(self.key, id);
                self.commands
                    .execute(&request.execute, request.arguments, reply);
            }
        }
    }

    fn negotiate(&self, request: Request, negotiating: bool) -> Result<Value> {
        if !negotiating {
            return Err(Error::new(
                ErrorKind::CommandNotFound,
                "Capabilities negotiation is already complete, command ignored",
            ));
        }
        if request.execute != "qmp_capabilities" {
            return Err(Error::new(
                ErrorKind::CommandNotFound,
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            ));
        }
        let nothing = message::negotiate(request.arguments)?;
        self.state.borrow_mut().phase = Phase::Open;
        Ok(nothing)
    }

    fn answer(&self, id: Option<Value>, outcome: Result<Value>) {
        let text = message::answer(id, outcome);
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Closed {
            state.executing = false;
            state.outbox.push(&text);
        }
        drop(state);
        self.turn();
    }

    /// Writes what the client takes, then waits for what it can go on with.
    fn settle(&self) {
        if self.in_turn.get() {
            return;
        }
        let mut state = self.state.borrow_mut();
        let alive = state.flush(&self.stream) && !state.is_over();
        if alive {
            state.rearm(self.key, &self.stream);
        }
        drop(state);
        if !alive {
            self.close();
        }
    }

    fn readable(&self) {
        let alive = self.state.borrow_mut().read(&self.stream);
        if alive {
            self.turn();
        } else {
            self.close();
        }
    }
}

impl State {
    /// The next request or syntax error, if one is complete and may be executed.
    fn next_frame(&mut self) -> Option<Result<Value>> {
        if !self.may_execute() {
            return None;
        }
        let mut rest = &self.unread[self.framed..];
        let frame = self.framer.feed(&mut rest);
        self.framed = self.unread.len() - rest.len();
        if self.framed == self.unread.len() {
            self.unread.clear();
            self.framed = 0;
        }
        frame
    }

    fn may_execute(&self) -> bool {
        matches!(self.phase, Phase::Negotiating | Phase::Open)
            && !self.executing
            && self.outbox.len() < UNREAD_LIMIT
    }

    /// Nothing can happen any more: the last byte is out, and none will come.
    fn is_over(&self) -> bool {
        let no_more = self.end_of_input && self.unread.is_empty();
        let leaving = no_more || self.phase == Phase::HangingUp;
        leaving && !self.executing && self.outbox.is_empty()
    }

    fn hang_up(&mut self) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::HangingUp;
        self.unread = Vec::new();
        self.framed = 0;
        self.framer = Framer::new(Limits::default());
    }

    fn close(&mut self) {
        self.hang_up();
        self.phase = Phase::Closed;
        self.outbox = Outbox::default();
        let sources = [&mut self.reading, &mut self.writing, &mut self.again];
        for source in sources.into_iter().filter_map(Option::take) {
            source.destroy();
        }
    }

    /// Reads a chunk; false when the connection is broken.
    fn read(&mut self, stream: &Stream) -> bool {
        if !self.unread.is_empty() {
            return true;
        }
        self.unread.resize(READ_CHUNK, 0);
        let outcome = stream
            .input
            .read_nonblocking(&mut self.unread, None::<&gio::Cancellable>);
        let count = *outcome.as_ref().unwrap_or(&0);
        self.unread.truncate(usize::try_from(count).unwrap_or(0));
        match outcome {
            Ok(_) => {
                self.end_of_input = self.unread.is_empty();
                true
            }
            Err(error) => error.matches(gio::IOErrorEnum::WouldBlock),
        }
    }

    /// Writes what the peer takes; false when the connection is broken.
    fn flush(&mut self, stream: &Stream) -> bool {
        while !self.outbox.is_empty() {
            let unsent = self.outbox.unsent();
            let unsent = &unsent[..unsent.len().min(stream.chunk)];
            match stream
                .output
                .write_nonblocking(unsent, None::<&gio::Cancellable>)
            {
                Ok(count) => self.outbox.advance(usize::try_from(count).unwrap_or(0)),
                Err(error) => return error.matches(gio::IOErrorEnum::WouldBlock),
            }
        }
        true
    }

    /// Has exactly those sources attached that can bring the session forward.
    fn rearm(&mut self, key: u64, stream: &Stream) {
        let may_execute = self.may_execute();
        let pending = !self.unread.is_empty();
        wait(&mut self.again, may_execute && pending, || {
            again_source(key)
        });
        wait(&mut self.writing, !self.outbox.is_empty(), || {
            writing_source(key, stream)
        });
        let read = may_execute && !pending && !self.end_of_input;
        wait(&mut self.reading, read, || reading_source(key, stream));
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

fn reading_source(key: u64, stream: &Stream) -> glib::Source {
    stream.input.create_source(
        None::<&gio::Cancellable>,
        Some("qcontext-monitor-read"),
        glib::Priority::DEFAULT,
        move |_| run(key, Session::readable),
    )
}

fn writing_source(key: u64, stream: &Stream) -> glib::Source {
    stream.output.create_source(
        None::<&gio::Cancellable>,
        Some("qcontext-monitor-write"),
        glib::Priority::DEFAULT,
        // The turn writes first; what the client takes makes room for its next requests.
        move |_| {
            run(key, |session| {
                session.settle();
                session.turn();
            })
        },
    )
}

fn again_source(key: u64) -> glib::Source {
    let name = Some("qcontext-monitor-again");
    glib::idle_source_new(name, glib::Priority::DEFAULT, move || {
        run(key, Session::turn)
    })
}

/// Runs `action` on a session; the sources stay until they are not wanted.
fn run(key: u64, action: impl FnOnce(&Session)) -> glib::ControlFlow {
    match find(key) {
        Some(session) => {
            action(&session);
            glib::ControlFlow::Continue
        }
        None => glib::ControlFlow::Break,
    }
}
