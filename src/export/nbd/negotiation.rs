//! The negotiation with a client, up to the export that it chooses.
//!
//! Error texts are QEMU's, as clients show them.
//!
//! # Invariants
//! 1. An option's data is read only if it is at most [`OPTION_MAX`] bytes long. Longer data is skipped. The deadline of the
//!    server ends a client that does not come to an end.
//! 2. A server with certificates says nothing of its exports before TLS, and what was read in the clear before it means nothing
//!    after it.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;

use super::execute::ConnectionTerms;
use super::offer::NbdOffer;
use super::reply::ReplyStyle;
use super::socket::NbdSocket;
use super::status::StatusContexts;
use crate::nbd::protocol::MAX_PAYLOAD;
use crate::nbd::protocol::export::{
    BlockSizeLimits, ExportDetail, ExportQuestion, ExportSize, ListedExport, info,
    transmission_flag as flag,
};
use crate::nbd::protocol::handshake::{
    Greeting, OptionHeader, OptionReplyHeader, client_flag, handshake_flag, option, option_reply,
};
use crate::nbd::protocol::meta::{MetaContext, MetaQueries};

/// The longest data of an option.
const OPTION_MAX: u32 = 64 * 1024;
/// The unit that clients should prefer.
const PREFERRED_BLOCK: u32 = 4096;

/// What the server says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerTraits<'a> {
    /// A client may open several connections.
    pub(super) multi_conn: bool,
    /// TLS comes before everything else.
    pub(super) tls: Option<&'a Arc<ServerConfig>>,
}

/// A negotiation under way.
#[derive(Debug)]
pub(super) struct Negotiation<'a> {
    socket: &'a mut NbdSocket,
    server: ServerTraits<'a>,
    /// TLS has begun.
    is_secure: bool,
    no_zeroes: bool,
    style: ReplyStyle,
    /// What the client has chosen, and of which export.
    contexts: Option<(String, StatusContexts)>,
}

/// How an option ends.
enum OptionOutcome {
    /// With its reply.
    Replied,
    /// The client goes.
    Abort,
    /// The client has its export.
    Chosen(Arc<NbdOffer>),
}

