//! A client of the NBD server that does as it is told, also what it should not.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use qcontext::nbd::protocol::export::{ExportDetail, ExportQuestion, ExportSize, info};
use qcontext::nbd::protocol::handshake::{
    Greeting, OptionHeader, OptionReplyHeader, client_flag, option, option_reply,
};
use qcontext::nbd::protocol::meta::{MetaQueries, StatusChunk};
use qcontext::nbd::protocol::reply::{ErrorChunk, ReplyHeader, chunk};
use qcontext::nbd::protocol::request::{RequestHeader, command};
use support::deadline::DEADLINE;

/// How requests and replies look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Simple,
    Structured,
    Extended,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    pub(crate) style: Style,
    cookie: u64,
}

/// What a request has brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) error: u32,
    pub(crate) text: String,
    pub(crate) data: Vec<u8>,
    pub(crate) status: Vec<StatusChunk>,
}

impl Peer {
    pub(crate) fn connect(socket: &Path) -> Peer {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Peer {
            stream,
            style: Style::Simple,
            cookie: 0,
        }
    }

    /// Connects and chooses an export.
    pub(crate) fn of(socket: &Path, export: &str, style: Style) -> Peer {
        let mut peer = Peer::connect(socket);
        peer.greet();
        peer.set_style(style);
        if style != Style::Simple {
            let queries = MetaQueries {
                export: export.to_owned(),
                queries: vec!["base:allocation".into(), "qemu:allocation-depth".into()],
            };
            peer.option(option::SET_META_CONTEXT, &queries.encode());
            while peer.option_reply().0 != option_reply::ACK {}
        }
        peer.go(export).unwrap();
        peer
    }

    pub(crate) fn greet(&mut self) {
        let greeting = Greeting::decode(&self.read()).unwrap();
        assert_eq!(greeting.flags, 3);
        let flags = client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES;
        self.write(&flags.to_be_bytes());
    }

    fn set_style(&mut self, style: Style) {
        let number = match style {
            Style::Simple => return,
            Style::Structured => option::STRUCTURED_REPLY,
            Style::Extended => option::EXTENDED_HEADERS,
        };
        self.option(number, &[]);
        assert_eq!(self.option_reply().0, option_reply::ACK);
        self.style = style;
    }

    /// Chooses an export; the error and its text if that fails.
    pub(crate) fn go(&mut self, export: &str) -> Result<ExportSize, (u32, String)> {
        let question = ExportQuestion {
            name: export.to_owned(),
            wanted: vec![info::BLOCK_SIZE],
        };
        self.option(option::GO, &question.encode());
        let mut size = None;
        loop {
            match self.option_reply() {
                (option_reply::INFO, data) => {
                    if let Ok(ExportDetail::Export(found)) = ExportDetail::decode(&data) {
                        size = Some(found);
                    }
                }
                (option_reply::ACK, _) => return Ok(size.unwrap()),
                (error, text) => return Err((error, String::from_utf8(text).unwrap())),
            }
        }
    }

    pub(crate) fn option(&mut self, option: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        self.write(&OptionHeader { option, length }.encode());
        self.write(data);
    }

    /// The type and the data of the next reply to an option.
    pub(crate) fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let header = OptionReplyHeader::decode(&self.read()).unwrap();
        let mut data = vec![0; usize::try_from(header.length).unwrap()];
        self.stream.read_exact(&mut data).unwrap();
        (header.reply, data)
    }

    /// Sends a request. Returns its cookie.
    pub(crate) fn send(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> u64 {
        self.cookie += 1;
        let header = RequestHeader {
            flags,
            command,
            cookie: self.cookie,
            offset,
            length,
        };
        match self.style {
            Style::Extended => self.write(&header.encode_extended()),
            _ => self.write(&header.encode()),
        }
        self.write(payload);
        self.cookie
    }

    /// Sends a request and takes its answer. Others must not be under way.
    pub(crate) fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u64) -> Answer {
        self.send(command, flags, offset, length, &[]);
        let data = if command == command::READ { length } else { 0 };
        self.answer(data)
    }

    pub(crate) fn write_data(&mut self, flags: u16, offset: u64, data: &[u8]) -> Answer {
        self.send(command::WRITE, flags, offset, data.len() as u64, data);
        self.answer(0)
    }

    /// Writes and waits for the answer, as long as there is a connection.
    pub(crate) fn try_write(&mut self, data: &[u8]) -> std::io::Result<()> {
        let header = RequestHeader {
            flags: 0,
            command: command::WRITE,
            cookie: 0,
            offset: 0,
            length: data.len() as u64,
        };
        self.stream
            .write_all(&[&header.encode()[..], data].concat())?;
        self.stream.read_exact(&mut [0; 20])
    }

    /// Takes one answer. A simple one has `data` bytes of data if it is no error.
    pub(crate) fn answer(&mut self, data: u64) -> Answer {
        let mut answer = Answer::default();
        loop {
            let magic: [u8; 4] = self.read();
            let mut header = magic.to_vec();
            header.resize(ReplyHeader::len(magic).unwrap(), 0);
            self.stream.read_exact(&mut header[4..]).unwrap();
            let chunk = match ReplyHeader::decode(&header).unwrap() {
                ReplyHeader::Simple(simple) => {
                    answer.error = simple.error;
                    if simple.error == 0 {
                        answer.data = self.bytes(data);
                    }
                    return answer;
                }
                ReplyHeader::Structured(chunk) | ReplyHeader::Extended(chunk) => chunk,
            };
            let payload = self.bytes(chunk.length);
            match chunk.kind {
                chunk::NONE => {}
                chunk::OFFSET_DATA => answer.data.extend(&payload[8..]),
                chunk::BLOCK_STATUS => answer.status.push(StatusChunk::decode(&payload).unwrap()),
                chunk::BLOCK_STATUS_EXT => {
                    let status = StatusChunk::decode_extended(&payload).unwrap();
                    answer.status.push(status);
                }
                kind => {
                    let error = ErrorChunk::decode(kind, &payload).unwrap();
                    answer.error = error.error;
                    answer.text = error.message;
                }
            }
            if chunk.is_last() {
                return answer;
            }
        }
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Waits until the server has hung up. It may have replied before.
    pub(crate) fn is_hung_up(&mut self) -> bool {
        let mut scrap = [0; 65536];
        loop {
            match self.stream.read(&mut scrap) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}
