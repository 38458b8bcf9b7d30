//! What happens when a connection is lost, or when the server is silent.
//!
//! A lost main link connects again, with pauses that grow. Meanwhile requests wait, for as long as `reconnect-delay` says; after
//! that they fail, and others fail at once until there is a connection. What a lost connection had is repeated: a server may
//! carry out a write twice, which changes nothing. A server that breaks the protocol is not asked again.
//!
//! A queue that wants to rest has its requests back soon: they fail if there is no connection, or if the server does nothing for
//! some seconds. During a drain they also wait these seconds for a connection.
#![forbid(unsafe_code)]

use std::mem;
use std::task::Poll;

use gsource::{AioContext, Clock, Timer};

use super::{LinkKind, LinkPhase, LinkState, NbdLink};
use crate::block::gate::Gate;
use crate::block::way::nbd::attempt::Attempt;
use crate::block::way::nbd::handshake::Opened;
use crate::block::way::nbd::receiver::Loss;
use crate::block::way::nbd::session::NbdSession;

/// The first and the longest pause between attempts to connect.
const PAUSES_NS: [i64; 2] = [50_000_000, 5_000_000_000];
/// For how long a server may do nothing, or be away, while a queue is to have its requests back.
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
    /// A server that has come back was refused since the loss.
    has_refused: bool,
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

/// Looks whether the server does something while a queue is to have its requests back.
#[derive(Debug)]
pub(super) struct SilenceWatch {
    timer: Timer,
    /// How far the connection was when the timer was armed; 0 if there was none.
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
        if let Loss::Silence = loss {
            state.fail_waiting_of(Gate::is_hurried);
        }
    }

    fn warn(&self, loss: &Loss) {
        let (address, export) = (&self.server.options.address, &self.server.options.export);
        glib::g_warning!("qcontext", "NBD export '{export}' at '{address}': {loss}");
    }

    /// Closes the connection. What it had waits.
    pub(super) fn reset(&self, state: &mut LinkState) {
        let silence = state.silence.take();
        state.depart();
        state.silence = silence;
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
        if state.recovery.may_wait() {
            state.fail_waiting_of(Gate::wants_rest);
        } else {
            state.fail_waiting(|_| true);
        }
        self.watch_hurried(state);
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
            Ok(opened) => match self.server.accept(&opened.1) {
                Ok(()) => self.begin(&mut state, opened),
                Err(lack) => self.refuse(&mut state, lack),
            },
            Err(_) => self.fail_attempt(&mut state),
        }
        self.finish(state, None);
    }

    fn begin(&self, state: &mut LinkState, opened: Opened) {
        state.phase = LinkPhase::Connected(Box::new(NbdSession::new(opened)));
        if let Some(watch) = &mut state.silence {
            watch.progress = 0;
        }
        self.watch(state, false);
        self.send(state);
    }

    /// The export is not what it was.
    fn refuse(&self, state: &mut LinkState, lack: &'static str) {
        if !mem::replace(&mut state.recovery.has_refused, true) {
            self.warn(&Loss::Refused(lack));
        }
        self.fail_attempt(state);
    }

    fn fail_attempt(&self, state: &mut LinkState) {
        match self.kind {
            LinkKind::Own => self.give_back(state),
            LinkKind::Main => self.connect(state),
        }
    }

    /// Requests have waited long enough for a connection.
    fn end_wait(&self) {
        let mut state = self.lock();
        if !matches!(state.phase, LinkPhase::Connected(_)) {
            state.fail_waiting(|_| true);
        }
        self.finish(state, None);
    }

    /// A queue is to have its requests back.
    pub(in crate::block::way::nbd) fn hurry(&self, id: u64) {
        let mut state = self.lock();
        if !matches!(state.phase, LinkPhase::Connected(_)) {
            state.fail_waiting_of(|gate| gate.wants_rest());
        }
        if state.flights.has_of(id) {
            self.watch_hurried(&mut state);
        }
        self.finish(state, None);
    }

    /// Watches the server if there are requests that are to come back.
    pub(super) fn watch_hurried(&self, state: &mut LinkState) {
        if state.silence.is_none() && state.has_hurried() {
            self.watch_silence(state);
        }
    }

    fn watch_silence(&self, state: &mut LinkState) {
        let Some(home) = state.users.first() else {
            return;
        };
        let progress = match &state.phase {
            LinkPhase::Connected(session) => session.progress(),
            _ => 0,
        };
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
        let has_progress = match &state.phase {
            LinkPhase::Connected(session) => session.progress() >= watch.progress + PROGRESS_MIN,
            _ => false,
        };
        if has_progress || !state.has_hurried() {
            self.watch_hurried(&mut state);
        } else if let LinkPhase::Connected(_) = state.phase {
            self.lose(&mut state, &Loss::Silence);
        } else {
            state.fail_waiting_of(Gate::is_hurried);
        }
        drop(watch.timer);
        self.finish(state, None);
    }
}

impl LinkState {
    /// Whether there are requests of queues that are to have them back.
    fn has_hurried(&self) -> bool {
        let mut users = self.users.iter();
        users.any(|user| user.gate.is_hurried() && self.flights.has_of(user.id))
    }

    /// Ends the requests that wait and whose queue's gate is `wanted`.
    fn fail_waiting_of(&mut self, wanted: impl Fn(&Gate) -> bool) {
        let users = mem::take(&mut self.users);
        self.fail_waiting(|owner| {
            let user = users.iter().find(|user| user.id == owner);
            user.is_some_and(|user| wanted(&user.gate))
        });
        self.users = users;
    }

    /// Ends the requests that wait and whose owner is `wanted`.
    fn fail_waiting(&mut self, wanted: impl Fn(u64) -> bool) {
        let taken = self
            .flights
            .take_waiting(-libc::EIO, |flight| wanted(flight.owner));
        self.landed.extend(taken);
    }
}
