//! What comes from a server: replies, whose data goes into the requests.
//!
//! # Invariants
//! 1. A reply that does not fit to the request with its cookie breaks the connection. So data never goes beyond the memory
//!    that a request has, and a reply that succeeds has as many bytes as were asked for. (That they do not overlap is not checked.)
//! 2. Nothing is allocated for what a server says.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::ControlFlow;

use super::chunks::{is_short, take_payload};
use super::flight::{Flight, FlightStage, FlightTable, Landed};
use super::server::{ExportFacts, HeaderStyle};
use crate::Error;
use crate::nbd::protocol::errno::to_errno;
use crate::nbd::protocol::reply::{ChunkHeader, ReplyHeader, SimpleReply, chunk};
use crate::nbd::protocol::request::command;
use crate::nbd::protocol::{MAX_STRING, Malformed};
use crate::nbd::stream::NbdStream;

/// The size of the buffer that a connection reads into.
const ROOM: usize = 128 << 10;
/// How often a connection reads before its neighbours on the home get their turn.
const READS_MAX: usize = 8;
/// The longest payload that is looked at as a whole: an error with its text.
const PAYLOAD_MAX: u64 = MAX_STRING as u64 + 64;

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Loss {
    /// It is lost.
    Connection(io::Error),
    /// The server does not keep to the protocol.
    Violation(Malformed),
    /// It has not answered for too long.
    Silence,
    /// The loop does not take its socket.
    Loop(Error),
    /// It has come back, but lacks what it had.
    Refused(&'static str),
}

impl fmt::Display for Loss {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Connection(error) => write!(out, "connection lost: {error}"),
            Loss::Violation(malformed) => {
                write!(out, "the server breaks the protocol: {malformed}")
            }
            Loss::Silence => out.write_str("the server does not answer"),
            Loss::Loop(error) => error.fmt(out),
            Loss::Refused(lack) => write!(out, "the export is not used: {lack}"),
        }
    }
}

impl From<Malformed> for Loss {
    fn from(malformed: Malformed) -> Loss {
        Loss::Violation(malformed)
    }
}

/// Bytes of a server.
#[derive(Debug)]
pub(super) struct Receiver {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    stage: ReplyStage,
    style: HeaderStyle,
    /// The number of the context `base:allocation`.
    allocation: Option<u32>,
    /// Grows with what the server does.
    pub(super) progress: u64,
    /// A reply has ended.
    pub(super) has_reply: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum ReplyStage {
    Header,
    /// The offset that stands before the data of a chunk.
    DataOffset(ChunkPlace),
    /// Data, which goes to `at` in the request's round.
    Data {
        place: ChunkPlace,
        at: u64,
    },
    /// A payload of this kind, to be looked at as a whole.
    Payload {
        place: ChunkPlace,
        kind: u16,
    },
}

/// Which request a payload is for, how many bytes of it are to come, and whether the reply ends then.
#[derive(Clone, Copy, Debug)]
struct ChunkPlace {
    index: u32,
    left: u64,
    is_last: bool,
}

impl Receiver {
    pub(super) fn new(facts: &ExportFacts) -> Receiver {
        Receiver {
            bytes: vec![0; ROOM].into(),
            start: 0,
            end: 0,
            stage: ReplyStage::Header,
            style: facts.style,
            allocation: facts.allocation,
            progress: 0,
            has_reply: false,
        }
    }

