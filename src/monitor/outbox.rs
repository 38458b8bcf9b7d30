//! Bytes that a client has not taken yet.
#![forbid(unsafe_code)]

/// A queue of bytes that is filled by messages and emptied by writes.
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

    /// What is to be written.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Takes note that the first `count` bytes were written.
    pub(super) fn advance(&mut self, count: usize) {
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
