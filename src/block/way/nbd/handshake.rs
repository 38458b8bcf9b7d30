//! The negotiation with a server, from the connection to the transmission phase.
//!
//! A future, which the home of a connection polls. What a server sends is limited: the length and the number of replies, and
//! the time that all of it takes.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::task::Poll;

use gsource::{AioContext, Clock};

use super::server::{ExportFacts, HeaderStyle, ServerOptions, TlsOptions};
use crate::nbd::protocol::Malformed;
use crate::nbd::protocol::export::{
    ExportDetail, ExportQuestion, ExportSize, info, transmission_flag,
};
use crate::nbd::protocol::handshake::{
    Greeting, OptionHeader, OptionReplyHeader, client_flag, handshake_flag, option, option_reply,
};
use crate::nbd::protocol::meta::{BASE_ALLOCATION, MetaContext, MetaQueries};
use crate::nbd::stream::NbdStream;
use crate::socket_address::SocketAddress;
use crate::{Error, ErrorKind, Result};

/// How long a connection may take to reach the transmission phase.
const HANDSHAKE_LIMIT_NS: i64 = 30_000_000_000;
/// The longest data of a reply to an option. The longest that makes sense has two strings.
const REPLY_LENGTH_MAX: u32 = 16 << 10;
/// How many replies one option may have.
const REPLIES_MAX: usize = 64;

/// An open connection, and what was negotiated.
pub(super) type Opened = (NbdStream, ExportFacts);

/// A connection on its way.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Opened>> + Send>>;

/// Connects to a server once.
///
/// # Errors
/// `Os` if there is no connection, `Protocol` if the server does not do as the specification says, `NotFound` if it does not
/// have the export, `TimedOut` if it is slow.
pub(super) async fn open(
    aio: &AioContext,
    server: &ServerOptions,
    limit_ns: i64,
) -> Result<Opened> {
    let opening = async {
        let socket = server.address.connect(aio).await?;
        let mut stream = NbdStream::plain(socket);
        if matches!(server.address, SocketAddress::Fd(_)) {
            stream.hang_up_at_the_end();
        }
        let talk = Talk {
            aio,
            stream,
            server,
        };
        talk.negotiate().await
    };
    let mut opening = pin!(opening);
    let limit_ns = limit_ns.clamp(1, HANDSHAKE_LIMIT_NS);
    let mut limit = pin!(aio.sleep_ns(Clock::Realtime, limit_ns));
    poll_fn(|context| match opening.as_mut().poll(context) {
        Poll::Pending => limit.as_mut().poll(context).map(|()| {
            let message = format!("The NBD server at '{}' does not answer", server.address);
            Err(Error::new(ErrorKind::Closed, message))
        }),
        ready => ready,
    })
    .await
}

/// A conversation with a server.
struct Talk<'a> {
    aio: &'a AioContext,
    stream: NbdStream,
    server: &'a ServerOptions,
}

/// A reply to an option: its type and its data.
type OptionReply = (u32, Vec<u8>);

