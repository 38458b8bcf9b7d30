//! The transmission phase of one client: requests in, replies out, several at a time.
//!
//! The connection is one task. It receives requests, starts each as a future of its own, and sends replies in the order in
//! which requests end. One read from the socket may bring many requests, and one write send many replies.
//!
//! # Invariants
//! 1. A client costs [`REQUESTS_MAX`] requests and [`WEIGHT_MAX`] bytes of payload, or one request, at most: what is under way
//!    and what it has not read. While there is more it is not read from.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll};

use super::execute::{ConnectionTerms, execute};
use super::offer::OfferedClient;
use super::reply::{NbdReply, ReplyStyle};
use super::requests::RequestSet;
use super::socket::NbdSocket;
use crate::block::IoBuffer;
use crate::nbd::protocol::MAX_PAYLOAD;
use crate::nbd::protocol::request::{RequestHeader, command, command_flag};
use crate::nbd::stream::NbdStream;

/// The most requests under way, with those whose replies are not sent.
const REQUESTS_MAX: usize = 64;
/// The most bytes of payload that requests under way and unsent replies have, unless one has more.
const WEIGHT_MAX: usize = MAX_PAYLOAD as usize;
/// What is read from the socket at once.
const INBOX_LEN: usize = 64 * 1024;
/// How many pieces one write sends.
const SLICES_MAX: usize = 64;
/// How often the task goes round before it lets others run.
const ROUNDS_MAX: usize = 64;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct NbdConnection {
    socket: NbdSocket,
    terms: Arc<ConnectionTerms>,
    client: OfferedClient,
    requests: RequestSet,
    inbox: ReceiveBuffer,
    outbox: VecDeque<NbdReply>,
    /// Bytes of payload of what is under way and in the outbox.
    weight: usize,
    /// No more requests come.
    is_deaf: bool,
    /// No more replies can be sent.
    is_mute: bool,
}

/// What was received and not yet taken.
#[derive(Debug)]
struct ReceiveBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// A request whose header was taken.
    next: Option<Incoming>,
}

/// A request, perhaps without a part of its payload.
#[derive(Debug)]
struct Incoming {
    header: RequestHeader,
    payload: Option<IoBuffer>,
    filled: usize,
}

impl NbdConnection {
    /// Serves a client that has finished its negotiation, as a task of its export. `seat` is kept to the end.
    pub(super) fn start(stream: NbdStream, terms: ConnectionTerms, seat: impl Send + 'static) {
        let Some(client) = terms.offer.join() else {
            return;
        };
        let aio = terms.offer.aio().clone();
        let own = aio.clone();
        let task = aio.spawn(move || async move {
            let socket = NbdSocket::new(stream, &own);
            NbdConnection::new(socket, terms, client).run().await;
            drop(seat);
        });
        task.detach();
    }

    fn new(socket: NbdSocket, terms: ConnectionTerms, client: OfferedClient) -> NbdConnection {
        NbdConnection {
            socket,
            terms: Arc::new(terms),
            client,
            requests: RequestSet::new(),
            inbox: ReceiveBuffer {
                bytes: vec![0; INBOX_LEN].into_boxed_slice(),
                start: 0,
                end: 0,
                next: None,
            },
            outbox: VecDeque::new(),
            weight: 0,
            is_deaf: false,
            is_mute: false,
        }
    }

