//! The monitor's listening sockets.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use gio::prelude::*;
use glib::thread_guard::ThreadGuard;

use super::stream::Stream;
use super::{message, session};
use crate::unix_socket::{ListenError, ListeningSocket, SocketAccess};
use crate::{Error, ErrorKind, Result};

/// The most clients of one process. Further connections are closed.
const CLIENT_LIMIT: usize = 64;
/// The pause after a failed accept, for example when the process has no fd left.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket. Dropping it removes a Unix socket from the file system.
#[derive(Debug)]
pub(super) struct QmpListener {
    /// `None` for TCP.
    _socket: Option<ListeningSocket>,
    acceptor: Rc<Acceptor>,
}

impl QmpListener {
    /// Listens at `path`, for this user only, and calls `welcome` with each client.
    pub(super) fn open(path: &Path, welcome: impl Fn(Stream) + 'static) -> Result<QmpListener> {
        let failed = |error: ListenError| error.describe("", &format!("'{}'", path.display()));
        let listening = ListeningSocket::open(path, SocketAccess::Owner).map_err(failed)?;
        let fd = listening
            .try_clone()
            .map_err(|error| failed(error.into()))?;
        let name = path.display().to_string();
        QmpListener::serve(&name, fd, Some(listening), welcome)
    }

    /// Listens at a TCP port and calls `welcome` with each client.
    pub(super) fn open_tcp(
        host: &str,
        port: u16,
        welcome: impl Fn(Stream) + 'static,
    ) -> Result<QmpListener> {
        let name = format!("{host}:{port}");
        let listening = TcpListener::bind((host, port))
            .map_err(|error| Error::os(format!("cannot listen at '{name}'"), error))?;
        QmpListener::serve(&name, listening.into(), None, welcome)
    }

    fn serve(
        name: &str,
        fd: OwnedFd,
        listening: Option<ListeningSocket>,
        welcome: impl Fn(Stream) + 'static,
    ) -> Result<QmpListener> {
        let socket = gio::Socket::from_fd(fd).map_err(|error| {
            let message = format!("cannot listen at '{name}': {}", error.message());
            Error::new(ErrorKind::Os, message)
        })?;
        socket.set_blocking(false);
        let acceptor = Rc::new(Acceptor {
            socket,
            name: name.to_owned(),
            welcome: Box::new(welcome),
            source: RefCell::new(None),
            warned: Cell::new(false),
        });
        acceptor.arm();
        Ok(QmpListener {
            _socket: listening,
            acceptor,
        })
    }
}

impl Drop for QmpListener {
    fn drop(&mut self) {
        self.acceptor.disarm();
    }
}

/// The part of a listener that its sources use.
struct Acceptor {
    socket: gio::Socket,
    /// Where it listens, for messages.
    name: String,
    welcome: Box<dyn Fn(Stream)>,
    source: RefCell<Option<glib::Source>>,
    /// It was reported that no client is accepted; none has been since.
    warned: Cell<bool>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acceptor").field(&self.socket).finish()
    }
}

impl Acceptor {
    fn arm(self: &Rc<Self>) {
        let weak = Rc::downgrade(self);
        self.wait_for(SocketExtManual::create_source(
            &self.socket,
            glib::IOCondition::IN,
            None::<&gio::Cancellable>,
            Some("qcontext-monitor-listener"),
            glib::Priority::DEFAULT,
            move |_, _| {
                if let Some(acceptor) = weak.upgrade() {
                    acceptor.accept();
                }
                glib::ControlFlow::Continue
            },
        ));
    }

    fn accept(self: &Rc<Self>) {
        match self.socket.accept(None::<&gio::Cancellable>) {
            Ok(client) if session::all().len() < CLIENT_LIMIT => {
                self.warned.set(false);
                let connection = client.connection_factory_create_connection();
                if let Some(stream) = Stream::of(connection) {
                    (self.welcome)(stream);
                }
            }
            Ok(client) => self.turn_away(&client),
            Err(error) if error.matches(gio::IOErrorEnum::WouldBlock) => {}
            // Most likely no fd is left. The client stays in the backlog, so without a pause this would spin.
            Err(error) => {
                self.warn(
                    |what| match error.matches(gio::IOErrorEnum::TooManyOpenFiles) {
                        true => Error::os(what, io::Error::from_raw_os_error(libc::EMFILE)),
                        false => Error::new(ErrorKind::Os, format!("{what}: {}", error.message())),
                    },
                );
                self.pause();
            }
        }
    }

    /// Tells the client why it is not served. Dropping it closes the connection.
    fn turn_away(&self, client: &gio::Socket) {
        let reason = format!("{CLIENT_LIMIT} clients are connected, which is the limit");
        self.warn(|what| Error::new(ErrorKind::LimitExceeded, format!("{what}: {reason}")));
        let error = Error::new(ErrorKind::LimitExceeded, reason);
        client.set_blocking(false);
        // The socket is new, so it takes a line; a client that has gone needs none.
        let _ = client.send(
            message::line(&message::answer(None, Err(error)), false).as_bytes(),
            None::<&gio::Cancellable>,
        );
    }

    /// Warns once until a client is accepted again.
    fn warn(&self, describe: impl FnOnce(String) -> Error) {
        if self.warned.replace(true) {
            return;
        }
        let name = &self.name;
        let error = describe(format!("monitor: no client is accepted at '{name}'"));
        glib::g_warning!("qcontext", "{error}");
    }

    fn pause(self: &Rc<Self>) {
        let weak = ThreadGuard::new(Rc::downgrade(self));
        self.wait_for(glib::timeout_source_new(
            PAUSE,
            Some("qcontext-monitor-pause"),
            glib::Priority::DEFAULT,
            move || {
                if let Some(acceptor) = weak.get_ref().upgrade() {
                    acceptor.arm();
                }
                glib::ControlFlow::Break
            },
        ));
    }

    fn wait_for(&self, source: glib::Source) {
        source.attach(Some(&glib::MainContext::default()));
        if let Some(old) = self.source.replace(Some(source)) {
            old.destroy();
        }
    }

    fn disarm(&self) {
        if let Some(source) = self.source.take() {
            source.destroy();
        }
    }
}
