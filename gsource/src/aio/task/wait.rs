//! What a task can wait for: a time, an fd, a notifier.
//!
//! These futures may be created anywhere and polled by any executor; they are served by the home of their AioContext. They
//! hold no handle of it: when the context is torn down, readiness answers `Closed` and a sleep never ends.
#![forbid(unsafe_code)]

use super::promise::Promise;
use crate::reactor::fd_record::FdRecord;
use crate::reactor::tenant::{Tenant, closed};
use crate::{AioContext, Clock, EventNotifier, FdHandler, Result, Timer};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};

/// Ends at a time of a clock. Dropping it cancels its timer.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    timer: Timer,
    deadline_ns: i64,
    fired: Arc<Promise<()>>,
    is_armed: bool,
}

impl AioContext {
    /// Waits until `deadline_ns` of `clock`; a time in the past ends in the next iteration.
    pub fn sleep_until_ns(&self, clock: Clock, deadline_ns: i64) -> Sleep {
        let fired = Arc::new(Promise::new());
        let fire = Arc::clone(&fired);
        Sleep {
            timer: self.timer(clock, move || fire.set(())),
            deadline_ns,
            fired,
            is_armed: false,
        }
    }

    /// Waits for `delay_ns` of `clock`, counted from this call.
    pub fn sleep_ns(&self, clock: Clock, delay_ns: i64) -> Sleep {
        self.sleep_until_ns(clock, clock.now_ns().saturating_add(delay_ns))
    }

    /// Waits until `fd` is readable, hung up or in error. It goes beside the fd's handler, if it has one. The fd stays open
    /// until the future has ended or is dropped.
    ///
    /// ```
    /// # use gsource::{AioContext, Wait};
    /// use std::io::{Read, Write};
    /// use std::os::fd::AsRawFd;
    /// let (mut here, mut there) = std::os::unix::net::UnixStream::pair().unwrap();
    /// let aio = AioContext::new()?;
    /// let reader = aio.clone();
    /// let task = aio.spawn_local(async move {
    ///     reader.readable(here.as_raw_fd()).await?;
    ///     let mut byte = [0];
    ///     here.read_exact(&mut byte).unwrap();
    ///     gsource::Result::Ok(byte)
    /// })?;
    /// there.write_all(b"x").unwrap();
    /// while !task.is_finished() {
    ///     aio.poll(Wait::Block)?;
    /// }
    /// assert_eq!(task.try_take().unwrap()??, *b"x");
    /// # Ok::<(), gsource::Error>(())
    /// ```
    pub fn readable(&self, fd: RawFd) -> Readiness {
        Readiness::new(self, fd, Direction::Read)
    }

    /// As [`AioContext::readable`], for writing.
    pub fn writable(&self, fd: RawFd) -> Readiness {
        Readiness::new(self, fd, Direction::Write)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let poll = self.fired.poll(context);
        if !self.is_armed {
            self.is_armed = true;
            self.timer.arm_at_ns(self.deadline_ns);
        }
        poll
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// Ends when an fd is ready; see [`AioContext::readable`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Readiness {
    tenant: Weak<Tenant>,
    fd: RawFd,
    direction: Direction,
    answer: Arc<Promise<Result<()>>>,
    /// Present once the fd is watched.
    record: Option<Weak<FdRecord>>,
}

/// The callback's end of a [`Readiness`]. It is dropped uncalled when the context is torn down.
struct Answer(Arc<Promise<Result<()>>>);

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.set(Err(closed()));
    }
}

impl Readiness {
    fn new(aio: &AioContext, fd: RawFd, direction: Direction) -> Readiness {
        Readiness {
            tenant: Arc::downgrade(aio.tenant()),
            fd,
            direction,
            answer: Arc::new(Promise::new()),
            record: None,
        }
    }

    fn watch(&mut self) -> Result<()> {
        let tenant = self.tenant.upgrade().ok_or_else(closed)?;
        let own = Arc::new(OnceLock::<Weak<FdRecord>>::new());
        let (answer, this) = (Answer(Arc::clone(&self.answer)), Arc::clone(&own));
        let ready = move || {
            // Level-triggered, so it must go before the next wait.
            unwatch(this.get());
            answer.0.set(Ok(()));
        };
        let handler = match self.direction {
            Direction::Read => FdHandler::new().on_read(ready),
            Direction::Write => FdHandler::new().on_write(ready),
        };
        let record = Arc::new(FdRecord::new(
            self.fd,
            handler.waiting(),
            Weak::clone(&self.tenant),
        ));
        let weak = Arc::downgrade(&record);
        // The home may call at once.
        let _ = own.set(Weak::clone(&weak));
        tenant.add_waiter(record)?;
        self.record = Some(weak);
        Ok(())
    }
}

/// Takes a record out of its context, if it is still there.
fn unwatch(record: Option<&Weak<FdRecord>>) {
    if let Some(record) = record.and_then(Weak::upgrade) {
        record.remove();
    }
}

impl Future for Readiness {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.record.is_none()
            && let Err(error) = self.watch()
        {
            return Poll::Ready(Err(error));
        }
        self.answer.poll(context)
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        unwatch(self.record.as_ref());
    }
}

impl EventNotifier {
    /// Waits on the home of `aio` until the notifier is signalled, and takes the signal.
    ///
    /// # Errors
    /// The kernel's, when it cannot watch the notifier; `Closed` when `aio` is torn down.
    ///
    /// ```
    /// # use gsource::{AioContext, EventNotifier, Wait};
    /// # use std::sync::Arc;
    /// let aio = AioContext::new()?;
    /// let notifier = Arc::new(EventNotifier::new()?);
    /// let (waiter, here) = (Arc::clone(&notifier), aio.clone());
    /// let task = aio.spawn_local(async move { waiter.wait(&here).await })?;
    /// notifier.signal();
    /// while !task.is_finished() {
    ///     aio.poll(Wait::Block)?;
    /// }
    /// assert!(!notifier.take());
    /// # Ok::<(), gsource::Error>(())
    /// ```
    pub async fn wait(&self, aio: &AioContext) -> Result<()> {
        while !self.take() {
            aio.readable(self.as_raw_fd()).await?;
        }
        Ok(())
    }
}
