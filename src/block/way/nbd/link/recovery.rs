//! What happens when a connection is lost, or when the server is silent.
//!
//! A lost main link connects again, with pauses that grow. Meanwhile requests wait, for as long as `reconnect-delay` says; after
//! that they fail, and others fail at once until there is a connection. What a lost connection had is repeated: a server may
//! carry out a write twice, which changes nothing. A server that breaks the protocol is not asked again.
//!
//! A queue that wants to rest has its requests back soon: they fail if there is no connection, or if the server does nothing for
//! some seconds.
#![forbid(unsafe_code)]

use std::mem;
use std::task::Poll;

use gsource::{AioContext, Clock, Timer};

use super::{LinkKind, LinkPhase, LinkState, NbdLink};
use crate::block::way::nbd::attempt::Attempt;
use crate::block::way::nbd::receiver::Loss;
use crate::block::way::nbd::session::NbdSession;

/// The first and the longest pause between attempts to connect.
const PAUSES_NS: [i64; 2] = [50_000_000, 5_000_000_000];
/// For how long a server may do nothing while a queue wants to rest.
const SILENCE_NS: i64 = if cfg!(test) {
    100_000_000
} else {
    10_000_000_000
};
/// So many bytes count as something, and so does a finished request.
const PROGRESS_MIN: u64 = 64 << 10;

/// What is known of the attempts to connect.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Before the next one.
    pause_ns: i64,
    /// Until then requests wait. It is set from a loss to the next reply.
    wait_until_ns: Option<i64>,
    /// Fires then.
    end_of_wait: Option<Timer>,
}

impl Recovery {
    /// Whether requests wait for a connection.
    pub(super) fn may_wait(&self) -> bool {
        self.wait_until_ns
            .is_some_and(|until| Clock::Realtime.now_ns() < until)
    }

    /// The server has replied.
    pub(super) fn succeed(&mut self) {
        if self.wait_until_ns.is_some() {
            *self = Recovery::default();
        }
    }

    /// The home goes.
    pub(super) fn depart(&mut self) {
        self.end_of_wait = None;
    }

    fn lose(&mut self, delay_ns: i64) {
        let until = || Clock::Realtime.now_ns().saturating_add(delay_ns);
        self.wait_until_ns.get_or_insert_with(until);
    }

    /// The pause before the next attempt.
    fn next_pause(&mut self) -> i64 {
        let [first, longest] = PAUSES_NS;
        let pause = self.pause_ns;
        self.pause_ns = (pause * 2).clamp(first, longest);
        pause
    }
}

/// Looks whether the server does something while a queue wants to rest.
#[derive(Debug)]
pub(super) struct SilenceWatch {
    timer: Timer,
    /// How far the server was when the timer was armed.
    progress: u64,
}

impl NbdLink {
    /// The connection is over.
    pub(super) fn lose(&self, state: &mut LinkState, loss: &Loss) {
        self.warn(loss);
        self.reset(state);
        if let Loss::Violation(_) = loss {
            state.phase = LinkPhase::Over;
            state.fail_waiting(|_| true);
            return;
        }
        if self.kind == LinkKind::Own {
            return self.give_back(state);
        }
        self.connect(state);
    }

    fn warn(&self, loss: &Loss) {
        let (address, export) = (&self.server.options.address, &self.server.options.export);
        glib::g_warning!("qcontext", "NBD export '{export}' at '{address}': {loss}");
    }

    /// Closes the connection. What it had waits.
    pub(super) fn reset(&self, state: &mut LinkState) {
        state.depart();
        state.phase = LinkPhase::Lost;
        state.flights.repeat();
        state.recovery.lose(self.server.options.reconnect_delay_ns);
    }

    /// The link is over, and its requests are for the main link.
    fn give_back(&self, state: &mut LinkState) {
        state.phase = LinkPhase::Over;
        let taken = state.flights.take_waiting(0, |_| true);
        if let Some(user) = state.users.first() {
            for one in taken {
                user.inbox.put_again(one.finished.request);
            }
            state.owes_calls = true;
        }
    }

