//! The monitor's listening sockets.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::rc::Rc;
use std::time::Duration;

use gio::prelude::*;
use glib::thread_guard::ThreadGuard;

use super::session;
use super::stream::Stream;
use crate::{Error, ErrorKind, Result};

/// The longest path of a Unix socket, without the final NUL.
const PATH_LIMIT: usize = 107;
/// The most clients of one process. Further connections are closed.
const CLIENT_LIMIT: usize = 64;
/// The most connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// The pause after a failed accept, for example when the process has no fd left.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening Unix socket in the file system. Dropping it removes the socket.
#[derive(Debug)]
pub(super) struct QmpListener {
    path: PathBuf,
    /// Our socket, to tell it from another one at the same path.
    identity: FileIdentity,
    acceptor: Rc<Acceptor>,
}

impl QmpListener {
    /// Listens at `path` and calls `welcome` with each client.
    pub(super) fn open(path: &Path, welcome: impl Fn(Stream) + 'static) -> Result<QmpListener> {
        remove_stale(path)?;
        let socket = listen_and_appear(path)?;
        let identity = FileIdentity::at(path).map_err(|error| failed(path, error))?;
        let acceptor = Rc::new(Acceptor {
            socket,
            welcome: Box::new(welcome),
            source: RefCell::new(None),
        });
        acceptor.arm();
        Ok(QmpListener {
            path: path.to_owned(),
            identity,
            acceptor,
        })
    }
}

impl Drop for QmpListener {
    fn drop(&mut self) {
        self.acceptor.disarm();
        if FileIdentity::at(&self.path).is_ok_and(|found| found == self.identity) {
            // An error means that the socket is removed already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Which file a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    fn at(path: &Path) -> io::Result<FileIdentity> {
        let found = fs::symlink_metadata(path)?;
        Ok(FileIdentity {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

/// The part of a listener that its sources use.
struct Acceptor {
    socket: gio::Socket,
    welcome: Box<dyn Fn(Stream)>,
    source: RefCell<Option<glib::Source>>,
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
                if let Some(stream) = stream(&client) {
                    (self.welcome)(stream);
                }
            }
            // Dropping the client closes the connection.
            Ok(_) => {}
            Err(error) if error.matches(gio::IOErrorEnum::WouldBlock) => {}
            // Most likely no fd is left. The client stays in the backlog, so without a pause this would spin.
            Err(_) => self.pause(),
        }
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

fn stream(client: &gio::Socket) -> Option<Stream> {
    let connection = client.connection_factory_create_connection();
    Some(Stream {
        input: connection.input_stream().dynamic_cast().ok()?,
        output: connection.output_stream().dynamic_cast().ok()?,
        chunk: usize::MAX,
        owner: Some(connection.upcast()),
    })
}

/// Removes the socket of a dead process.
fn remove_stale(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("'{}' exists and is not a socket", path.display()),
        ));
    }
    if is_served(path) {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "socket '{}' is in use: another server listens there",
                path.display()
            ),
        ));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

/// Whether a process listens at `path`. Does not wait until it accepts.
fn is_served(path: &Path) -> bool {
    let outcome = new_socket().and_then(|socket| {
        let address = gio::UnixSocketAddress::new(path);
        SocketExt::connect(&socket, &address, None::<&gio::Cancellable>)
    });
    outcome.map_or_else(
        |error| {
            !error.matches(gio::IOErrorEnum::ConnectionRefused)
                && !error.matches(gio::IOErrorEnum::NotFound)
        },
        |()| true,
    )
}

fn new_socket() -> std::result::Result<gio::Socket, glib::Error> {
    let socket = gio::Socket::new(
        gio::SocketFamily::Unix,
        gio::SocketType::Stream,
        gio::SocketProtocol::Default,
    )?;
    socket.set_blocking(false);
    Ok(socket)
}

/// Listens under another name, then renames the socket, so that a client that sees `path` can connect.
fn listen_and_appear(path: &Path) -> Result<gio::Socket> {
    check_length(path)?;
    let hidden = path.with_file_name(format!(".q{}", process::id()));
    check_length(&hidden)?;
    let socket = listen(&hidden, path)?;
    fs::rename(&hidden, path).map_err(|error| {
        let _ = fs::remove_file(&hidden);
        failed(path, error)
    })?;
    Ok(socket)
}

fn listen(hidden: &Path, path: &Path) -> Result<gio::Socket> {
    let refused = |error: glib::Error| {
        Error::new(
            ErrorKind::Os,
            format!("cannot listen at '{}': {}", path.display(), error.message()),
        )
    };
    let socket = new_socket().map_err(refused)?;
    restrict(&socket).map_err(|error| failed(path, error))?;
    let _ = fs::remove_file(hidden);
    let address = gio::UnixSocketAddress::new(hidden);
    socket.set_listen_backlog(BACKLOG);
    socket.bind(&address, false).map_err(refused)?;
    socket.listen().map_err(refused)?;
    Ok(socket)
}

/// Gives the socket mode 0600 before it has a name. `bind` copies the mode, so the socket never appears with another one.
fn restrict(socket: &gio::Socket) -> io::Result<()> {
    let same = File::from(socket.as_fd().try_clone_to_owned()?);
    same.set_permissions(Permissions::from_mode(0o600))
}

fn check_length(path: &Path) -> Result<()> {
    if path.as_os_str().len() <= PATH_LIMIT {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "UNIX socket path '{}' is too long: the longest has {PATH_LIMIT} bytes",
            path.display()
        ),
    ))
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::os(format!("cannot listen at '{}'", path.display()), error)
}
