//! Replies to requests, as the client has asked for them: simple, structured or with extended headers.
#![forbid(unsafe_code)]

use std::io::IoSlice;

use crate::block::IoBuffer;
use crate::nbd::protocol::errno::from_errno;
use crate::nbd::protocol::meta::{Extent, StatusChunk};
use crate::nbd::protocol::reply::{ChunkHeader, ErrorChunk, SimpleReply, chunk, chunk_flag};
use crate::nbd::protocol::request::RequestHeader;

/// How a client wants replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReplyStyle {
    #[default]
    Simple,
    Structured,
    /// Structured, with lengths of 64 bits.
    Extended,
}

/// A reply on its way.
#[derive(Debug, Default)]
pub(super) struct NbdReply {
    head: Vec<u8>,
    /// What was read. It follows the head.
    data: Option<IoBuffer>,
    /// How many bytes are sent.
    sent: usize,
    /// How many bytes of payload the request has counted for.
    pub(super) weight: usize,
}

/// Why a request fails: an errno and a text for structured replies.
#[derive(Debug)]
pub(super) struct NbdFailure {
    pub(super) errno: i32,
    pub(super) text: String,
}

/// Makes the replies to one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replies {
    pub(super) style: ReplyStyle,
    pub(super) request: RequestHeader,
}

impl Replies {
    /// The request is done.
    pub(super) fn done(self) -> NbdReply {
        match self.style {
            ReplyStyle::Simple => self.simple(0),
            _ => NbdReply::of(self.chunk(chunk::NONE, 0, true)),
        }
    }

    /// The request has failed.
    pub(super) fn failed(self, failure: &NbdFailure) -> NbdReply {
        let error = from_errno(failure.errno);
        if self.style == ReplyStyle::Simple {
            return self.simple(error);
        }
        let error = ErrorChunk {
            error,
            message: failure.text.clone(),
            offset: None,
        };
        self.with_payload(chunk::ERROR, &error.encode(), true)
    }

    /// What was read.
    pub(super) fn data(self, data: IoBuffer) -> NbdReply {
        let mut reply = match self.style {
            ReplyStyle::Simple => self.simple(0),
            _ if data.is_empty() => return self.done(),
            _ => {
                let len = data.len() as u64 + 8;
                let mut head = self.chunk(chunk::OFFSET_DATA, len, true);
                head.extend(self.request.offset.to_be_bytes());
                NbdReply::of(head)
            }
        };
        reply.data = Some(data);
        reply
    }

    /// What is known about a range, in each context.
    pub(super) fn status(self, contexts: &[(u32, Vec<Extent>)]) -> NbdReply {
        let mut reply = NbdReply::default();
        for (index, (context, extents)) in contexts.iter().enumerate() {
            let status = StatusChunk {
                context: *context,
                extents: extents.clone(),
            };
            let is_last = index + 1 == contexts.len();
            let chunk = match self.style {
                ReplyStyle::Extended => {
                    let payload = status.encode_extended();
                    self.with_payload(chunk::BLOCK_STATUS_EXT, &payload, is_last)
                }
                _ => self.with_payload(chunk::BLOCK_STATUS, &status.encode(), is_last),
            };
            reply.head.extend(chunk.head);
        }
        reply
    }

    fn simple(self, error: u32) -> NbdReply {
        let cookie = self.request.cookie;
        NbdReply::of(SimpleReply { error, cookie }.encode().to_vec())
    }

    fn with_payload(self, kind: u16, payload: &[u8], is_last: bool) -> NbdReply {
        let mut head = self.chunk(kind, payload.len() as u64, is_last);
        head.extend(payload);
        NbdReply::of(head)
    }

    fn chunk(self, kind: u16, length: u64, is_last: bool) -> Vec<u8> {
        let header = ChunkHeader {
            flags: if is_last { chunk_flag::DONE } else { 0 },
            kind,
            cookie: self.request.cookie,
            offset: self.request.offset,
            length,
        };
        match self.style {
            ReplyStyle::Extended => header.encode_extended().to_vec(),
            _ => header.encode().to_vec(),
        }
    }
}

impl NbdReply {
    fn of(head: Vec<u8>) -> NbdReply {
        NbdReply {
            head,
            ..NbdReply::default()
        }
    }

    /// What is not sent yet.
    pub(super) fn unsent(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let data = self.data.as_deref().unwrap_or_default();
        let skip = self.sent.saturating_sub(self.head.len());
        let head = &self.head[self.sent.min(self.head.len())..];
        let pieces = [head, &data[skip.min(data.len())..]];
        pieces
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .map(IoSlice::new)
    }

    /// Notes that up to `count` more bytes are sent; returns how many were another reply's.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        let step = count.min(self.left());
        self.sent += step;
        count - step
    }

    /// How many bytes are not sent.
    pub(super) fn left(&self) -> usize {
        self.head.len() + self.data.as_ref().map_or(0, |data| data.len()) - self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::protocol::request::command;

    fn replies(style: ReplyStyle) -> Replies {
        let request = RequestHeader {
            flags: 0,
            command: command::READ,
            cookie: 7,
            offset: 0x1000,
            length: 3,
        };
        Replies { style, request }
    }

    #[test]
    fn a_reply_goes_on_where_the_socket_stopped() {
        for style in [
            ReplyStyle::Simple,
            ReplyStyle::Structured,
            ReplyStyle::Extended,
        ] {
            let whole = replies(style).data(IoBuffer::copy_of(b"abc"));
            let whole: Vec<u8> = whole.unsent().flat_map(|piece| piece.to_vec()).collect();
            assert_eq!(&whole[whole.len() - 3..], b"abc");
            for cut in 0..=whole.len() {
                let mut reply = replies(style).data(IoBuffer::copy_of(b"abc"));
                assert_eq!(reply.advance(cut), 0);
                let rest: Vec<u8> = reply.unsent().flat_map(|piece| piece.to_vec()).collect();
                assert_eq!(rest, whole[cut..]);
                assert_eq!(reply.left(), whole.len() - cut);
                assert_eq!(reply.advance(whole.len()), cut);
            }
        }
    }
}
