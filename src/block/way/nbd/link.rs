//! One connection to a server, which comes again when it is lost.
//!
//! Each node has a main link, which all of its queues may use. Its first user is its home: there the replies are read. Other
//! queues send on their own threads, under the lock. When the home leaves, the next user is the home. A queue may have a link of
//! its own besides; when that is lost, the queue goes on with the main one.
//!
//! * `recovery`: what happens when a connection is lost, or silent
//!
//! # Threads
//! Any thread, under the lock. Nothing is called under it but the registrations of the loop, and gates are scheduled.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gsource::FdHandler;

use super::attempt::Attempt;
use super::flight::{FlightTable, Landed};
use super::handshake::Opened;
use super::receiver::Loss;
use super::server::NbdServer;
use super::session::NbdSession;
use super::user::LinkUser;
use crate::block::gate::Gate;
use crate::block::request::Request;

mod recovery;

use recovery::{Recovery, SilenceWatch};

/// What becomes of a link that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkKind {
    /// It connects again.
    Main,
    /// Its requests go to the main link.
    Own,
}

/// A connection; see the head of this file.
pub(in crate::block) struct NbdLink {
    this: Weak<NbdLink>,
    server: Arc<NbdServer>,
    kind: LinkKind,
    state: Mutex<LinkState>,
}

struct LinkState {
    phase: LinkPhase,
    /// The first one is the home.
    users: Vec<LinkUser>,
    flights: FlightTable,
    /// Empty while the lock is free.
    landed: Vec<Landed>,
    /// Requests were put into inboxes without the queues being called.
    owes_calls: bool,
    /// Whether the home waits for the socket to take more.
    watches_writes: bool,
    recovery: Recovery,
    silence: Option<SilenceWatch>,
}

enum LinkPhase {
    Connected(Box<NbdSession>),
    Connecting(Attempt),
    /// There is no connection, and no user to make one for.
    Lost,
    /// There will be no connection.
    Over,
}

impl NbdLink {
    /// The main link, connected and without users.
    pub(super) fn main(server: &Arc<NbdServer>, opened: Opened) -> Arc<NbdLink> {
        let session = Box::new(NbdSession::new(opened));
        NbdLink::new(server, LinkKind::Main, LinkPhase::Connected(session))
    }

    /// A link for one queue, which begins to connect.
    pub(super) fn own(server: &Arc<NbdServer>, user: &LinkUser) -> Arc<NbdLink> {
        let link = NbdLink::new(server, LinkKind::Own, LinkPhase::Lost);
        link.join(user);
        link
    }

    fn new(server: &Arc<NbdServer>, kind: LinkKind, phase: LinkPhase) -> Arc<NbdLink> {
        Arc::new_cyclic(|this| NbdLink {
            this: Weak::clone(this),
            server: Arc::clone(server),
            kind,
            state: Mutex::new(LinkState {
                phase,
                users: Vec::new(),
                flights: FlightTable::default(),
                landed: Vec::new(),
                owes_calls: false,
                watches_writes: false,
                recovery: Recovery::default(),
                silence: None,
            }),
        })
    }

    /// Takes a user.
    pub(super) fn join(&self, user: &LinkUser) {
        let mut state = self.lock();
        state.users.push(user.clone());
        if state.users.len() == 1 {
            self.arrive(&mut state);
        }
        self.finish(state, None);
    }

    /// Lets a user go. If it has requests in flight, the connection is closed, since their memory goes.
    pub(super) fn leave(&self, id: u64) {
        let mut state = self.lock();
        let was_home = state.is_home(id);
        if was_home {
            state.depart();
        }
        state.users.retain(|user| user.id != id);
        if state.flights.has_of(id) {
            self.reset(&mut state);
            drop(state.flights.take_waiting(0, |flight| flight.owner == id));
        }
        let is_lost = matches!(state.phase, LinkPhase::Lost);
        if (was_home || is_lost) && !state.users.is_empty() {
            self.arrive(&mut state);
        }
        self.finish(state, None);
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        matches!(self.lock().phase, LinkPhase::Connected(_))
    }

