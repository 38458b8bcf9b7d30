//! Event sources for virtual devices, as custom GSources: fd handlers, bottom halves, nanosecond timers, notifiers, io_uring
//! requests, worker jobs and async tasks, all of them parts of an [`AioContext`].
//!
//! ```
//! use gsource::{AioContext, Clock, EventNotifier, FdHandler, Wait};
//! use std::os::fd::AsRawFd;
//! use std::sync::Arc;
//!
//! let aio = AioContext::new()?;
//! // An fd handler: another thread, KVM or a vhost-user front end signals the notifier.
//! let kick = Arc::new(EventNotifier::new()?);
//! let taken = Arc::clone(&kick);
//! let handler = FdHandler::new().on_read(move || assert!(taken.take()));
//! aio.set_fd_handler(kick.as_raw_fd(), handler)?;
//! // A bottom half, which any thread can schedule, and a timer.
//! let bh = aio.bh("example", || println!("soon"));
//! let timer = aio.timer(Clock::Realtime, || println!("50 us later"));
//!
//! kick.signal();
//! bh.schedule();
//! timer.arm_in_ns(50_000);
//! while timer.is_armed() {
//!     aio.poll(Wait::Block)?;
//! }
//! # Ok::<(), gsource::Error>(())
//! ```
//!
//! # Who drives an AioContext
//! One thread at a time, in one of three ways:
//! * [`AioContext::poll`], one iteration per call;
//! * a GMainContext, to which the context's [`AioContext::g_source`] is attached;
//! * a home: a thread that keeps a [`Reactor`] and waits once for all AioContexts that were put on it with
//!   [`AioContext::attach_to`].
//!
//! # Threads
//! Every thread may register, change and remove everything, with any lock held. Nothing here waits for a callback, and no lock is
//! held while one runs. Callbacks run on the driving thread only.
//!
//! # Processes
//! After a fork(2), what was made before belongs to the parent. In the child it is refused: no thread drives it (`WrongThread`), no fd
//! can be added, and a removal leaves the parent's poll set alone. The child may make its own.
//!
//! # Map
//! From above; no module imports one that stands above it.
//!
//! | module | holds |
//! |---|---|
//! | `aio`, `iohandler`, `source` | the AioContext with its handles, jobs, tasks and files; the classic fd handlers; the GSource |
//! | `reactor` | what one thread waits for at once, and a turn of it; its own map is in its header |
//! | `poller` | epoll, io_uring and poll |
//! | `list`, `deadline`, `worker_pool` | the lock-free list, the heap of deadlines, the threads for blocking work |
//! | `clock`, `eventfd`, `fork`, `error`, `panic_boundary`, `sync` | clocks, the kernel's eventfd, errors, panics, locks and atomics |
#![deny(missing_docs)]
#![deny(unsafe_code)]

mod aio;
mod clock;
mod deadline;
mod error;
mod eventfd;
mod fork;
mod iohandler;
#[cfg(shuttle)]
mod kernel_model;
mod limit;
mod list;
mod panic_boundary;
mod poller;
mod reactor;
#[cfg(all(test, shuttle))]
mod scenarios;
#[cfg(test)]
mod skip;
mod source;
mod sync;
mod worker_pool;

pub use aio::AioContext;
pub use aio::bh::Bh;
pub use aio::file_call::{FileCall, IoMemory};
pub use aio::file_requests::FileRequests;
pub use aio::io_queue::{IoBatch, IoQueue};
pub use aio::job::Job;
#[doc(hidden)] // for the C ABI
pub use aio::leftovers::Tie;
pub use aio::notifier::EventNotifier;
pub use aio::task::file::{AsyncFile, FileRequest};
pub use aio::task::wait::{Readiness, Sleep};
pub use aio::task::{JoinHandle, PoolRun};
pub use aio::timer::Timer;
pub use clock::Clock;
#[doc(hidden)] // for the contexts of qcontext
pub use clock::last_tick_ns;
pub use error::{Error, ErrorKind, Result};
pub use iohandler::IoHandlers;
pub use limit::Resource;
#[doc(hidden)] // for the contexts of qcontext
pub use poller::epoll::Epoll;
pub use poller::io_sink::{IoCompletion, IoSink};
pub use poller::{Drivers, Poller};
pub use reactor::fd_handler::FdHandler;
#[doc(hidden)] // for the contexts of qcontext
pub use reactor::step_virtual_clock;
pub use reactor::{
    Driving, PollParams, Reactor, Wait, deadline_ns, set_virtual_clock, start_virtual_clock,
    stop_virtual_clock,
};
pub use worker_pool::{Pool, PoolLimits, Work};
