//! Event sources for virtual devices: fd handlers, bottom halves, nanosecond timers, notifiers, io_uring requests and
//! worker jobs, collected in an [`AioContext`].
//!
//! An AioContext is driven by exactly one thread at a time: by [`AioContext::poll`], by whoever iterates the GMainContext its
//! [`AioContext::g_source`] is attached to, or by the [`Reactor`] of a home thread that serves many AioContexts with one wait.
//!
//! # Threads
//! Everything may be registered, changed and removed from any thread with any lock held; nothing here waits for a callback,
//! and no lock is held while one runs. Callbacks run on the driving thread only.
#![deny(missing_docs)]
#![deny(unsafe_code)]

mod aio;
mod clock;
mod deadline;
mod error;
mod eventfd;
mod iohandler;
#[cfg(shuttle)]
mod kernel_model;
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
pub use aio::notifier::EventNotifier;
pub use aio::task::file::{AsyncFile, FileRequest};
pub use aio::task::wait::{Readiness, Sleep};
pub use aio::task::{JoinHandle, PoolRun};
pub use aio::timer::Timer;
pub use clock::{Clock, last_tick_ns};
pub use error::{Error, ErrorKind, Result};
pub use iohandler::IoHandlers;
pub use poller::epoll::Epoll;
pub use poller::io_sink::{IoCompletion, IoSink};
pub use poller::{Drivers, Poller};
pub use reactor::fd_handler::FdHandler;
pub use reactor::{Driving, PollParams, Reactor, Wait, start_virtual_clock, stop_virtual_clock};
pub use worker_pool::{Pool, PoolLimits, Work};
