//! Bytes that a client has sent, until they are requests.
#![forbid(unsafe_code)]

use super::stream::Stream;
use crate::Result;
use crate::json::{Framer, ValueLimits};
use crate::object::Value;

/// The most that one read takes, so that other sources of the main loop have their turn.
const READ_CHUNK: usize = 32 << 10;

/// One chunk of input and the request that is arriving in it.
#[derive(Debug)]
pub(super) struct QmpInput {
    framer: Framer,
    /// The chunk; the framer has seen its first `framed` bytes. Empty once the framer has seen all of it.
    chunk: Vec<u8>,
    framed: usize,
    ended: bool,
}

impl QmpInput {
    pub(super) fn new() -> QmpInput {
        QmpInput {
            framer: Framer::new(ValueLimits::default()),
            chunk: Vec::new(),
            framed: 0,
            ended: false,
        }
    }

    /// Reads a chunk unless there is one; false when the connection is broken.
    pub(super) fn read(&mut self, stream: &Stream) -> bool {
        if self.has_bytes() {
            return true;
        }
        self.chunk.resize(READ_CHUNK, 0);
        let outcome = stream.read(&mut self.chunk);
        self.chunk.truncate(*outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(_) => {
                self.ended = self.chunk.is_empty();
                true
            }
            // The program may have gone to the background since it looked.
            Err(error) => error.matches(gio::IOErrorEnum::WouldBlock) || stream.is_away(),
        }
    }

    /// The next request or syntax error, if one is complete.
    pub(super) fn next_frame(&mut self) -> Option<Result<Value>> {
        let mut rest = &self.chunk[self.framed..];
        let frame = self.framer.feed(&mut rest);
        self.framed = self.chunk.len() - rest.len();
        if self.framed == self.chunk.len() {
            self.chunk.clear();
            self.framed = 0;
        }
        frame
    }

    /// Drops what has arrived.
    pub(super) fn discard(&mut self) {
        *self = QmpInput {
            ended: self.ended,
            ..QmpInput::new()
        };
    }

    /// Whether the framer has not seen all bytes yet.
    pub(super) fn has_bytes(&self) -> bool {
        !self.chunk.is_empty()
    }

    /// Whether the client has closed its direction.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }
}
