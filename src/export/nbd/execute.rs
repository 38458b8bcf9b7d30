//! One request of a client: what it asks for, whether it may, and how it is done.
//!
//! Error texts and numbers are QEMU's; clients see the texts in structured replies.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::offer::NbdOffer;
use super::reply::{NbdFailure, NbdReply, Replies, ReplyStyle};
use super::status::StatusContexts;
use crate::block::IoBuffer;
use crate::nbd::protocol::MAX_PAYLOAD;
use crate::nbd::protocol::request::{RequestHeader, command, command_flag};

/// How much of the disk a request to read ahead reads at once.
const CACHE_PIECE: u64 = 1 << 20;

/// What a connection has agreed on.
#[derive(Clone, Debug)]
pub(super) struct ConnectionTerms {
    pub(super) offer: Arc<NbdOffer>,
    pub(super) style: ReplyStyle,
    pub(super) contexts: StatusContexts,
}

/// Carries out a request, whose payload is `payload`.
pub(super) async fn execute(
    terms: Arc<ConnectionTerms>,
    request: RequestHeader,
    payload: Option<IoBuffer>,
) -> NbdReply {
    let style = terms.style;
    let replies = Replies { style, request };
    if let Err(failure) = check(&terms, &request) {
        return replies.failed(&failure);
    }
    match carry_out(&terms, &replies, payload).await {
        Ok(reply) => reply,
        Err(failure) => replies.failed(&failure),
    }
}

/// Refuses what the export does not offer.
fn check(terms: &ConnectionTerms, request: &RequestHeader) -> Result<(), NbdFailure> {
    let allowed = match request.command {
        command::READ if terms.style >= ReplyStyle::Structured => command_flag::DF,
        command::WRITE_ZEROES => command_flag::NO_HOLE | command_flag::FAST_ZERO,
        command::BLOCK_STATUS => command_flag::REQ_ONE,
        command::WRITE if terms.style == ReplyStyle::Extended => command_flag::PAYLOAD_LEN,
        command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => 0,
        other => return Err(invalid(format!("invalid request type ({other}) received"))),
    };
    if request.flags & !(allowed | command_flag::FUA) != 0 {
        let (name, flags) = (name(request.command), request.flags);
        let text = format!("unsupported flags for command {name} (got 0x{flags:x})");
        return Err(invalid(text));
    }
    let writes = matches!(
        request.command,
        command::WRITE | command::TRIM | command::WRITE_ZEROES
    );
    if writes && !terms.offer.writable {
        return Err(NbdFailure {
            errno: libc::EROFS,
            text: "Export is read-only".to_owned(),
        });
    }
    if request.command == command::FLUSH {
        return Ok(());
    }
    if request.command == command::READ && request.length > u64::from(MAX_PAYLOAD) {
        let length = request.length;
        let text = format!("len ({length}) is larger than max len ({MAX_PAYLOAD})");
        return Err(invalid(text));
    }
    let (offset, length, size) = (request.offset, request.length, terms.offer.length());
    if offset > size || length > size - offset {
        let text = format!("operation past EOF; From: {offset}, Len: {length}, Size: {size}");
        let errno = match request.command {
            command::WRITE | command::WRITE_ZEROES => libc::ENOSPC,
            _ => libc::EINVAL,
        };
        return Err(NbdFailure { errno, text });
    }
    Ok(())
}

async fn carry_out(
    terms: &ConnectionTerms,
    replies: &Replies,
    payload: Option<IoBuffer>,
) -> Result<NbdReply, NbdFailure> {
    let backend = terms.offer.backend();
    let RequestHeader { offset, length, .. } = replies.request;
    let has = |flag| replies.request.flags & flag != 0;
    let fua = has(command_flag::FUA);
    match replies.request.command {
        command::READ => {
            if fua {
                backend.flush().await.map_err(failed("flush failed"))?;
            }
            let buffer = IoBuffer::zeroed(usize::try_from(length).unwrap_or(0));
            let (result, data) = backend.read(offset, buffer).await;
            result.map_err(failed("reading from file failed"))?;
            return Ok(replies.data(data));
        }
        command::WRITE => {
            let data = payload.unwrap_or_else(|| IoBuffer::zeroed(0));
            let (result, _) = backend.write(offset, data, fua).await;
            result.map_err(failed("writing to file failed"))?;
        }
        command::WRITE_ZEROES => {
            let unmap = !has(command_flag::NO_HOLE);
            let zeroed = match has(command_flag::FAST_ZERO) {
                true => backend.write_zeroes_fast(offset, length, unmap).await,
                false => backend.write_zeroes(offset, length, unmap, false).await,
            };
            zeroed.map_err(failed("writing to file failed"))?;
            if fua {
                backend.flush().await.map_err(failed("flush failed"))?;
            }
        }
        command::TRIM => {
            let discarded = backend.discard(offset, length).await;
            discarded.map_err(failed("discard failed"))?;
            if fua {
                backend.flush().await.map_err(failed("flush failed"))?;
            }
        }
        command::FLUSH => backend.flush().await.map_err(failed("flush failed"))?,
        command::CACHE => cache(terms, offset, length).await?,
        command::BLOCK_STATUS => return status(terms, replies).await,
        _ => unreachable!("`check` refuses it"),
    }
    Ok(replies.done())
}

/// Reads ahead, a piece after the other.
async fn cache(terms: &ConnectionTerms, offset: u64, length: u64) -> Result<(), NbdFailure> {
    let (mut at, end) = (offset, offset + length);
    let mut buffer = IoBuffer::zeroed(0);
    while at < end {
        let count = (end - at).min(CACHE_PIECE);
        buffer.set_len(usize::try_from(count).unwrap_or(0));
        let (result, back) = terms.offer.backend().read(at, buffer).await;
        result.map_err(failed("caching data failed"))?;
        buffer = back;
        at += count;
    }
    Ok(())
}

async fn status(terms: &ConnectionTerms, replies: &Replies) -> Result<NbdReply, NbdFailure> {
    let request = &replies.request;
    if request.length == 0 {
        return Err(invalid("need non-zero length".to_owned()));
    }
    if terms.contexts.is_empty() {
        return Err(invalid("CMD_BLOCK_STATUS not negotiated".to_owned()));
    }
    let is_one = request.flags & command_flag::REQ_ONE != 0;
    let asked = terms.contexts.ask(
        terms.offer.backend(),
        request.offset,
        request.length,
        is_one,
    );
    let extents = asked.await.map_err(failed("can't get block status"))?;
    Ok(replies.status(&extents))
}

fn failed(text: &'static str) -> impl Fn(io::Error) -> NbdFailure {
    move |error| NbdFailure {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        text: text.to_owned(),
    }
}

fn invalid(text: String) -> NbdFailure {
    NbdFailure {
        errno: libc::EINVAL,
        text,
    }
}

fn name(number: u16) -> &'static str {
    match number {
        command::READ => "read",
        command::WRITE => "write",
        command::FLUSH => "flush",
        command::TRIM => "discard",
        command::CACHE => "cache",
        command::WRITE_ZEROES => "write zeroes",
        command::BLOCK_STATUS => "block status",
        _ => "<unknown>",
    }
}
