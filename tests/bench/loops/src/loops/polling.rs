//! Our reactor with busy-polling on.
#![forbid(unsafe_code)]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qcontext::{AioContext, FdHandler, PollParams, Wait};

use super::ours::{Ours, Own};
use crate::Result;
use crate::event_loop::{Kind, Loop, Wakes, hit};
use crate::eventfd::{self, EventFd};

fn polling() -> Result<Own> {
    let own = <Own>::new()?;
    own.reactor.set_poll_params(PollParams {
        max_ns: 32_768,
        ..PollParams::default()
    })?;
    Ok(own)
}

/// Woken by bottom halves.
pub(crate) struct PollingBh(Own);

impl Loop for PollingBh {
    const NAME: &'static str = "reactor polling bh";
    const KIND: Kind = Kind::Ours;

    fn new() -> Result<Self> {
        polling().map(PollingBh)
    }

    fn iterate(&mut self, wait: Wait) {
        self.0.iterate(wait);
    }
}

impl Ours for PollingBh {
    fn aio(&self) -> &AioContext {
        self.0.aio()
    }
}

/// Woken as a device by its driver: a word in shared memory, and a notification unless those are off.
pub(crate) struct PollingKick(Own);

pub(crate) struct Kick {
    word: AtomicBool,
    notifications_off: AtomicBool,
    fd: EventFd,
}

impl Kick {
    fn serve(&self) {
        if self.word.swap(false, Ordering::SeqCst) {
            hit();
        }
    }
}

impl Loop for PollingKick {
    const NAME: &'static str = "reactor polling";
    const KIND: Kind = Kind::Ours;

    fn new() -> Result<Self> {
        polling().map(PollingKick)
    }

    fn iterate(&mut self, wait: Wait) {
        self.0.iterate(wait);
    }
}

impl Wakes for PollingKick {
    type Waker = Arc<Kick>;

    fn waker(&mut self) -> Result<Arc<Kick>> {
        let kick = Arc::new(Kick {
            word: AtomicBool::new(false),
            notifications_off: AtomicBool::new(false),
            fd: EventFd::new()?,
        });
        let [read, poll, ready, switch] = [(); 4].map(|()| Arc::clone(&kick));
        let handler = FdHandler::new()
            .on_read(move || {
                eventfd::read(read.fd.as_raw_fd());
                read.serve();
            })
            .io_poll(
                move || poll.word.load(Ordering::SeqCst),
                move || ready.serve(),
            )
            .io_poll_switch(move |polling| {
                switch.notifications_off.store(polling, Ordering::SeqCst);
            });
        self.0.aio().set_fd_handler(kick.fd.as_raw_fd(), handler)?;
        Ok(kick)
    }

    fn wake(waker: &Arc<Kick>) {
        waker.word.store(true, Ordering::SeqCst);
        if !waker.notifications_off.load(Ordering::SeqCst) {
            waker.fd.signal();
        }
    }
}