impl Negotiation<'_> {
    /// Greets a client and answers its options. `None` if it goes.
    ///
    /// # Errors
    /// The connection is lost, or the client breaks the protocol.
    pub(super) async fn run(
        socket: &mut NbdSocket,
        server: ServerTraits<'_>,
    ) -> io::Result<Option<ConnectionTerms>> {
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        socket.write_all(&Greeting { flags }.encode()).await?;
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).await?;
        let answer = u32::from_be_bytes(answer);
        if answer & !(client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES) != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut negotiation = Negotiation {
            socket,
            server,
            is_secure: false,
            no_zeroes: answer & client_flag::NO_ZEROES != 0,
            style: ReplyStyle::Simple,
            contexts: None,
        };
        let is_fixed = answer & client_flag::FIXED_NEWSTYLE != 0;
        loop {
            match negotiation.option(is_fixed).await? {
                OptionOutcome::Replied => {}
                OptionOutcome::Abort => return Ok(None),
                OptionOutcome::Chosen(offer) => return Ok(Some(negotiation.terms(offer))),
            }
        }
    }

    fn terms(self, offer: Arc<NbdOffer>) -> ConnectionTerms {
        let chosen = self.contexts.filter(|(name, _)| *name == offer.seen.name);
        ConnectionTerms {
            style: self.style,
            contexts: chosen.map(|(_, contexts)| contexts).unwrap_or_default(),
            offer,
        }
    }

    /// Answers one option.
    async fn option(&mut self, is_fixed: bool) -> io::Result<OptionOutcome> {
        let mut header = [0; OptionHeader::LEN];
        self.socket.read_exact(&mut header).await?;
        let header = OptionHeader::decode(&header).map_err(|_| io::ErrorKind::InvalidData)?;
        let number = header.option;
        if header.length > OPTION_MAX {
            self.skip(header.length).await?;
            let text = format!(
                "len ({}) is larger than max len ({OPTION_MAX})",
                header.length
            );
            return self.refuse(number, option_reply::ERR_TOO_BIG, &text).await;
        }
        let mut data = vec![0; usize::try_from(header.length).unwrap_or(0)];
        self.socket.read_exact(&mut data).await?;
        if !is_fixed && number != option::EXPORT_NAME {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match (self.server.tls, self.is_secure) {
            (Some(tls), false) => self.insecure_option(number, &data, tls).await,
            _ => self.allowed_option(number, &data).await,
        }
    }

    /// Answers an option before TLS, where there must be TLS.
    async fn insecure_option(
        &mut self,
        number: u32,
        data: &[u8],
        tls: &Arc<ServerConfig>,
    ) -> io::Result<OptionOutcome> {
        let is_start = number == option::STARTTLS;
        if is_start && data.is_empty() {
            self.acknowledge(number).await?;
            self.socket.accept_tls(tls).await?;
            self.is_secure = true;
            return Ok(OptionOutcome::Replied);
        }
        if is_start {
            self.refuse_length(number).await?;
            return Ok(OptionOutcome::Abort);
        }
        if number == option::EXPORT_NAME {
            // There is no reply for an error.
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let text = format!("Option 0x{number:x} not permitted before TLS");
        let refused = self.refuse(number, option_reply::ERR_TLS_REQD, &text).await;
        match number {
            option::ABORT => Ok(OptionOutcome::Abort),
            _ => refused,
        }
    }

    async fn allowed_option(&mut self, number: u32, data: &[u8]) -> io::Result<OptionOutcome> {
        match number {
            option::EXPORT_NAME => self.export_name(data).await,
            option::ABORT => {
                // The client may be gone.
                let _ = self.reply(number, option_reply::ACK, &[]).await;
                Ok(OptionOutcome::Abort)
            }
            option::INFO | option::GO => self.info(number, data).await,
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(number, data).await
            }
            option::LIST
            | option::STARTTLS
            | option::STRUCTURED_REPLY
            | option::EXTENDED_HEADERS
                if !data.is_empty() =>
            {
                self.refuse_length(number).await
            }
            option::LIST => self.list().await,
            option::STRUCTURED_REPLY => self.set_style(number, ReplyStyle::Structured).await,
            option::EXTENDED_HEADERS => self.set_style(number, ReplyStyle::Extended).await,
            option::STARTTLS if self.is_secure => {
                self.refuse(number, option_reply::ERR_INVALID, "TLS already enabled")
                    .await
            }
            option::STARTTLS => {
                self.refuse(number, option_reply::ERR_POLICY, "TLS not configured")
                    .await
            }
            _ => {
                let text = format!("Unsupported option {number} ({})", name(number));
                self.refuse(number, option_reply::ERR_UNSUP, &text).await
            }
        }
    }

    async fn skip(&mut self, mut length: u32) -> io::Result<()> {
        let mut scrap = [0; 4096];
        while length > 0 {
            let count = length.min(4096);
            self.socket.read_exact(&mut scrap[..count as usize]).await?;
            length -= count;
        }
        Ok(())
    }

    async fn export_name(&mut self, data: &[u8]) -> io::Result<OptionOutcome> {
        let offer = str::from_utf8(data).ok().and_then(NbdOffer::find);
        // There is no reply for an error.
        let offer = offer.ok_or(io::ErrorKind::NotFound)?;
        if self.style == ReplyStyle::Extended {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = self.size(&offer).encode().to_vec();
        if !self.no_zeroes {
            answer.resize(answer.len() + ExportSize::ZEROES, 0);
        }
        self.socket.write_all(&answer).await?;
        Ok(OptionOutcome::Chosen(offer))
    }

    async fn list(&mut self) -> io::Result<OptionOutcome> {
        for offer in NbdOffer::list() {
            let entry = ListedExport {
                name: offer.seen.name.clone(),
                description: offer.seen.description.clone().unwrap_or_default(),
            };
            self.reply(option::LIST, option_reply::SERVER, &entry.encode())
                .await?;
        }
        self.acknowledge(option::LIST).await
    }

    async fn info(&mut self, number: u32, data: &[u8]) -> io::Result<OptionOutcome> {
        let Ok(question) = ExportQuestion::decode(data) else {
            let text = format!("option '{}' is malformed", name(number));
            return self.refuse(number, option_reply::ERR_INVALID, &text).await;
        };
        let Some(offer) = NbdOffer::find(&question.name) else {
            return self.unknown_export(number, &question.name).await;
        };
        let wants = |kind| question.wanted.contains(&kind);
        let seen = &offer.seen;
        let mut details = Vec::new();
        if wants(info::NAME) {
            details.push(ExportDetail::Name(seen.name.clone()));
        }
        details.extend(seen.description.clone().map(ExportDetail::Description));
        details.push(ExportDetail::BlockSize(block_sizes(
            &offer,
            wants(info::BLOCK_SIZE),
        )));
        details.push(ExportDetail::Export(self.size(&offer)));
        for detail in details {
            self.reply(number, option_reply::INFO, &detail.encode())
                .await?;
        }
        self.acknowledge(number).await?;
        Ok(match number {
            option::GO => OptionOutcome::Chosen(offer),
            _ => OptionOutcome::Replied,
        })
    }

    async fn meta_context(&mut self, number: u32, data: &[u8]) -> io::Result<OptionOutcome> {
        let is_list = number == option::LIST_META_CONTEXT;
        if self.style < ReplyStyle::Structured {
            let text = format!(
                "request option '{}' when structured reply is not negotiated",
                name(number)
            );
            return self.refuse(number, option_reply::ERR_INVALID, &text).await;
        }
        if !is_list {
            self.contexts = None;
        }
        let Ok(MetaQueries { export, queries }) = MetaQueries::decode(data) else {
            let text = format!("option '{}' is malformed", name(number));
            return self.refuse(number, option_reply::ERR_INVALID, &text).await;
        };
        let Some(offer) = NbdOffer::find(&export) else {
            return self.unknown_export(number, &export).await;
        };
        let offered = &offer.seen.contexts;
        let mut chosen = StatusContexts::default();
        if is_list && queries.is_empty() {
            chosen = offered.clone();
        }
        for query in &queries {
            chosen.add(offered, query, is_list);
        }
        for context in chosen.list() {
            // In a list, the number has no meaning.
            let id = if is_list { 0 } else { context.id };
            let context = MetaContext { id, ..context };
            self.reply(number, option_reply::META_CONTEXT, &context.encode())
                .await?;
        }
        if !is_list {
            self.contexts = Some((export, chosen));
        }
        self.acknowledge(number).await
    }

    async fn set_style(&mut self, number: u32, style: ReplyStyle) -> io::Result<OptionOutcome> {
        let text = match self.style {
            ReplyStyle::Extended => "extended headers already negotiated",
            ReplyStyle::Structured if style == ReplyStyle::Structured => {
                "structured reply already negotiated"
            }
            _ => {
                self.style = style;
                return self.acknowledge(number).await;
            }
        };
        self.refuse(number, option_reply::ERR_INVALID, text).await
    }

    async fn unknown_export(&mut self, number: u32, export: &str) -> io::Result<OptionOutcome> {
        let text = format!("export '{export}' not present");
        self.refuse(number, option_reply::ERR_UNKNOWN, &text).await
    }

    async fn acknowledge(&mut self, number: u32) -> io::Result<OptionOutcome> {
        self.reply(number, option_reply::ACK, &[]).await?;
        Ok(OptionOutcome::Replied)
    }

    async fn refuse_length(&mut self, number: u32) -> io::Result<OptionOutcome> {
        let text = format!("option '{}' has unexpected length", name(number));
        self.refuse(number, option_reply::ERR_INVALID, &text).await
    }

    async fn refuse(&mut self, number: u32, error: u32, text: &str) -> io::Result<OptionOutcome> {
        self.reply(number, error, text.as_bytes()).await?;
        Ok(OptionOutcome::Replied)
    }

    async fn reply(&mut self, option: u32, reply: u32, data: &[u8]) -> io::Result<()> {
        let header = OptionReplyHeader {
            option,
            reply,
            length: u32::try_from(data.len()).unwrap_or(u32::MAX),
        };
        let message = [&header.encode()[..], data].concat();
        self.socket.write_all(&message).await
    }

    /// Size and flags, as this client sees them.
    fn size(&self, offer: &NbdOffer) -> ExportSize {
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
        flags |= match offer.writable {
            true => flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO,
            false => flag::READ_ONLY,
        };
        if self.server.multi_conn {
            flags |= flag::CAN_MULTI_CONN;
        }
        if self.style >= ReplyStyle::Structured {
            flags |= flag::SEND_DF;
        }
        ExportSize {
            size: offer.length(),
            flags,
        }
    }
}

/// A request may have any size, but is slow if it is not made of blocks. A client that asks learns the size of the node's blocks
/// if it reads past the page cache.
fn block_sizes(offer: &NbdOffer, is_asked: bool) -> BlockSizeLimits {
    let node = offer.node();
    let block = u32::try_from(node.block_size()).unwrap_or(PREFERRED_BLOCK);
    let minimum = if is_asked && node.is_direct() {
        block
    } else {
        1
    };
    BlockSizeLimits {
        minimum,
        preferred: PREFERRED_BLOCK.max(minimum),
        maximum: MAX_PAYLOAD,
    }
}

fn name(number: u32) -> &'static str {
    match number {
        option::EXPORT_NAME => "export name",
        option::ABORT => "abort",
        option::LIST => "list",
        option::STARTTLS => "starttls",
        option::INFO => "info",
        option::GO => "go",
        option::STRUCTURED_REPLY => "structured reply",
        option::LIST_META_CONTEXT => "list meta context",
        option::SET_META_CONTEXT => "set meta context",
        option::EXTENDED_HEADERS => "extended headers",
        _ => "<unknown>",
    }
}
