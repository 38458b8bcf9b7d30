//! A connection between an NBD client and a server: a socket that does not block, in the clear or under TLS.
//!
//! # Threads
//! One at a time. Whoever has the stream waits for its fd with an AioContext.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::send::send;

/// A connected stream socket, which is non-blocking.
#[derive(Debug)]
pub(crate) enum StreamSocket {
    /// Of this host.
    Unix(UnixStream),
    /// Of any host.
    Tcp(TcpStream),
}

/// A connection; see the head of this file.
#[derive(Debug)]
pub(crate) struct NbdStream {
    socket: StreamSocket,
}

impl NbdStream {
    /// A connection in the clear.
    pub(crate) fn plain(socket: StreamSocket) -> NbdStream {
        NbdStream { socket }
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing; the kernel's if the connection is lost. 0 bytes are its end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| self.socket.read(buffer))
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing; the kernel's if the connection is lost.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        retry(|| self.socket.write(bytes))
    }

    /// Writes what the socket takes of several pieces.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing; the kernel's if the connection is lost.
    pub(crate) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        retry(|| send(self.socket.as_fd(), slices))
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            StreamSocket::Unix(socket) => socket.as_fd(),
            StreamSocket::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for NbdStream {
    fn as_raw_fd(&self) -> RawFd {
        match &self.socket {
            StreamSocket::Unix(socket) => socket.as_raw_fd(),
            StreamSocket::Tcp(socket) => socket.as_raw_fd(),
        }
    }
}

impl Read for StreamSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            StreamSocket::Unix(socket) => socket.read(buffer),
            StreamSocket::Tcp(socket) => socket.read(buffer),
        }
    }
}

impl Write for StreamSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            StreamSocket::Unix(socket) => socket.write(bytes),
            StreamSocket::Tcp(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