    /// Serves the client until it goes, breaks the protocol, or the export ends.
    async fn run(mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let is_over = self.client.is_over(context);
        if is_over {
            (self.is_deaf, self.is_mute) = (true, true);
        }
        for _ in 0..ROUNDS_MAX {
            self.take_replies(context);
            if !self.is_mute && self.send(context).is_err() {
                (self.is_deaf, self.is_mute) = (true, true);
                self.outbox.clear();
            }
            if self.is_deaf {
                return match self.requests.len() == 0 && self.has_said_all() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                };
            }
            match self.receive(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.is_deaf = true,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn has_said_all(&self) -> bool {
        self.is_mute || (self.outbox.is_empty() && !self.socket.has_unsent())
    }

    fn take_replies(&mut self, context: &Context<'_>) {
        let outbox = &mut self.outbox;
        self.requests
            .poll_woken(context.waker(), |reply| outbox.push_back(reply));
        if self.is_mute {
            outbox.clear();
        }
    }

    /// Sends what the socket takes.
    fn send(&mut self, context: &Context<'_>) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let pieces = self.outbox.iter().flat_map(NbdReply::unsent);
            let slices: Vec<IoSlice<'_>> = pieces.take(SLICES_MAX).collect();
            let Poll::Ready(sent) = self.socket.poll_write(context, &slices) else {
                return Ok(());
            };
            let mut left = sent?;
            while let Some(first) = self.outbox.front_mut() {
                left = first.advance(left);
                if first.left() > 0 {
                    break;
                }
                self.weight -= first.weight;
                self.outbox.pop_front();
            }
        }
        match self.socket.poll_flush(context) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Takes requests in, as many as the limits allow, and starts them.
    fn receive(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let unsent = self.outbox.len();
        loop {
            if let Some(len) = self.inbox.payload_len(self.terms.style)? {
                if !self.has_room(len) {
                    return Poll::Pending;
                }
                if self.inbox.take_payload() {
                    self.start_next()?;
                    continue;
                }
            }
            if self.outbox.len() > unsent {
                // Replies go out before more is read.
                return Poll::Ready(Ok(()));
            }
            let count = match self.inbox.poll_fill(context, &mut self.socket) {
                Poll::Ready(count) => count?,
                Poll::Pending => return Poll::Pending,
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Whether another request may begin that moves `len` bytes.
    fn has_room(&self, len: usize) -> bool {
        let count = self.requests.len() + self.outbox.len();
        count == 0 || (count < REQUESTS_MAX && self.weight + len <= WEIGHT_MAX)
    }

    /// Starts the request that is complete.
    fn start_next(&mut self) -> io::Result<()> {
        let Some(incoming) = self.inbox.next.take() else {
            return Ok(());
        };
        if incoming.header.command == command::DISC {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let weight = incoming.weight();
        self.weight += weight;
        let terms = Arc::clone(&self.terms);
        let work = async move {
            let mut reply = execute(terms, incoming.header, incoming.payload).await;
            reply.weight = weight;
            reply
        };
        self.outbox.extend(self.requests.start(Box::pin(work)));
        Ok(())
    }
}

impl Incoming {
    /// How many bytes of memory its payload or its reply takes. A read that is too long is refused, and takes none.
    fn weight(&self) -> usize {
        let length = usize::try_from(self.header.length).unwrap_or(usize::MAX);
        match (self.header.command, &self.payload) {
            (_, Some(payload)) => payload.len(),
            (command::READ, None) if length <= WEIGHT_MAX => length,
            _ => 0,
        }
    }
}

impl ReceiveBuffer {
    /// How many bytes the next request moves, if its header is there.
    fn payload_len(&mut self, style: ReplyStyle) -> io::Result<Option<usize>> {
        if self.next.is_none() {
            let unread = &self.bytes[self.start..self.end];
            let (header, len) = match style {
                ReplyStyle::Extended => match unread.first_chunk() {
                    Some(bytes) => (
                        RequestHeader::decode_extended(bytes),
                        RequestHeader::EXTENDED_LEN,
                    ),
                    None => return Ok(None),
                },
                _ => match unread.first_chunk() {
                    Some(bytes) => (RequestHeader::decode(bytes), RequestHeader::LEN),
                    None => return Ok(None),
                },
            };
            let header = header.map_err(|_| io::ErrorKind::InvalidData)?;
            check_payload(&header, style)?;
            self.start += len;
            self.next = Some(Incoming {
                header,
                payload: None,
                filled: 0,
            });
        }
        Ok(self.next.as_ref().map(|next| match next.header.command {
            command::WRITE => usize::try_from(next.header.length).unwrap_or(usize::MAX),
            _ => next.weight(),
        }))
    }

    /// Moves received bytes into the payload of the next request; whether it is complete.
    fn take_payload(&mut self) -> bool {
        let Some(next) = &mut self.next else {
            return false;
        };
        if next.header.command != command::WRITE {
            return true;
        }
        let len = usize::try_from(next.header.length).unwrap_or(0);
        let payload = next.payload.get_or_insert_with(|| IoBuffer::zeroed(len));
        let count = (len - next.filled).min(self.end - self.start);
        payload[next.filled..next.filled + count]
            .copy_from_slice(&self.bytes[self.start..self.start + count]);
        next.filled += count;
        self.start += count;
        next.filled == len
    }

    /// Receives: into the payload that is incomplete, otherwise into the inbox.
    fn poll_fill(
        &mut self,
        context: &Context<'_>,
        socket: &mut NbdSocket,
    ) -> Poll<io::Result<usize>> {
        if let Some(next) = &mut self.next
            && let Some(payload) = &mut next.payload
        {
            let filled = socket.poll_read(context, &mut payload[next.filled..])?;
            return filled.map(|count| {
                next.filled += count;
                Ok(count)
            });
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let filled = socket.poll_read(context, &mut self.bytes[self.end..])?;
        filled.map(|count| {
            self.end += count;
            Ok(count)
        })
    }
}

/// Refuses what cannot be skipped, so that the connection must end. QEMU's client does not say that a write has a payload.
fn check_payload(header: &RequestHeader, style: ReplyStyle) -> io::Result<()> {
    let is_write = header.command == command::WRITE;
    let says_payload = header.flags & command_flag::PAYLOAD_LEN != 0;
    let is_wrong = style == ReplyStyle::Extended && says_payload && !is_write;
    if is_wrong || (is_write && header.length > u64::from(MAX_PAYLOAD)) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_of_requests_cannot_overflow() {
        for (length, weight) in [(0, 0), (WEIGHT_MAX as u64, WEIGHT_MAX), (u64::MAX - 5, 0)] {
            let mut header = [0; RequestHeader::EXTENDED_LEN];
            header[..4].copy_from_slice(&0x21e4_1c71_u32.to_be_bytes());
            header[24..].copy_from_slice(&length.to_be_bytes());
            let incoming = Incoming {
                header: RequestHeader::decode_extended(&header).unwrap(),
                payload: None,
                filled: 0,
            };
            assert_eq!(incoming.weight(), weight, "{length}");
        }
    }
}
