//! What goes to a server: headers, and data that is copied out of requests as far as there is room.
#![forbid(unsafe_code)]

use std::io;

use super::flight::{FlightStage, FlightTable, Landed, Round};
use super::server::{ExportFacts, HeaderStyle};
use crate::nbd::protocol::request::command;
use crate::nbd::stream::NbdStream;

/// How many bytes lie ready to be sent.
const ROOM: usize = 256 << 10;

/// Bytes for a server.
#[derive(Debug, Default)]
pub(super) struct Sender {
    bytes: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
    /// A request whose data has not been copied in full, and where it goes on.
    partial: Option<(u32, u64)>,
}

impl Sender {
    /// Sends what waits. True if the socket is full. Requests that need no server are appended to `landed`.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn send(
        &mut self,
        stream: &mut NbdStream,
        facts: &ExportFacts,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> io::Result<bool> {
        loop {
            self.fill(facts, flights, landed);
            if self.sent == self.bytes.len() {
                return stream.flush();
            }
            match stream.write(&self.bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether all that was begun is sent.
    pub(super) fn is_idle(&self) -> bool {
        self.sent == self.bytes.len() && self.partial.is_none()
    }

    fn fill(&mut self, facts: &ExportFacts, flights: &mut FlightTable, landed: &mut Vec<Landed>) {
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
        while self.bytes.len() < ROOM {
            if let Some((index, done)) = self.partial {
                self.copy(flights, index, done);
            } else if !self.begin(facts, flights, landed) {
                return;
            }
        }
    }

    /// Begins the next request; false if there is none.
    fn begin(
        &mut self,
        facts: &ExportFacts,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> bool {
        let Some((index, round)) = flights.begin_next(facts) else {
            return false;
        };
        match round {
            Round::Over(result) => landed.extend(flights.end(index, result)),
            Round::Ask(header) => {
                match facts.style {
                    HeaderStyle::Extended => self.bytes.extend(header.encode_extended()),
                    _ => self.bytes.extend(header.encode()),
                }
                if header.command == command::WRITE {
                    self.partial = Some((index, 0));
                    if let Some(flight) = flights.get(index) {
                        flight.stage = FlightStage::Sending;
                    }
                }
            }
        }
        true
    }

    /// Copies data of a write, from `done` on.
    fn copy(&mut self, flights: &mut FlightTable, index: u32, done: u64) {
        self.partial = None;
        let Some(flight) = flights.get(index) else {
            return;
        };
        let left = usize::try_from(flight.length - done).unwrap_or(usize::MAX);
        let count = left.min(ROOM - self.bytes.len());
        let start = self.bytes.len();
        self.bytes.resize(start + count, 0);
        let at = usize::try_from(done).unwrap_or(usize::MAX);
        flight.request.copy_out_from(at, &mut self.bytes[start..]);
        if count < left {
            self.partial = Some((index, done + count as u64));
        } else {
            flight.stage = FlightStage::Sent;
        }
    }
}
