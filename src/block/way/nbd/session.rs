//! A connection in the transmission phase.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};

use super::flight::{FlightTable, Landed};
use super::handshake::Opened;
use super::receiver::{Loss, Receiver};
use super::sender::Sender;
use super::server::{ExportFacts, HeaderStyle};
use crate::nbd::protocol::request::{RequestHeader, command};
use crate::nbd::stream::NbdStream;

/// A connection; see the head of this file. Dropping it says good-bye to the server if that does not interrupt a request.
#[derive(Debug)]
pub(super) struct NbdSession {
    stream: NbdStream,
    facts: ExportFacts,
    sender: Sender,
    receiver: Receiver,
}

impl NbdSession {
    pub(super) fn new((stream, facts): Opened) -> NbdSession {
        NbdSession {
            stream,
            facts,
            sender: Sender::default(),
            receiver: Receiver::new(&facts),
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Grows with what the server does; 0 if it has done nothing yet.
    pub(super) fn progress(&self) -> u64 {
        self.receiver.progress
    }

    /// Whether the server has replied.
    pub(super) fn has_reply(&self) -> bool {
        self.receiver.has_reply
    }

    /// Sends what waits. True if the socket is full.
    pub(super) fn send(
        &mut self,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> Result<bool, Loss> {
        let sent = self
            .sender
            .send(&mut self.stream, &self.facts, flights, landed);
        sent.map_err(Loss::Connection)
    }

    /// Ends the session as a client should, if the socket takes that.
    fn say_goodbye(&mut self) {
        let header = RequestHeader {
            flags: 0,
            command: command::DISC,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        let sent = match self.facts.style {
            HeaderStyle::Extended => self.stream.write(&header.encode_extended()),
            _ => self.stream.write(&header.encode()),
        };
        if sent.is_ok() {
            self.stream.close();
        }
    }

    /// Takes replies.
    pub(super) fn receive(
        &mut self,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> Result<(), Loss> {
        self.receiver.receive(&mut self.stream, flights, landed)
    }
}

impl Drop for NbdSession {
    fn drop(&mut self) {
        if self.sender.is_idle() {
            self.say_goodbye();
        }
    }
}