    /// Reads what there is, and appends the requests that have ended to `landed`.
    ///
    /// # Errors
    /// The connection is over.
    pub(super) fn receive(
        &mut self,
        stream: &mut NbdStream,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> Result<(), Loss> {
        let mut reads = 0;
        loop {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let room = self.bytes.len() - self.end;
            let count = match stream.read(&mut self.bytes[self.end..]) {
                Ok(0) => return Err(Loss::Connection(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Loss::Connection(error)),
            };
            self.end += count;
            self.progress += count as u64;
            while self.step(flights, landed)?.is_continue() {}
            reads += 1;
            let is_over = count < room || reads >= READS_MAX;
            if is_over && !stream.has_more() {
                return Ok(());
            }
        }
    }

    /// Goes on by one part of a message. Breaks if it is not there yet.
    fn step(
        &mut self,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> Result<ControlFlow<()>, Malformed> {
        match self.stage {
            ReplyStage::Header => self.take_header(flights, landed),
            ReplyStage::DataOffset(place) => self.take_offset(flights, place),
            ReplyStage::Data { place, at } => self.take_data(flights, landed, place, at),
            ReplyStage::Payload { place, kind } => {
                let Some(len) = self.available(place.left) else {
                    return Ok(ControlFlow::Break(()));
                };
                let payload = &self.bytes[self.start..self.start + len];
                let asked = flight(flights, place.index)?;
                take_payload(asked, kind, payload, self.allocation)?;
                self.start += len;
                self.end_chunk(flights, landed, place)?;
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    /// The number of bytes, if they are there.
    fn available(&self, wanted: u64) -> Option<usize> {
        let wanted = usize::try_from(wanted).ok()?;
        (self.end - self.start >= wanted).then_some(wanted)
    }

    fn take_header(
        &mut self,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> Result<ControlFlow<()>, Malformed> {
        let there = &self.bytes[self.start..self.end];
        let Some(magic) = there.first_chunk() else {
            return Ok(ControlFlow::Break(()));
        };
        let len = ReplyHeader::len(*magic)?;
        if there.len() < len {
            return Ok(ControlFlow::Break(()));
        }
        let header = ReplyHeader::decode(there)?;
        self.start += len;
        match header {
            ReplyHeader::Simple(reply) => self.begin_simple(reply, flights, landed)?,
            ReplyHeader::Structured(chunk) if self.style == HeaderStyle::Structured => {
                self.begin_chunk(chunk, flights, landed)?;
            }
            ReplyHeader::Extended(chunk) if self.style == HeaderStyle::Extended => {
                self.begin_chunk(chunk, flights, landed)?;
            }
            _ => return Err(Malformed("reply has a header that was not negotiated")),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn begin_simple(
        &mut self,
        reply: SimpleReply,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> Result<(), Malformed> {
        let index = find(flights, reply.cookie)?;
        let asked = flight(flights, index)?;
        let is_read = asked.command == command::READ;
        if is_read && self.style != HeaderStyle::Simple {
            return Err(Malformed("reply to a read is not structured"));
        }
        if reply.error != 0 {
            asked.errno = to_errno(reply.error);
        } else if is_read {
            asked.received = asked.length;
            let place = ChunkPlace {
                index,
                left: asked.length,
                is_last: true,
            };
            self.stage = ReplyStage::Data { place, at: 0 };
            return Ok(());
        }
        self.end_reply(flights, landed, index)
    }

    fn begin_chunk(
        &mut self,
        header: ChunkHeader,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> Result<(), Malformed> {
        let index = find(flights, header.cookie)?;
        let asked = flight(flights, index)?;
        let mut place = ChunkPlace {
            index,
            left: header.length,
            is_last: header.is_last(),
        };
        let is_read = asked.command == command::READ;
        match header.kind {
            chunk::NONE if header.length == 0 && header.is_last() => {
                return self.end_reply(flights, landed, index);
            }
            chunk::OFFSET_DATA if is_read && header.length > 8 => {
                place.left -= 8;
                asked.expect_data(place.left)?;
                self.stage = ReplyStage::DataOffset(place);
            }
            kind if is_short(kind, asked.command) && header.length <= PAYLOAD_MAX => {
                self.stage = ReplyStage::Payload { place, kind };
            }
            _ => return Err(Malformed("chunk does not fit to the request")),
        }
        Ok(())
    }

    fn take_offset(
        &mut self,
        flights: &mut FlightTable,
        place: ChunkPlace,
    ) -> Result<ControlFlow<()>, Malformed> {
        let there = &self.bytes[self.start..self.end];
        let Some(offset) = there.first_chunk() else {
            return Ok(ControlFlow::Break(()));
        };
        let offset = u64::from_be_bytes(*offset);
        let at = flight(flights, place.index)?.place_of(offset, place.left)?;
        self.start += 8;
        self.stage = ReplyStage::Data { place, at };
        Ok(ControlFlow::Continue(()))
    }

    fn take_data(
        &mut self,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
        mut place: ChunkPlace,
        at: u64,
    ) -> Result<ControlFlow<()>, Malformed> {
        let left = usize::try_from(place.left).unwrap_or(usize::MAX);
        let len = left.min(self.end - self.start);
        if len == 0 {
            return Ok(ControlFlow::Break(()));
        }
        let data = &self.bytes[self.start..self.start + len];
        let position = usize::try_from(at).unwrap_or(usize::MAX);
        flight(flights, place.index)?
            .request
            .scatter_from(position, data);
        self.start += len;
        place.left -= len as u64;
        if place.left > 0 {
            let at = at + len as u64;
            self.stage = ReplyStage::Data { place, at };
        } else {
            self.end_chunk(flights, landed, place)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn end_chunk(
        &mut self,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
        place: ChunkPlace,
    ) -> Result<(), Malformed> {
        self.stage = ReplyStage::Header;
        match place.is_last {
            true => self.end_reply(flights, landed, place.index),
            false => Ok(()),
        }
    }

    fn end_reply(
        &mut self,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
        index: u32,
    ) -> Result<(), Malformed> {
        self.progress += ROOM as u64;
        self.has_reply = true;
        let asked = flight(flights, index)?;
        if asked.errno != 0 {
            let result = -asked.errno;
            landed.extend(flights.end(index, result));
            return Ok(());
        }
        let is_told = matches!(asked.command, command::READ | command::BLOCK_STATUS);
        if is_told && asked.received < asked.length {
            return Err(Malformed("reply lacks what was asked for"));
        }
        landed.extend(flights.land(index));
        Ok(())
    }
}

fn find(flights: &FlightTable, cookie: u64) -> Result<u32, Malformed> {
    let unknown = Malformed("reply to a request that was not made");
    flights.find(cookie).ok_or(unknown)
}

/// The request at a place; it has been sent.
fn flight(flights: &mut FlightTable, index: u32) -> Result<&mut Flight, Malformed> {
    let sent = flights
        .get(index)
        .filter(|flight| flight.stage == FlightStage::Sent);
    sent.ok_or(Malformed("reply to a request that was not sent"))
}
