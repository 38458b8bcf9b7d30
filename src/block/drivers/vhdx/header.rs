//! The headers of a VHDX image: two of them, of which the newer one counts.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::checksum::is_intact;
use crate::Result;
use crate::block::drivers::mapped::{HeaderFields, invalid, read_node, unsupported};
use crate::block::node::Node;

pub(super) const SIGNATURE: &[u8] = b"vhdxfile";

const HEADER_LEN: usize = 4096;
const PLACES: [u64; 2] = [64 << 10, 128 << 10];
const MIB: u64 = 1 << 20;

/// Checks the header that counts. Returns where the log is, which is empty.
pub(super) fn check(file: &Arc<Node>) -> Result<Range<u64>> {
    let read = |place| read_node(file, place, HEADER_LEN);
    let (first, second) = (read(PLACES[0])?, read(PLACES[1])?);
    let newest = newest(&first, &second).ok_or_else(|| invalid("No valid VHDX header found"))?;
    let fields = HeaderFields(newest);
    let (version, log_version) = (fields.u16(66), fields.u16(64));
    if version != 1 || log_version != 0 {
        let message = format!("unsupported VHDX version {version}, log version {log_version}");
        return Err(unsupported(message));
    }
    if fields.array::<16>(48) != [0; 16] {
        return Err(log_is_used(file));
    }
    let (offset, len) = (fields.u64(72), u64::from(fields.u32(68)));
    let log = offset..offset.saturating_add(len);
    if !offset.is_multiple_of(MIB) || !len.is_multiple_of(MIB) || (len > 0 && offset < MIB) {
        return Err(invalid("the VHDX image's log is not aligned"));
    }
    Ok(log)
}

/// The valid header with the greater sequence number.
fn newest<'a>(first: &'a [u8], second: &'a [u8]) -> Option<&'a [u8]> {
    let is_valid = |header: &&[u8]| header.starts_with(b"head") && is_intact(header);
    let sequence = |header: &&[u8]| HeaderFields(header).u64(8);
    [first, second]
        .into_iter()
        .filter(is_valid)
        .max_by_key(sequence)
}

fn log_is_used(file: &Node) -> crate::Error {
    let name = file.filename().unwrap_or_else(|| file.name().to_owned());
    unsupported(format!(
        "VHDX image file '{name}' opened read-only, but contains a log that needs to be replayed: to replay it, run \
         'qemu-img check -r all {name}'"
    ))
}
