//! The QMP server: machine-readable management over Unix sockets and stdio.
//!
//! A program makes a [`Monitor`] from the [`Commands`] it offers, opens its sockets, and iterates `qcontext-main`;
//! [`emit`] sends an event to every client. The wire protocol, command names and error texts are QEMU's, so that its
//! clients work unchanged. Out-of-band execution is not offered.
//!
//! # Threads
//! A monitor lives on the thread that iterates the default `GMainContext`. [`emit`] and [`Reply`] work from any thread.
//!
//! # Invariants
//! 1. A session executes one request at a time, in the order they came; replies keep that order.
//! 2. A session does a bounded amount of work per turn of the main loop, and holds a bounded amount of memory: one
//!    request within [`crate::json::Limits`], and unread output of about 1 MiB.
//! 3. No borrow of a session is held while a command's handler runs.
#![forbid(unsafe_code)]

mod builtin;
mod command;
mod event;
mod input;
mod main_loop;
mod message;
mod outbox;
mod qom;
mod query;
mod reply;
mod session;
mod socket;
mod stdio;
mod stream;
mod version;

use std::path::Path;
use std::rc::Rc;

pub use command::Commands;
pub use event::emit;
pub use reply::Reply;

use crate::Result;
use session::Session;
use socket::Listener;

/// A QMP server with its sockets and clients; dropping it hangs up and removes the sockets.
#[derive(Debug)]
pub struct Monitor {
    commands: Rc<Commands>,
    listeners: Vec<Listener>,
}

impl Monitor {
    /// A server for the built-in commands and for `commands`, without a socket yet. A command of the program's replaces
    /// a built-in one of the same name.
    pub fn new(commands: Commands) -> Monitor {
        let mut all = builtin::commands();
        all.extend(commands);
        Monitor {
            commands: Rc::new(all),
            listeners: Vec::new(),
        }
    }

    /// Makes the server reachable at the Unix socket `path`, for this user only. A socket that a dead process left
    /// there is replaced.
    ///
    /// # Errors
    /// Somebody listens at `path`, something that is not a socket is there, or the system refuses.
    pub fn listen(&mut self, path: &Path) -> Result<()> {
        let commands = self.commands.clone();
        let listener =
            Listener::open(path, move |stream| Session::start(stream, commands.clone()))?;
        self.listeners.push(listener);
        Ok(())
    }

    /// Serves one client on standard input and output.
    ///
    /// # Errors
    /// The system refuses to duplicate the two.
    pub fn serve_stdio(&mut self) -> Result<()> {
        Session::start(stdio::stream()?, self.commands.clone());
        Ok(())
    }

    /// Stops accepting clients and reading requests; replies that are under way still go out.
    pub fn shut_down(&mut self) {
        self.listeners.clear();
        session::all().iter().for_each(|session| session.hang_up());
    }

    /// Whether every client has received all that it was sent, or left.
    pub fn is_quiet(&self) -> bool {
        session::all().iter().all(|session| session.is_flushed())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.listeners.clear();
        session::all().iter().for_each(|session| session.close());
    }
}
