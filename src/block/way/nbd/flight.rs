//! Requests on their way to a server and back.
//!
//! A request has a place in the table from its submission to its end. It may take several rounds: it is longer than the server
//! takes at once, or the connection was lost and all is repeated. The cookie of a round is never used again, so a server cannot
//! answer a round that is over.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::mem;

use crate::block::request::{Finished, Op, Request};
use crate::block::status::BlockStatus;
use crate::nbd::protocol::export::transmission_flag;
use crate::nbd::protocol::request::{RequestHeader, command, command_flag};

use super::server::{ExportFacts, HeaderStyle};

/// The most bytes of one request without data.
const RANGE_MAX: u64 = 1 << 30;

/// A request and its round.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) request: Box<Request>,
    /// The way that has submitted it.
    pub(super) owner: u64,
    pub(super) stage: FlightStage,
    /// What the round asks for; see [`command`].
    pub(super) command: u16,
    /// How many bytes the round is about.
    pub(super) length: u64,
    /// How many bytes have come, or are known.
    pub(super) received: u64,
    /// The errno of the first error chunk.
    pub(super) errno: i32,
    pub(super) error_chunks: u32,
}

/// How far a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlightStage {
    /// It waits for its turn to be sent.
    Waiting,
    /// Its data is being sent.
    Sending,
    /// The server has it.
    Sent,
}

/// What comes next for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Nothing: it has this result.
    Over(i32),
    /// A request to the server.
    Ask(RequestHeader),
}

/// All requests of one connection.
#[derive(Debug, Default)]
pub(super) struct FlightTable {
    places: Vec<FlightPlace>,
    free: Vec<u32>,
    /// Those that wait, in order.
    queue: VecDeque<u32>,
}

#[derive(Debug)]
struct FlightPlace {
    /// How many rounds there were here.
    round: u32,
    flight: Option<Flight>,
}

impl FlightTable {
    /// Takes a request.
    pub(super) fn submit(&mut self, owner: u64, request: Box<Request>) {
        let flight = Flight {
            request,
            owner,
            stage: FlightStage::Waiting,
            command: command::READ,
            length: 0,
            received: 0,
            errno: 0,
            error_chunks: 0,
        };
        let index = self.free.pop().unwrap_or_else(|| self.add_place());
        self.places[position(index)].flight = Some(flight);
        self.queue.push_back(index);
    }

    fn add_place(&mut self) -> u32 {
        self.places.push(FlightPlace {
            round: 0,
            flight: None,
        });
        u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
    }

    /// Begins the round of the next request that waits.
    pub(super) fn begin_next(&mut self, facts: &ExportFacts) -> Option<(u32, Round)> {
        let index = self.queue.pop_front()?;
        let place = &mut self.places[position(index)];
        let flight = place.flight.as_mut()?;
        let mut round = plan(&mut flight.request, facts);
        if let Round::Ask(header) = &mut round {
            place.round = place.round.wrapping_add(1);
            header.cookie = (u64::from(place.round) << 32) | u64::from(index);
            flight.command = header.command;
            flight.length = header.length;
            flight.stage = FlightStage::Sent;
            (flight.received, flight.errno, flight.error_chunks) = (0, 0, 0);
        }
        Some((index, round))
    }

    /// The request whose round has this cookie.
    pub(super) fn find(&self, cookie: u64) -> Option<u32> {
        let index = u32::try_from(cookie & u64::from(u32::MAX)).ok()?;
        let place = self.places.get(position(index))?;
        let is_known = u64::from(place.round) == cookie >> 32 && place.flight.is_some();
        is_known.then_some(index)
    }

    pub(super) fn get(&mut self, index: u32) -> Option<&mut Flight> {
        self.places.get_mut(position(index))?.flight.as_mut()
    }

    /// Takes a request out, with its result.
    pub(super) fn end(&mut self, index: u32, result: i32) -> Option<Landed> {
        let flight = self.places.get_mut(position(index))?.flight.take()?;
        self.free.push(index);
        let (owner, request) = (flight.owner, flight.request);
        let finished = Finished { request, result };
        Some(Landed { owner, finished })
    }

