//! The NBD server of a node: where it is, what the user wants of it, and what it says of the export.
//!
//! # Threads
//! Shared by all connections of the node. Only the size changes: the export of a server that comes back may be longer.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustls::pki_types::ServerName;

use crate::nbd::protocol::MAX_PAYLOAD;
use crate::nbd::protocol::export::{BlockSizeLimits, transmission_flag};
use crate::nbd::tls_creds::TlsCreds;
use crate::socket_address::SocketAddress;

/// What options say of a server.
#[derive(Debug)]
pub(in crate::block) struct ServerOptions {
    pub(in crate::block) address: SocketAddress,
    /// The name of the export.
    pub(in crate::block) export: String,
    /// TLS comes before everything else.
    pub(in crate::block) tls: Option<TlsOptions>,
    /// How long requests wait for a connection after one was lost.
    pub(in crate::block) reconnect_delay_ns: i64,
    /// For how long opening tries again.
    pub(in crate::block) open_timeout_ns: i64,
}

/// How TLS is done.
#[derive(Debug)]
pub(in crate::block) struct TlsOptions {
    pub(in crate::block) creds: Arc<TlsCreds>,
    /// What the server's certificate must have.
    pub(in crate::block) name: ServerName<'static>,
}

/// How requests and replies look on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::block) enum HeaderStyle {
    Simple,
    Structured,
    Extended,
}

/// What the server says of the export on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::block) struct ExportFacts {
    pub(in crate::block) size: u64,
    /// See [`transmission_flag`].
    pub(in crate::block) flags: u16,
    pub(in crate::block) limits: BlockSizeLimits,
    pub(in crate::block) style: HeaderStyle,
    /// The number of the context `base:allocation`, if there is one.
    pub(in crate::block) allocation: Option<u32>,
}

impl ExportFacts {
    /// Sizes of a server that does not say.
    pub(super) const DEFAULT_LIMITS: BlockSizeLimits = BlockSizeLimits {
        minimum: 1,
        preferred: 4096,
        maximum: MAX_PAYLOAD,
    };

    /// Whether a flag is set.
    pub(in crate::block) fn has(&self, flag: u16) -> bool {
        self.flags & flag == flag
    }

    /// Whether nothing can be written.
    pub(in crate::block) fn is_read_only(&self) -> bool {
        self.has(transmission_flag::READ_ONLY)
    }

    /// The most bytes that a request or a reply may carry.
    pub(super) fn payload_max(&self) -> u64 {
        let limit = self.limits.maximum.min(MAX_PAYLOAD);
        (limit - limit % self.limits.minimum).into()
    }
}

/// The server of a node.
#[derive(Debug)]
pub(in crate::block) struct NbdServer {
    pub(in crate::block) options: ServerOptions,
    /// What the server said first.
    pub(in crate::block) facts: ExportFacts,
    size: AtomicU64,
    /// Connections besides the main one.
    own_links: AtomicUsize,
}

/// The most connections besides the main one.
const OWN_LINKS_MAX: usize = 15;

impl NbdServer {
    pub(super) fn new(options: ServerOptions, facts: ExportFacts) -> NbdServer {
        NbdServer {
            options,
            facts,
            size: AtomicU64::new(facts.size),
            own_links: AtomicUsize::new(0),
        }
    }

    /// Whether several connections see the same data.
    pub(super) fn allows_several(&self) -> bool {
        let is_given = matches!(self.options.address, SocketAddress::Fd(_));
        !is_given && self.facts.has(transmission_flag::CAN_MULTI_CONN)
    }

    /// Counts another connection; false if there are enough.
    pub(super) fn take_place(&self) -> bool {
        let more = |count| (count < OWN_LINKS_MAX).then_some(count + 1);
        let counted = self
            .own_links
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.is_ok()
    }

    /// A connection besides the main one has gone.
    pub(super) fn give_place(&self) {
        self.own_links.fetch_sub(1, Ordering::Relaxed);
    }

    /// The size of the export in bytes.
    pub(in crate::block) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Notes the facts of a new connection.
    ///
    /// # Errors
    /// They do not fit to what users of the node know: what the export lacks now.
    pub(super) fn accept(&self, facts: &ExportFacts) -> std::result::Result<(), &'static str> {
        let lacks = |flag| self.facts.has(flag) && !facts.has(flag);
        let refused = if facts.size < self.size() {
            "it is shorter than before"
        } else if facts.is_read_only() && !self.facts.is_read_only() {
            "it is read-only now"
        } else if facts.limits.minimum > self.facts.limits.minimum.max(512) {
            "its smallest block is larger than before"
        } else if lacks(transmission_flag::CAN_MULTI_CONN) {
            // A flush on one connection would not cover what others have written.
            "it does not allow several connections any more"
        } else if lacks(transmission_flag::SEND_FLUSH) {
            "it cannot be flushed any more"
        } else if lacks(transmission_flag::SEND_WRITE_ZEROES) {
            "it does not take write-zeroes any more"
        } else {
            self.size.fetch_max(facts.size, Ordering::Relaxed);
            return Ok(());
        };
        Err(refused)
    }
}