impl Talk<'_> {
    async fn negotiate(mut self) -> Result<Opened> {
        let mut greeting = [0; Greeting::LEN];
        self.read(&mut greeting).await?;
        let greeting = Greeting::decode(&greeting).map_err(violation)?;
        let is_fixed = greeting.flags & handshake_flag::FIXED_NEWSTYLE != 0;
        let no_zeroes = greeting.flags & handshake_flag::NO_ZEROES != 0;
        let mut flags = 0;
        if is_fixed {
            flags |= client_flag::FIXED_NEWSTYLE;
        }
        if no_zeroes {
            flags |= client_flag::NO_ZEROES;
        }
        self.write(&flags.to_be_bytes()).await?;
        if let Some(tls) = &self.server.tls {
            if !is_fixed {
                return Err(protocol("server does not support STARTTLS"));
            }
            self.start_tls(tls).await?;
        }
        if !is_fixed {
            return self.take_export(HeaderStyle::Simple, no_zeroes).await;
        }
        let style = self.choose_style().await?;
        let allocation = match style {
            HeaderStyle::Simple => None,
            _ => self.choose_allocation().await?,
        };
        match self.go(style, allocation).await? {
            Some(facts) => Ok((self.stream, facts)),
            None => self.take_export(style, no_zeroes).await,
        }
    }

    /// Goes on under TLS. A server that refuses is not talked to in the clear.
    async fn start_tls(&mut self, tls: &TlsOptions) -> Result<()> {
        let replies = self.ask(option::STARTTLS, &[]).await?;
        match last(&replies) {
            (option_reply::ACK, _) => {}
            (option_reply::ERR_UNSUP, _) => {
                return Err(protocol("server does not support STARTTLS"));
            }
            (reply, data) => return Err(refusal(option::STARTTLS, reply, data)),
        }
        let failed = |error| {
            let message = format!("TLS handshake failed: {error}");
            Error::new(ErrorKind::Protocol, message)
        };
        let name = tls.name.clone();
        let config = tls.creds.client()?;
        self.stream.start_tls(config, name).map_err(failed)?;
        loop {
            match self.stream.shake_hands() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.aio.readable(self.stream.as_raw_fd()).await?;
                }
                outcome => return outcome.map_err(failed),
            }
        }
    }

    /// Asks for the best headers that the server has.
    async fn choose_style(&mut self) -> Result<HeaderStyle> {
        if self.agree(option::EXTENDED_HEADERS).await? {
            return Ok(HeaderStyle::Extended);
        }
        if self.agree(option::STRUCTURED_REPLY).await? {
            return Ok(HeaderStyle::Structured);
        }
        Ok(HeaderStyle::Simple)
    }

    /// Sends an option without data. False if the server does not do so.
    async fn agree(&mut self, option: u32) -> Result<bool> {
        let replies = self.ask(option, &[]).await?;
        match last(&replies) {
            (option_reply::ACK, _) => Ok(true),
            (option_reply::ERR_TLS_REQD, data) => {
                Err(refusal(option, option_reply::ERR_TLS_REQD, data))
            }
            _ => Ok(false),
        }
    }

    /// The number of the context that says where data is, if the server has it.
    async fn choose_allocation(&mut self) -> Result<Option<u32>> {
        let queries = MetaQueries {
            export: self.server.export.clone(),
            queries: vec![BASE_ALLOCATION.to_owned()],
        };
        let replies = self
            .ask(option::SET_META_CONTEXT, &queries.encode())
            .await?;
        if let (option_reply::ERR_UNKNOWN, data) = last(&replies) {
            let reply = option_reply::ERR_UNKNOWN;
            return Err(refusal(option::SET_META_CONTEXT, reply, data));
        }
        for (reply, data) in &replies {
            if *reply == option_reply::META_CONTEXT {
                let context = MetaContext::decode(data).map_err(violation)?;
                if context.name == BASE_ALLOCATION {
                    return Ok(Some(context.id));
                }
            }
        }
        Ok(None)
    }

    /// Chooses the export. `None` if the server does not know the option.
    async fn go(
        &mut self,
        style: HeaderStyle,
        allocation: Option<u32>,
    ) -> Result<Option<ExportFacts>> {
        let question = ExportQuestion {
            name: self.server.export.clone(),
            wanted: vec![info::BLOCK_SIZE],
        };
        let replies = self.ask(option::GO, &question.encode()).await?;
        match last(&replies) {
            (option_reply::ACK, _) => {}
            (option_reply::ERR_UNSUP, _) => return Ok(None),
            (reply, data) => return Err(refusal(option::GO, reply, data)),
        }
        let (mut export, mut limits) = (None, ExportFacts::DEFAULT_LIMITS);
        for (reply, data) in &replies {
            if *reply == option_reply::INFO {
                match ExportDetail::decode(data).map_err(violation)? {
                    ExportDetail::Export(size) => export = Some(size),
                    ExportDetail::BlockSize(sizes) => limits = sizes,
                    _ => {}
                }
            }
        }
        let export = export.ok_or_else(|| protocol("broken server omitted NBD_INFO_EXPORT"))?;
        let facts = ExportFacts {
            size: export.size,
            flags: export.flags,
            limits,
            style,
            allocation,
        };
        check(facts).map(Some)
    }

    /// Chooses the export by the option that all servers have, and which has no error.
    async fn take_export(mut self, style: HeaderStyle, no_zeroes: bool) -> Result<Opened> {
        let name = self.server.export.clone();
        self.send_option(option::EXPORT_NAME, name.as_bytes())
            .await?;
        let mut export = [0; ExportSize::LEN];
        self.read(&mut export).await?;
        if !no_zeroes {
            self.read(&mut [0; ExportSize::ZEROES]).await?;
        }
        let export = ExportSize::decode(&export);
        let facts = ExportFacts {
            size: export.size,
            flags: export.flags,
            limits: ExportFacts::DEFAULT_LIMITS,
            style,
            allocation: None,
        };
        Ok((self.stream, check(facts)?))
    }

    async fn send_option(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut message = Vec::from(OptionHeader { option, length }.encode());
        message.extend(data);
        self.write(&message).await
    }

    /// Sends an option and waits for its replies. The last one, which is always there, ends them.
    async fn ask(&mut self, option: u32, data: &[u8]) -> Result<Vec<OptionReply>> {
        self.send_option(option, data).await?;
        let mut replies = Vec::new();
        while replies.len() < REPLIES_MAX {
            let reply = self.reply_to(option).await?;
            let kind = reply.0;
            replies.push(reply);
            if kind == option_reply::ACK || option_reply::is_error(kind) {
                return Ok(replies);
            }
        }
        Err(protocol("server has no end of replies"))
    }

    async fn reply_to(&mut self, option: u32) -> Result<OptionReply> {
        let mut header = [0; OptionReplyHeader::LEN];
        self.read(&mut header).await?;
        let header = OptionReplyHeader::decode(&header).map_err(violation)?;
        if header.option != option {
            return Err(protocol("server replies to another option"));
        }
        if header.length > REPLY_LENGTH_MAX {
            return Err(protocol("server's reply is too long"));
        }
        let mut data = vec![0; usize::try_from(header.length).unwrap_or(0)];
        self.read(&mut data).await?;
        Ok((header.reply, data))
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.stream.read(&mut buffer[done..]) {
                Ok(0) => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.aio.readable(self.stream.as_raw_fd()).await?;
                }
                Err(error) => return Err(lost(error)),
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.stream.write(&bytes[done..]) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.aio.writable(self.stream.as_raw_fd()).await?;
                }
                Err(error) => return Err(lost(error)),
            }
        }
        while self.stream.flush().map_err(lost)? {
            self.aio.writable(self.stream.as_raw_fd()).await?;
        }
        Ok(())
    }
}