    /// Whether there will be no connection any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.lock().phase, LinkPhase::Over)
    }

    /// Whether the queue is where replies are read.
    pub(super) fn is_home(&self, id: u64) -> bool {
        self.lock().is_home(id)
    }

    /// Takes a request, which [`NbdLink::flush`] sends. Gives it back if it has to fail.
    pub(super) fn submit(&self, id: u64, request: Box<Request>) -> Result<(), Box<Request>> {
        let mut state = self.lock();
        let is_taken = match &state.phase {
            LinkPhase::Connected(_) => true,
            LinkPhase::Connecting(_) | LinkPhase::Lost => state.recovery.may_wait(),
            LinkPhase::Over => false,
        };
        if !is_taken {
            return Err(request);
        }
        state.flights.submit(id, request);
        drop(state);
        Ok(())
    }

    /// Sends what was submitted.
    pub(super) fn flush(&self) {
        let mut state = self.lock();
        self.send(&mut state);
        self.finish(state, None);
    }

    /// Something has come. Called on the home, whose queue is `id`.
    fn receive(&self, id: u64) {
        let mut state = self.lock();
        let LinkState {
            phase: LinkPhase::Connected(session),
            flights,
            landed,
            ..
        } = &mut *state
        else {
            return;
        };
        let received = session.receive(flights, landed);
        if session.has_reply() {
            state.recovery.succeed();
        }
        match received {
            Ok(()) => self.send(&mut state),
            Err(loss) => self.lose(&mut state, &loss),
        }
        self.finish(state, Some(id));
    }

    fn send(&self, state: &mut LinkState) {
        let LinkState {
            phase: LinkPhase::Connected(session),
            flights,
            landed,
            ..
        } = state
        else {
            return;
        };
        match session.send(flights, landed) {
            Ok(is_full) if is_full != state.watches_writes => self.watch(state, is_full),
            Ok(_) => {}
            Err(loss) => self.lose(state, &loss),
        }
    }

    /// A callback of the loop, which does not keep the link.
    fn calling<F: Fn(&NbdLink) + Send + 'static>(&self, act: F) -> impl Fn() + Send + use<F> {
        let this = Weak::clone(&self.this);
        move || {
            if let Some(link) = this.upgrade() {
                act(&link);
            }
        }
    }

    /// The first user is the home from now on.
    fn arrive(&self, state: &mut LinkState) {
        match &state.phase {
            LinkPhase::Connected(_) => self.watch(state, true),
            LinkPhase::Connecting(_) | LinkPhase::Lost => self.connect(state),
            LinkPhase::Over => {}
        }
        self.watch_hurried(state);
    }

    /// Waits on the home for replies, and if the socket `is_full`, until it takes more.
    fn watch(&self, state: &mut LinkState, is_full: bool) {
        let (LinkPhase::Connected(session), Some(home)) = (&state.phase, state.users.first())
        else {
            return;
        };
        let id = home.id;
        let receive = self.calling(move |link| link.receive(id));
        let mut handler = FdHandler::new().on_read(receive);
        if is_full {
            handler = handler.on_write(self.calling(NbdLink::flush));
        }
        let watched = home.aio().set_fd_handler(session.fd(), handler);
        state.watches_writes = is_full;
        if let Err(error) = watched {
            self.lose(state, &Loss::Loop(error));
        }
    }

    /// Gives requests that have ended to their queues, and calls these: `here`, whose home this is, at once.
    fn finish(&self, mut state: MutexGuard<'_, LinkState>, here: Option<u64>) {
        let called = state.deliver();
        drop(state);
        for (id, gate) in called {
            if here == Some(id) {
                gate.call_owner();
            } else {
                gate.schedule();
            }
        }
    }

    /// The state is consistent after every single operation on it.
    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkState {
    fn is_home(&self, id: u64) -> bool {
        self.users.first().is_some_and(|user| user.id == id)
    }

    /// The home goes: nothing of the link is with it any more.
    fn depart(&mut self) {
        if let (LinkPhase::Connected(session), Some(home)) = (&self.phase, self.users.first()) {
            home.aio().remove_fd_handler(session.fd());
        }
        if let LinkPhase::Connecting(_) = self.phase {
            self.phase = LinkPhase::Lost;
        }
        self.watches_writes = false;
        self.silence = None;
        self.recovery.depart();
    }

    /// Puts requests that have ended into inboxes. Returns the queues that have something there.
    fn deliver(&mut self) -> Vec<(u64, Arc<Gate>)> {
        if self.landed.is_empty() && !self.owes_calls {
            return Vec::new();
        }
        let mut landed = mem::take(&mut self.landed);
        let mut called = Vec::new();
        for user in &self.users {
            let mut is_called = mem::take(&mut self.owes_calls);
            for one in landed.extract_if(.., |one| one.owner == user.id) {
                user.inbox.put(one.finished);
                is_called = true;
            }
            if is_called {
                called.push((user.id, Arc::clone(&user.gate)));
            }
        }
        landed.clear();
        self.landed = landed;
        called
    }
}

impl fmt::Debug for NbdLink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("NbdLink")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
