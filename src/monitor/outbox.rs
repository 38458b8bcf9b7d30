//! Bytes for a client that are not written yet.
#![forbid(unsafe_code)]

use gio::prelude::*;

use super::stream::Stream;

/// A queue of bytes: messages go in at the end, writes take from the front.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Queues a message.
    pub(super) fn push(&mut self, message: &str) {
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(message.as_bytes());
    }

    /// Writes what the client takes; false when the connection is broken.
    pub(super) fn flush(&mut self, stream: &Stream) -> bool {
        while !self.is_empty() {
            let unsent = &self.bytes[self.sent..];
            let unsent = &unsent[..unsent.len().min(stream.chunk)];
            match stream
                .output
                .write_nonblocking(unsent, None::<&gio::Cancellable>)
            {
                Ok(count) => self.advance(usize::try_from(count).unwrap_or(0)),
                Err(error) => return error.matches(gio::IOErrorEnum::WouldBlock),
            }
        }
        true
    }

    /// Drops the first `count` bytes, which were written, and gives the memory of a long queue back.
    fn advance(&mut self, count: usize) {
        const KEPT: usize = 16 << 10;
        self.sent = self.bytes.len().min(self.sent + count);
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            self.sent = 0;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