    /// Connects on the home, if there is one, and lets requests wait or fail.
    pub(super) fn connect(&self, state: &mut LinkState) {
        state.phase = LinkPhase::Lost;
        let Some(home) = state.users.first() else {
            return;
        };
        let aio = home.aio().clone();
        let poll = self.calling(NbdLink::poll_attempt);
        let pause_ns = state.recovery.next_pause();
        let attempt = Attempt::begin(&self.server, &aio, pause_ns, poll);
        state.phase = LinkPhase::Connecting(attempt);
        self.limit_wait(state, &aio);
        let may_wait = state.recovery.may_wait();
        let users = mem::take(&mut state.users);
        state.fail_waiting(|owner| {
            let user = users.iter().find(|user| user.id == owner);
            !may_wait || user.is_some_and(|user| user.gate.is_hurried())
        });
        state.users = users;
    }

    fn limit_wait(&self, state: &mut LinkState, aio: &AioContext) {
        let recovery = &mut state.recovery;
        if let (Some(until), None) = (recovery.wait_until_ns, &recovery.end_of_wait) {
            let timer = aio.timer(Clock::Realtime, self.calling(NbdLink::end_wait));
            timer.arm_at_ns(until);
            recovery.end_of_wait = Some(timer);
        }
    }

    /// Goes on with the attempt to connect.
    fn poll_attempt(&self) {
        let mut state = self.lock();
        let LinkPhase::Connecting(attempt) = &mut state.phase else {
            return;
        };
        let Poll::Ready(outcome) = attempt.poll() else {
            return;
        };
        match outcome {
            Ok(opened) if self.server.accepts(&opened.1) => {
                state.phase = LinkPhase::Connected(Box::new(NbdSession::new(opened)));
                self.watch(&mut state, false);
                self.send(&mut state);
            }
            _ if self.kind == LinkKind::Own => self.give_back(&mut state),
            _ => self.connect(&mut state),
        }
        self.finish(state, None);
    }

    /// Requests have waited long enough for a connection.
    fn end_wait(&self) {
        let mut state = self.lock();
        if !matches!(state.phase, LinkPhase::Connected(_)) {
            state.fail_waiting(|_| true);
        }
        self.finish(state, None);
    }

    /// A queue wants to rest.
    pub(in crate::block::way::nbd) fn hurry(&self, id: u64) {
        let mut state = self.lock();
        if !matches!(state.phase, LinkPhase::Connected(_)) {
            state.fail_waiting(|owner| owner == id);
        } else if state.silence.is_none() && state.flights.has_of(id) {
            self.watch_silence(&mut state);
        }
        self.finish(state, None);
    }

    fn watch_silence(&self, state: &mut LinkState) {
        let (LinkPhase::Connected(session), Some(home)) = (&state.phase, state.users.first())
        else {
            return;
        };
        let progress = session.progress();
        let timer = home
            .aio()
            .timer(Clock::Realtime, self.calling(NbdLink::check_silence));
        timer.arm_in_ns(SILENCE_NS);
        state.silence = Some(SilenceWatch { timer, progress });
    }

    fn check_silence(&self) {
        let mut state = self.lock();
        let Some(watch) = state.silence.take() else {
            return;
        };
        let LinkPhase::Connected(session) = &state.phase else {
            return;
        };
        let mut users = state.users.iter();
        let is_wanted = users.any(|user| user.gate.is_hurried() && state.flights.has_of(user.id));
        if is_wanted && session.progress() < watch.progress + PROGRESS_MIN {
            self.lose(&mut state, &Loss::Silence);
        } else if is_wanted {
            self.watch_silence(&mut state);
        }
        drop(watch.timer);
        self.finish(state, None);
    }
}

impl LinkState {
    /// Ends the requests that wait and whose owner is `wanted`.
    fn fail_waiting(&mut self, wanted: impl Fn(u64) -> bool) {
        let taken = self
            .flights
            .take_waiting(-libc::EIO, |flight| wanted(flight.owner));
        self.landed.extend(taken);
    }
}
