//! Listening Unix sockets in the file system, for every service of the crate that listens.
//!
//! Used by the monitor and by the vhost-user transport.
//!
//! A server binds and listens under a hidden name, `.NAME.new`, and then links the socket to the path that was asked for. So
//! a program that finds the path can connect. (`ss -xl` and `/proc/net/unix` show the hidden name.)
//!
//! What is at the path already is replaced only if it is a socket and a connection to it is refused: its process is gone. A
//! server that cannot be asked, for whatever reason, counts as alive. The old socket is removed last, when nothing else can
//! fail. Two servers that start for one path at the same time exclude each other by a lock on the file `.NAME.lock`.
//!
//! # Invariants
//! 1. The path is unlinked once, and only if the socket there is still ours. Our socket keeps its inode, so no other file has
//!    the same number while we look.
#![deny(unsafe_code)] // children make system calls

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
#[cfg(feature = "vhost-user")]
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(feature = "vhost-user")]
use crate::inherited_socket::{self, InheritedSocket, SocketState};
use crate::{Error, ErrorKind};

mod address;
mod lock;
#[cfg(test)]
mod tests;

use address::PATH_LIMIT;
use lock::PathLock;

/// The longest name that a hidden name repeats.
const NAME_LIMIT: usize = 64;
/// How often a server tries to put its socket where another program puts dead ones.
const ATTEMPTS: u32 = 8;

/// Connects to the socket at `path`, without blocking.
///
/// # Errors
/// The kernel's; `WouldBlock` if the server has others to accept first.
#[cfg(feature = "vhost-user")]
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = address::stream_socket()?;
    address::connect(socket.as_fd(), path)?;
    Ok(socket.into())
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketAccess {
    /// This user.
    Owner,
    /// Whom the umask of the process allows.
    #[cfg(feature = "vhost-user")]
    Umask,
}

/// A non-blocking socket that listens at a path. Dropping it removes it from there.
#[derive(Debug)]
pub(crate) struct ListeningSocket {
    socket: UnixListener,
    #[cfg(feature = "vhost-user")]
    path: PathBuf,
    /// The same from the root: a process may go to another directory before it removes the socket.
    absolute: PathBuf,
    /// `None` for a socket that another process has made. It is not ours to remove.
    identity: Option<FileIdentity>,
    linked: AtomicBool,
}

impl ListeningSocket {
    /// Takes over a socket that another process has made and that listens, by the number of its fd.
    ///
    /// # Errors
    /// It is not the number of such a socket.
    #[cfg(feature = "vhost-user")]
    pub(crate) fn inherited(fd: RawFd) -> io::Result<ListeningSocket> {
        match inherited_socket::duplicate(fd, SocketState::Listening)? {
            InheritedSocket::Unix(socket) => ListeningSocket::of_fd(socket),
            InheritedSocket::Tcp(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Takes over a Unix socket that listens.
    ///
    /// # Errors
    /// The kernel's.
    #[cfg(feature = "vhost-user")]
    pub(crate) fn of_fd(fd: OwnedFd) -> io::Result<ListeningSocket> {
        let socket = UnixListener::from(fd);
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(ListeningSocket {
            socket,
            path: address
                .as_pathname()
                .map(Path::to_owned)
                .unwrap_or_default(),
            absolute: PathBuf::new(),
            identity: None,
            linked: AtomicBool::new(false),
        })
    }

    /// Listens at `path`. A socket whose process is gone is replaced.
    ///
    /// # Errors
    /// Something is there that is not replaced, or the socket cannot be made. Nothing has changed then.
    pub(crate) fn open(path: &Path, access: SocketAccess) -> Result<ListeningSocket, ListenError> {
        let name = check_path(path)?;
        let lock = PathLock::take(&beside(path, name, ".lock"))?;
        let _lock = lock.ok_or(ListenError::Starting)?;
        let absolute = std::path::absolute(path)?;
        // Before anything is made, for the sake of the error.
        examine(path)?;
        let hidden = beside(path, &short(name), ".new");
        let fd = listen(&hidden, access)?;
        let placed = FileIdentity::at(&hidden)
            .map_err(ListenError::Os)
            .and_then(|identity| place(&hidden, path).map(|()| identity));
        let _ = fs::remove_file(&hidden);
        Ok(ListeningSocket {
            socket: fd.into(),
            #[cfg(feature = "vhost-user")]
            path: path.to_owned(),
            absolute,
            identity: Some(placed?),
            linked: AtomicBool::new(true),
        })
    }

    /// The path at which it listens.
    #[cfg(feature = "vhost-user")]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next connection.
    #[cfg(feature = "vhost-user")]
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().map(|(stream, _)| stream)
    }

    /// Another fd of the socket.
    #[cfg(feature = "monitor")]
    pub(crate) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone().map(OwnedFd::from)
    }

    /// Removes the socket from its path. It goes on listening; nothing finds it any more.
    pub(crate) fn unlink(&self) {
        let is_ours =
            || self.identity.is_some() && FileIdentity::at(&self.absolute).ok() == self.identity;
        if self.linked.swap(false, Ordering::Relaxed) && is_ours() {
            // An error means that the file has been removed meanwhile.
            let _ = fs::remove_file(&self.absolute);
        }
    }
}

impl AsRawFd for ListeningSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Why there is no listening socket.
#[derive(Debug)]
pub(crate) enum ListenError {
    /// The path does not fit into the address of a socket.
    TooLong,
    /// There is something else than a socket.
    NotASocket,
    /// A process listens there.
    InUse,
    /// Another process is about to listen there.
    Starting,
    /// The socket there could not be asked whether a process listens.
    NoAnswer(io::Error),
    /// A system call failed.
    Os(io::Error),
}

impl ListenError {
    /// The error for people. `owner` begins it, empty or `device 'disk0': `; `name` is the path in the owner's words.
    pub(crate) fn describe(self, owner: &str, name: &str) -> Error {
        let (kind, what) = match self {
            ListenError::TooLong => {
                let what =
                    format!("is too long: the longest path of a socket has {PATH_LIMIT} bytes");
                (ErrorKind::InvalidArgument, what)
            }
            ListenError::NotASocket => (
                ErrorKind::AlreadyExists,
                "exists and is not a socket".to_owned(),
            ),
            ListenError::InUse => (
                ErrorKind::Busy,
                "is in use: another server listens there".to_owned(),
            ),
            ListenError::Starting => (
                ErrorKind::Busy,
                "is in use: another server is starting there".to_owned(),
            ),
            ListenError::NoAnswer(error) => {
                let what = format!("{owner}cannot find out whether a server listens at {name}");
                return Error::os(what, error);
            }
            ListenError::Os(error) => {
                return Error::os(format!("{owner}cannot listen at {name}"), error);
            }
        };
        Error::new(kind, format!("{owner}{name} {what}"))
    }
}

impl From<io::Error> for ListenError {
    fn from(error: io::Error) -> ListenError {
        ListenError::Os(error)
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

/// What a new socket finds at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket whose process is gone.
    Dead,
}

/// Returns the name of the socket in its directory.
fn check_path(path: &Path) -> Result<&OsStr, ListenError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > PATH_LIMIT {
        return Err(ListenError::TooLong);
    }
    match path.file_name() {
        Some(name) if !bytes.contains(&0) => Ok(name),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL).into()),
    }
}

