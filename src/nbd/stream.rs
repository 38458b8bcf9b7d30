//! A connection between an NBD client and a server: a socket that does not block, in the clear or under TLS.
//!
//! Under TLS, bytes that were written may wait for the socket, and bytes that have come may wait to be read:
//! [`NbdStream::flush`] and [`NbdStream::has_more`] are about these.
//!
//! # Threads
//! One at a time. The user waits for the fd with an AioContext.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

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
pub(crate) struct NbdStream {
    socket: StreamSocket,
    tls: Option<Box<Connection>>,
    /// Another process has the socket as well.
    hangs_up: bool,
}

impl NbdStream {
    /// A connection in the clear.
    pub(crate) fn plain(socket: StreamSocket) -> NbdStream {
        NbdStream {
            socket,
            tls: None,
            hangs_up: false,
        }
    }

    /// Ends the connection when this is dropped, though the socket may be open elsewhere.
    pub(crate) fn hang_up_at_the_end(&mut self) {
        self.hangs_up = true;
    }

    /// Goes on under TLS, as the client. The server's certificate must have the name.
    ///
    /// # Errors
    /// The configuration does not fit to the name.
    pub(crate) fn start_tls(
        &mut self,
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        let session = ClientConnection::new(Arc::clone(config), name).map_err(invalid)?;
        self.tls = Some(Box::new(session.into()));
        Ok(())
    }

    /// Goes on under TLS, as the server.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(crate) fn accept_tls(&mut self, config: &Arc<ServerConfig>) -> io::Result<()> {
        let session = ServerConnection::new(Arc::clone(config)).map_err(invalid)?;
        self.tls = Some(Box::new(session.into()));
        Ok(())
    }

    /// Goes on with the handshake of TLS, until it is done.
    ///
    /// # Errors
    /// `WouldBlock` if the peer has to send something first; others if there is no trust.
    pub(crate) fn shake_hands(&mut self) -> io::Result<()> {
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.flush()?;
            self.take_records()?;
        }
        self.flush().map(drop)
    }

    /// Reads what is there. If that is less than the buffer takes, the socket has no more, or the connection has ended.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing; others if the connection is lost. 0 bytes are its end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.tls.is_none() {
            return retry(|| self.socket.read(buffer));
        }
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_record(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                // The next read finds it again.
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Reads from the records that have come, or from the next ones.
    fn read_record(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let tls = self.tls.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.take_records()?,
                outcome => return outcome,
            }
        }
    }

    /// Whether a read has something without the socket: bytes, the end, or an error.
    pub(crate) fn has_more(&mut self) -> bool {
        let state = self.tls.as_mut().map(|tls| tls.process_new_packets());
        state.is_some_and(|state| {
            state.map_or(true, |state| {
                state.plaintext_bytes_to_read() > 0 || state.peer_has_closed()
            })
        })
    }

    /// Takes what the socket has for TLS.
    fn take_records(&mut self) -> io::Result<()> {
        let NbdStream { socket, tls, .. } = self;
        let Some(tls) = tls else {
            return Ok(());
        };
        // An error stays.
        tls.process_new_packets().map_err(invalid)?;
        let count = retry(|| tls.read_tls(socket))?;
        let processed = tls.process_new_packets();
        if count == 0 && tls.is_handshaking() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // An alert says why, and answers are due.
        let sent = self.flush();
        processed.map_err(invalid)?;
        sent.map(drop)
    }

    /// Ends TLS, if the socket takes that.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The connection goes in any case.
            let _ = self.flush();
        }
    }

    /// Gives the socket what waits for it. True if the socket is full.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let NbdStream { socket, tls, .. } = self;
        while let Some(tls) = tls.as_mut().filter(|tls| tls.wants_write()) {
            match retry(|| tls.write_tls(socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                outcome => outcome?,
            };
        }
        Ok(false)
    }

    /// Whether TLS has bytes that the socket has not taken.
    pub(crate) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` if nothing does; others if the connection is lost.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// Writes what fits of several pieces.
    ///
    /// # Errors
    /// `WouldBlock` if nothing does; others if the connection is lost.
    pub(crate) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return retry(|| send(self.socket.as_fd(), slices));
        };
        let count = tls.writer().write_vectored(slices)?;
        self.flush()?;
        match count {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
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

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Drop for NbdStream {
    fn drop(&mut self) {
        if self.hangs_up {
            // There may be no connection any more.
            let _ = match &self.socket {
                StreamSocket::Unix(socket) => socket.shutdown(Shutdown::Both),
                StreamSocket::Tcp(socket) => socket.shutdown(Shutdown::Both),
            };
        }
    }
}

impl fmt::Debug for NbdStream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("NbdStream")
            .field("socket", &self.socket)
            .field("tls", &self.tls.is_some())
            .finish()
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
