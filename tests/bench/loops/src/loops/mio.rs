//! mio: readiness and wake-ups; what is not there (callbacks, timers) is not measured.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::Result;
use crate::event_loop::{Action, Fds, Kind, Loop, Posts, Wait, Wakes, hit, receive};

const WAKE: Token = Token(usize::MAX);

type Queue = Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>>;

pub(crate) struct Mio {
    poll: Poll,
    events: Events,
    queue: Queue,
}

impl Mio {
    fn wake_up(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let posts = std::mem::take(&mut *queue);
        drop(queue);
        if posts.is_empty() {
            hit();
        }
        posts.into_iter().for_each(|post| post());
    }
}

impl Loop for Mio {
    const NAME: &'static str = "mio";
    const KIND: Kind = Kind::Peer;

    fn new() -> Result<Self> {
        Ok(Mio {
            poll: Poll::new()?,
            events: Events::with_capacity(256),
            queue: Queue::default(),
        })
    }

    fn iterate(&mut self, wait: Wait) {
        let timeout = (wait == Wait::NoBlock).then_some(Duration::ZERO);
        if self.poll.poll(&mut self.events, timeout).is_err() {
            return;
        }
        for event in &self.events {
            match event.token() {
                WAKE => self.wake_up(),
                Token(fd) => Action::Read.perform(RawFd::try_from(fd).unwrap_or(-1)),
            }
        }
    }
}

impl Fds for Mio {
    /// Edge-triggered, so every fd is read.
    fn watch(&mut self, fd: RawFd, _action: Action) -> Result<()> {
        let token = Token(usize::try_from(fd)?);
        let registry = self.poll.registry();
        Ok(registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?)
    }

    fn unwatch(&mut self, fd: RawFd) {
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
    }
}

impl Wakes for Mio {
    type Waker = Waker;

    fn waker(&mut self) -> Result<Waker> {
        Ok(Waker::new(self.poll.registry(), WAKE)?)
    }

    fn wake(waker: &Waker) {
        let _ = waker.wake();
    }
}

#[derive(Clone)]
pub(crate) struct Poster {
    waker: Arc<Waker>,
    queue: Queue,
}

impl Posts for Mio {
    type Poster = Poster;

    fn poster(&mut self) -> Result<Poster> {
        Ok(Poster {
            waker: Arc::new(self.waker()?),
            queue: Arc::clone(&self.queue),
        })
    }

    /// One wake-up for each batch: the thread that finds the list empty wakes the loop.
    fn post(poster: &Poster, number: u64) {
        let mut queue = poster.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let first = queue.is_empty();
        queue.push(Box::new(move || receive(number)));
        drop(queue);
        if first {
            let _ = poster.waker.wake();
        }
    }
}
