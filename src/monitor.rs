//! The QMP server: management over sockets and stdio.
//!
//! A program creates a [`Monitor`] with its own [`Commands`], opens its sockets, and iterates `qcontext-main`. [`emit`]
//! sends an event to every client. The wire protocol, command names and error texts are QEMU's, so QEMU's clients work
//! unchanged. Out-of-band execution is not supported.
//!
//! # Threads
//! A monitor belongs to the thread that iterates the default `GMainContext`. Any thread may call [`emit`] and complete a
//! [`Reply`].
//!
//! # Invariants
//! 1. A session executes its requests one at a time, in the order of their arrival. Its replies keep that order.
//! 2. In one turn of the main loop a session does a bounded amount of work. Its memory is bounded too: one request of
//!    4 MiB at most, and about 1 MiB of unread output.
//! 3. No borrow of a session is held while a command runs.
//!
//! # Example
//! ```
//! use qcontext::monitor::{Commands, Monitor};
//! use qcontext::object::Value;
//! use qcontext::schema::{CommandType, NOTHING, ValueType};
//!
//! static ANSWER: CommandType = CommandType::returning("x-answer", &NOTHING, ValueType::Int);
//!
//! let mut commands = Commands::new();
//! commands.add(&ANSWER, |_| Ok(Value::from(42_i64)));
//! let path = std::env::temp_dir().join(format!("qmp-{}.sock", std::process::id()));
//! let mut monitor = Monitor::new(commands);
//! monitor.listen(&path)?;
//! // From here on, iterating `QContext::main()` serves the clients.
//! drop(monitor);
//! assert!(!path.exists());
//! # Ok::<(), qcontext::Error>(())
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "vhost-user")]
mod block;
mod builtin;
mod chardev;
mod command;
mod connector;
mod event;
#[cfg(feature = "vhost-user")]
mod export;
mod input;
#[cfg(feature = "vhost-user")]
mod job;
mod main_loop;
mod message;
#[cfg(feature = "vhost-user")]
mod nbd;
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

pub use chardev::{Chardev, ChardevAddress, ChardevBackend};
pub use command::Commands;
pub use event::emit;
#[cfg(feature = "vhost-user")]
#[doc(hidden)] // for the end of qctx
pub use export::emit_export_deleted;
pub use reply::Reply;

use crate::Result;
use chardev::{Chardevs, SessionStyle};
use connector::QmpConnector;
use socket::QmpListener;

/// A QMP server with its sockets and clients. Dropping it closes the connections and removes the sockets.
#[derive(Debug)]
pub struct Monitor {
    commands: Rc<Commands>,
    chardevs: Chardevs,
    listeners: Vec<QmpListener>,
    connectors: Vec<Rc<QmpConnector>>,
}

impl Monitor {
    /// Creates a server without sockets. It has the built-in commands and `commands`, which replace built-in ones of the
    /// same name.
    pub fn new(commands: Commands) -> Monitor {
        let chardevs = Chardevs::default();
        let mut all = builtin::commands();
        chardev::add(&mut all, &chardevs);
        all.extend(commands);
        Monitor {
            commands: Rc::new(all),
            chardevs,
            listeners: Vec::new(),
            connectors: Vec::new(),
        }
    }

    /// Serves the clients of a character device.
    ///
    /// # Errors
    /// Another process listens at its path; it is there and not a socket; a client cannot be reached; a system call fails.
    pub fn open(&mut self, chardev: Chardev) -> Result<()> {
        let backend = chardev.backend.clone();
        let style = Rc::new(SessionStyle {
            chardev: chardev.clone(),
            commands: Rc::clone(&self.commands),
        });
        let serving = Rc::clone(&style);
        let welcome = move |stream| serving.start(stream, None);
        match backend {
            ChardevBackend::Stdio => style.start(stdio::stream()?, None),
            ChardevBackend::Server(ChardevAddress::Unix(path)) => {
                self.listeners.push(QmpListener::open(&path, welcome)?);
            }
            ChardevBackend::Server(ChardevAddress::Inet { host, port }) => {
                let listener = QmpListener::open_tcp(&host, port, welcome)?;
                self.listeners.push(listener);
            }
            ChardevBackend::Client(address, reconnect) => {
                let connector = QmpConnector::open(address, reconnect, style)?;
                self.connectors.push(connector);
            }
        }
        self.chardevs.borrow_mut().push(chardev);
        Ok(())
    }

    /// Listens at the Unix socket `path`, for this user only. Replaces a socket that a dead process left there.
    ///
    /// # Errors
    /// Another process listens at `path`, `path` is not a socket, or a system call fails.
    pub fn listen(&mut self, path: &Path) -> Result<()> {
        let address = ChardevAddress::Unix(path.to_owned());
        self.open_unnamed(ChardevBackend::Server(address))
    }

    /// Serves one client on standard input and output.
    ///
    /// # Errors
    /// Standard input or output cannot be duplicated.
    pub fn serve_stdio(&mut self) -> Result<()> {
        self.open_unnamed(ChardevBackend::Stdio)
    }

    /// Opens a character device under QEMU's name for those of `-qmp`.
    fn open_unnamed(&mut self, backend: ChardevBackend) -> Result<()> {
        let number = self.chardevs.borrow().len();
        self.open(Chardev {
            id: format!("compat_monitor{number}"),
            backend,
            is_pretty: false,
        })
    }

    /// Whether a client of the character device is connected.
    pub fn is_connected(&self, chardev: &str) -> bool {
        session::is_connected(chardev)
    }

    /// Stops accepting clients and reading requests. Queued replies are still sent.
    pub fn shut_down(&mut self) {
        self.stop_accepting();
        session::all().iter().for_each(|session| session.hang_up());
    }

    fn stop_accepting(&mut self) {
        self.listeners.clear();
        for connector in self.connectors.drain(..) {
            connector.stop();
        }
    }

    /// Whether the output of every client has been written.
    pub fn is_quiet(&self) -> bool {
        session::all().iter().all(|session| session.is_flushed())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop_accepting();
        session::all().iter().for_each(|session| session.close());
    }
}
