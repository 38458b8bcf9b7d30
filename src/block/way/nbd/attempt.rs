//! An attempt to connect: a future that the home of a link polls, in a bottom half.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use gsource::{AioContext, Bh, Clock};

use super::handshake::{self, Opened, Opening};
use super::server::NbdServer;
use crate::Result;

/// An attempt to connect. Dropping it gives it up.
pub(super) struct Attempt {
    opening: Opening,
    waker: Waker,
}

/// Schedules the bottom half that polls.
struct AttemptWake(Bh);

impl Wake for AttemptWake {
    fn wake(self: Arc<Self>) {
        self.0.schedule();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.schedule();
    }
}

impl Attempt {
    /// Begins to connect after a pause. `poll` runs on the home of `aio`, and polls the attempt.
    pub(super) fn begin(
        server: &Arc<NbdServer>,
        aio: &AioContext,
        pause_ns: i64,
        poll: impl Fn() + Send + 'static,
    ) -> Attempt {
        let (server, home) = (Arc::clone(server), aio.clone());
        let opening = async move {
            home.sleep_ns(Clock::Realtime, pause_ns).await;
            handshake::open(&home, &server.options, i64::MAX).await
        };
        let wake = Arc::new(AttemptWake(aio.bh("nbd-connect", poll)));
        wake.0.schedule();
        Attempt {
            opening: Box::pin(opening),
            waker: Waker::from(wake),
        }
    }

    pub(super) fn poll(&mut self) -> Poll<Result<Opened>> {
        let mut context = Context::from_waker(&self.waker);
        self.opening.as_mut().poll(&mut context)
    }
}
