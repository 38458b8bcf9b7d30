//! The negotiation before the transmission phase: greetings, options, replies to options.
#![forbid(unsafe_code)]

use super::Malformed;
use super::wire::{HeaderBytes, MessageFields};

/// What every server says first: `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// What a newstyle server says then, and a client before each option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What an oldstyle server says instead.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Before each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Flags of the server's greeting.
pub mod handshake_flag {
    /// The server replies to options.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The server can leave out the zeroes after its reply to `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Flags of the client's answer to the greeting.
pub mod client_flag {
    /// The client understands replies to options.
    pub const FIXED_NEWSTYLE: u32 = 1 << 0;
    /// The zeroes are left out.
    pub const NO_ZEROES: u32 = 1 << 1;
}

/// Options that a client sends.
pub mod option {
    /// Ends the negotiation with an export; has no reply but the export.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the session.
    pub const ABORT: u32 = 2;
    /// Asks for the names of exports.
    pub const LIST: u32 = 3;
    /// Asks for TLS.
    pub const STARTTLS: u32 = 5;
    /// Asks about an export.
    pub const INFO: u32 = 6;
    /// Ends the negotiation with an export, or an error.
    pub const GO: u32 = 7;
    /// Asks for structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Asks for the metadata contexts of an export.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Chooses metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Asks for headers with lengths of 64 bits.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
pub mod option_reply {
    /// The option is done.
    pub const ACK: u32 = 1;
    /// The name of an export.
    pub const SERVER: u32 = 2;
    /// Information on an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// What errors have in common.
    pub const ERROR: u32 = 1 << 31;
    /// The server does not know the option.
    pub const ERR_UNSUP: u32 = ERROR + 1;
    /// The server is configured not to do so.
    pub const ERR_POLICY: u32 = ERROR + 2;
    /// The option is malformed, or comes at a wrong time.
    pub const ERR_INVALID: u32 = ERROR + 3;
    /// The server's platform cannot do so.
    pub const ERR_PLATFORM: u32 = ERROR + 4;
    /// TLS must come first.
    pub const ERR_TLS_REQD: u32 = ERROR + 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = ERROR + 6;
    /// The server is about to end.
    pub const ERR_SHUTDOWN: u32 = ERROR + 7;
    /// The client must ask for block sizes and heed them.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR + 8;
    /// The option or its reply is too long.
    pub const ERR_TOO_BIG: u32 = ERROR + 9;
    /// Extended headers must come first.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR + 10;

    /// Whether a reply of this type is an error.
    pub fn is_error(reply: u32) -> bool {
        reply & ERROR != 0
    }
}

/// A newstyle server's greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// See [`handshake_flag`].
    pub flags: u16,
}

impl Greeting {
    /// Its size.
    pub const LEN: usize = 18;

    /// The bytes of it.
    pub fn encode(self) -> [u8; Greeting::LEN] {
        let header = HeaderBytes::new().u64(INIT_MAGIC).u64(OPTION_MAGIC);
        header.u16(self.flags).done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// The peer is no NBD server, or an oldstyle one.
    pub fn decode(bytes: &[u8; Greeting::LEN]) -> Result<Greeting, Malformed> {
        let mut fields = MessageFields::of(bytes);
        fields.wide_magic(INIT_MAGIC, "peer is not an NBD server")?;
        let style = fields.u64()?;
        let flags = fields.u16()?;
        match style {
            OPTION_MAGIC => Ok(Greeting { flags }),
            OLDSTYLE_MAGIC => Err(Malformed("server is of the oldstyle")),
            _ => Err(Malformed("peer is not an NBD server")),
        }
    }
}

/// What stands before an option's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// See [`option`].
    pub option: u32,
    /// How many bytes of data follow.
    pub length: u32,
}

impl OptionHeader {
    /// Its size.
    pub const LEN: usize = 16;

    /// The bytes of it.
    pub fn encode(self) -> [u8; OptionHeader::LEN] {
        let header = HeaderBytes::new().u64(OPTION_MAGIC);
        header.u32(self.option).u32(self.length).done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is no option.
    pub fn decode(bytes: &[u8; OptionHeader::LEN]) -> Result<OptionHeader, Malformed> {
        let mut fields = MessageFields::of(bytes);
        fields.wide_magic(OPTION_MAGIC, "option has a wrong magic number")?;
        let option = fields.u32()?;
        let length = fields.u32()?;
        Ok(OptionHeader { option, length })
    }
}

/// What stands before the data of a reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that is replied to.
    pub option: u32,
    /// See [`option_reply`].
    pub reply: u32,
    /// How many bytes of data follow.
    pub length: u32,
}

impl OptionReplyHeader {
    /// Its size.
    pub const LEN: usize = 20;

    /// The bytes of it.
    pub fn encode(self) -> [u8; OptionReplyHeader::LEN] {
        let header = HeaderBytes::new().u64(OPTION_REPLY_MAGIC);
        let header = header.u32(self.option).u32(self.reply);
        header.u32(self.length).done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is no reply to an option.
    pub fn decode(bytes: &[u8; OptionReplyHeader::LEN]) -> Result<OptionReplyHeader, Malformed> {
        let mut fields = MessageFields::of(bytes);
        fields.wide_magic(OPTION_REPLY_MAGIC, "reply has a wrong magic number")?;
        let option = fields.u32()?;
        let reply = fields.u32()?;
        let length = fields.u32()?;
        Ok(OptionReplyHeader {
            option,
            reply,
            length,
        })
    }
}
