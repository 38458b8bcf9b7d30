//! A connection in the transmission phase.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};

use super::flight::{FlightTable, Landed};
use super::handshake::Opened;
use super::receiver::{Loss, Receiver};
use super::sender::Sender;
use super::server::ExportFacts;
use crate::nbd::stream::NbdStream;

/// A connection; see the head of this file.
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

    /// Takes replies.
    pub(super) fn receive(
        &mut self,
        flights: &mut FlightTable,
        landed: &mut Vec<Landed>,
    ) -> Result<(), Loss> {
        self.receiver.receive(&mut self.stream, flights, landed)
    }
}
