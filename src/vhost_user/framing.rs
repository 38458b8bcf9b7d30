//! Reads messages from a non-blocking socket, wherever the stream is split, and writes answers to it.
//!
//! The reader takes exactly the twelve header bytes, then exactly the payload: the kernel hands out fds with the first byte of
//! their message, and a reader that takes more would give them to the wrong message. The writer holds at most one message's
//! answer, because the connection reads nothing while an answer waits to be sent. So a peer that does not read its answers
//! costs neither time nor memory.
//!
//! # Invariants
//! 1. `filled` never exceeds the size of the part being read (header, then payload).
//! 2. `fds` holds only fds that came with bytes of the message being read.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::protocol::{HEADER_SIZE, Header, MAX_FDS, Message, protocol};
use super::socket;
use crate::{Error, Result};

/// What [`Reader::read`] found.
#[derive(Debug)]
pub(super) enum ReadOutcome {
    /// A complete message.
    Message(Message),
    /// Nothing more to read now.
    Pending,
    /// The peer closed the connection between two messages.
    Closed,
}

/// Puts messages together from the pieces that arrive.
#[derive(Debug, Default)]
pub(super) struct Reader {
    head: [u8; HEADER_SIZE],
    header: Option<Header>,
    payload: Vec<u8>,
    filled: usize,
    fds: Vec<OwnedFd>,
}

impl Reader {
    /// Reads until a message is complete or the socket is empty.
    ///
    /// # Errors
    /// The peer broke the protocol or the socket failed; the connection is of no more use.
    pub(super) fn read(&mut self, socket: BorrowedFd<'_>) -> Result<ReadOutcome> {
        loop {
            if let Some(message) = self.take_complete()? {
                return Ok(ReadOutcome::Message(message));
            }
            match self.receive(socket) {
                Ok(true) => {}
                Ok(false) => return self.closed(),
                Err(error) => return nothing_yet(error),
            }
            if self.fds.len() > MAX_FDS {
                return Err(protocol(format!(
                    "a message carries more than {MAX_FDS} fds"
                )));
            }
        }
    }

    /// One receive into the part that is missing; false at the end of the stream.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let part = match self.header {
            None => &mut self.head[self.filled..],
            Some(_) => &mut self.payload[self.filled..],
        };
        let received = socket::receive(socket, part, &mut self.fds)?;
        if received.fds_lost {
            return Err(io::Error::from_raw_os_error(libc::ETOOMANYREFS));
        }
        self.filled += received.bytes;
        Ok(received.bytes > 0)
    }

    /// The message, once its last byte is here. Parses the header as soon as that is complete.
    fn take_complete(&mut self) -> Result<Option<Message>> {
        if self.header.is_none() && self.filled == HEADER_SIZE {
            let header = Header::parse(&self.head)?;
            self.payload = vec![0; header.size as usize];
            self.filled = 0;
            self.header = Some(header);
        }
        match self.header {
            Some(header) if self.filled == self.payload.len() => {
                self.header = None;
                self.filled = 0;
                let payload = std::mem::take(&mut self.payload);
                let fds = std::mem::take(&mut self.fds);
                Ok(Some(Message::new(header, payload, fds)))
            }
            _ => Ok(None),
        }
    }

    fn closed(&self) -> Result<ReadOutcome> {
        if self.header.is_none() && self.filled == 0 {
            return Ok(ReadOutcome::Closed);
        }
        Err(protocol(
            "the connection ended in the middle of a message".to_string(),
        ))
    }
}

fn nothing_yet(error: io::Error) -> Result<ReadOutcome> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(ReadOutcome::Pending),
        Some(libc::ECONNRESET | libc::EPIPE) => Ok(ReadOutcome::Closed),
        Some(libc::ETOOMANYREFS) => Err(protocol("a message carries too many fds".to_string())),
        _ => Err(Error::os("cannot receive a vhost-user message", error)),
    }
}

/// Answers that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Writer {
    buffer: Vec<u8>,
    sent: usize,
}

impl Writer {
    /// Where the next answer is appended.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// True when everything was handed to the socket.
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.buffer.len()
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// The peer is gone or the socket failed.
    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<()> {
        while !self.is_empty() {
            match socket::send(socket, &self.buffer[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Error::os("cannot send a vhost-user reply", error)),
            }
        }
        self.buffer.clear();
        self.sent = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