/// The name, or something as good for a long one: the hidden name must fit into an address, too.
fn short(name: &OsStr) -> Cow<'_, OsStr> {
    if name.len() <= NAME_LIMIT {
        return Cow::Borrowed(name);
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    Cow::Owned(format!("{:016x}", hasher.finish()).into())
}

/// The hidden name beside `path` that ends in `suffix`.
fn beside(path: &Path, name: &OsStr, suffix: &str) -> PathBuf {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    path.with_file_name(hidden)
}

fn examine(path: &Path) -> Result<Found, ListenError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error.into()),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket);
    }
    ask(path)
}

/// Asks the socket at `path` whether a process listens, without waiting for that process.
fn ask(path: &Path) -> Result<Found, ListenError> {
    let socket = address::stream_socket()?;
    let Err(error) = address::connect(socket.as_fd(), path) else {
        return Err(ListenError::InUse);
    };
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Ok(Found::Dead),
        Some(libc::ENOENT) => Ok(Found::Nothing),
        // Its queue of connections is full; it is a socket of another kind, which is bound.
        Some(libc::EAGAIN | libc::EPROTOTYPE) => Err(ListenError::InUse),
        _ => Err(ListenError::NoAnswer(error)),
    }
}

/// Makes a socket that listens at `hidden`, under the lock. A server that was killed may have left one there.
fn listen(hidden: &Path, access: SocketAccess) -> io::Result<OwnedFd> {
    let fd = address::stream_socket()?;
    if access == SocketAccess::Owner {
        // Before it has a name: `bind` copies the mode, so the socket never appears with another one.
        let same = File::from(fd.try_clone()?);
        same.set_permissions(Permissions::from_mode(0o600))?;
    }
    match fs::remove_file(hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => address::bind(fd.as_fd(), hidden)?,
    }
    if let Err(error) = address::listen(fd.as_fd()) {
        let _ = fs::remove_file(hidden);
        return Err(error);
    }
    Ok(fd)
}

/// Shows the listening socket `hidden` at `path`, in place of a dead one.
fn place(hidden: &Path, path: &Path) -> Result<(), ListenError> {
    for _ in 0..ATTEMPTS {
        match fs::hard_link(hidden, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if lacks_links(&error) => return Ok(fs::rename(hidden, path)?),
            outcome => return Ok(outcome?),
        }
        if examine(path)? == Found::Dead {
            remove(path)?;
        }
    }
    Err(ListenError::Starting)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the file system has no hard links. (Then `rename` it is, which also replaces a socket that another program, which
/// knows nothing of the lock, puts there in this moment.)
fn lacks_links(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EMLINK)
    )
}