/// What cannot be, whatever the export.
fn check(facts: ExportFacts) -> Result<ExportFacts> {
    if facts.size > i64::MAX.cast_unsigned() {
        return Err(protocol("export length is too long"));
    }
    if !facts.has(transmission_flag::HAS_FLAGS) {
        return Err(protocol("export has no flags"));
    }
    if facts.payload_max() == 0 {
        return Err(protocol("export takes no payload"));
    }
    Ok(facts)
}

fn last(replies: &[OptionReply]) -> (u32, &[u8]) {
    replies
        .last()
        .map_or((option_reply::ERR_UNSUP, &[]), |(reply, data)| {
            (*reply, data)
        })
}

/// The error for a reply to an option that is an error. Its data is a text for people.
fn refusal(option: u32, reply: u32, data: &[u8]) -> Error {
    let what = match reply {
        option_reply::ERR_UNKNOWN => "Requested export not available".to_owned(),
        option_reply::ERR_POLICY => format!("Denied by server for option {option}"),
        option_reply::ERR_INVALID => format!("Invalid parameters for option {option}"),
        option_reply::ERR_PLATFORM => format!("Server lacks support for option {option}"),
        option_reply::ERR_TLS_REQD => {
            format!("Server requires TLS for option {option}: tls-creds is needed")
        }
        option_reply::ERR_SHUTDOWN => format!("Server shutting down before option {option}"),
        option_reply::ERR_BLOCK_SIZE_REQD => {
            format!("Server requires INFO_BLOCK_SIZE for option {option}")
        }
        _ => format!("Server has error {reply:#x} for option {option}"),
    };
    let kind = match reply {
        option_reply::ERR_UNKNOWN => ErrorKind::NotFound,
        _ => ErrorKind::Protocol,
    };
    let text: String = String::from_utf8_lossy(data)
        .chars()
        .filter(|letter| !letter.is_control())
        .collect();
    match text.as_str() {
        "" => Error::new(kind, what),
        text => Error::new(kind, format!("{what}: server reported: {text}")),
    }
}

fn lost(error: io::Error) -> Error {
    Error::os("The NBD server has closed the connection", error)
}

fn protocol(what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("NBD: {what}"))
}

fn violation(malformed: Malformed) -> Error {
    protocol(malformed.0)
}