    /// Ends the round of a request that has succeeded. Another round follows if there is more to do.
    pub(super) fn land(&mut self, index: u32) -> Option<Landed> {
        let flight = self.get(index)?;
        let request = &mut flight.request;
        if matches!(request.op, Op::Flush | Op::BlockStatus) {
            return self.end(index, 0);
        }
        request.advance(flight.length);
        if request.remaining() == 0 {
            return self.end(index, 0);
        }
        flight.stage = FlightStage::Waiting;
        self.queue.push_back(index);
        None
    }

    /// Forgets what was sent: everything waits again.
    pub(super) fn repeat(&mut self) {
        self.queue.clear();
        for (index, place) in (0..).zip(&mut self.places) {
            if let Some(flight) = &mut place.flight {
                flight.stage = FlightStage::Waiting;
                self.queue.push_back(index);
            }
        }
    }

    /// Takes out what waits and is `wanted`, with this result.
    pub(super) fn take_waiting(
        &mut self,
        result: i32,
        mut wanted: impl FnMut(&Flight) -> bool,
    ) -> Vec<Landed> {
        let mut taken = Vec::new();
        for index in mem::take(&mut self.queue) {
            let is_wanted = self.get(index).is_some_and(|flight| wanted(flight));
            if is_wanted {
                taken.extend(self.end(index, result));
            } else {
                self.queue.push_back(index);
            }
        }
        taken
    }

    /// Whether a way has requests here.
    pub(super) fn has_of(&self, owner: u64) -> bool {
        let flights = self.places.iter().filter_map(|place| place.flight.as_ref());
        flights.into_iter().any(|flight| flight.owner == owner)
    }
}

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) owner: u64,
    pub(super) finished: Finished,
}

fn position(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// What a server is to be asked next for a request. It has no cookie yet.
fn plan(request: &mut Request, facts: &ExportFacts) -> Round {
    let (offset, left) = (request.position(), request.remaining());
    let ask = |command, flags, length| {
        Round::Ask(RequestHeader {
            flags,
            command,
            cookie: 0,
            offset,
            length,
        })
    };
    let payload = match facts.style {
        HeaderStyle::Extended => command_flag::PAYLOAD_LEN,
        _ => 0,
    };
    match request.op {
        Op::Read => match facts.size.saturating_sub(offset) {
            0 => {
                // The length of the node was rounded up.
                request.fill_rest_with_zeroes();
                Round::Over(0)
            }
            there => ask(command::READ, 0, left.min(there).min(facts.payload_max())),
        },
        Op::Write => ask(command::WRITE, payload, left.min(facts.payload_max())),
        Op::WriteZeroes { unmap } if facts.has(transmission_flag::SEND_WRITE_ZEROES) => {
            let flags = if unmap { 0 } else { command_flag::NO_HOLE };
            ask(command::WRITE_ZEROES, flags, left.min(RANGE_MAX))
        }
        Op::WriteZeroes { .. } => ask(command::WRITE, payload, left.min(facts.payload_max())),
        Op::Discard if facts.has(transmission_flag::SEND_TRIM) => {
            ask(command::TRIM, 0, left.min(RANGE_MAX))
        }
        Op::Flush if facts.has(transmission_flag::SEND_FLUSH) => Round::Ask(RequestHeader {
            flags: 0,
            command: command::FLUSH,
            cookie: 0,
            offset: 0,
            length: 0,
        }),
        Op::BlockStatus => match (facts.size.saturating_sub(offset), facts.allocation) {
            (0, _) => {
                request.set_status(BlockStatus::zeroes(left));
                Round::Over(0)
            }
            (_, None) => {
                request.set_status(BlockStatus::data(left));
                Round::Over(0)
            }
            (there, Some(_)) => {
                let length = left.min(there).min(RANGE_MAX);
                ask(command::BLOCK_STATUS, command_flag::REQ_ONE, length)
            }
        },
        Op::Discard | Op::Flush | Op::Populate => Round::Over(0),
    }
}
