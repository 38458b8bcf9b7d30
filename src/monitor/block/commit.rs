//! Data of images goes into their backing files: `block-commit`.
#![forbid(unsafe_code)]

use super::drained::run_drained;
use crate::block::{self, BLOCK_COMMIT_OPTIONS};
use crate::monitor::reply::Reply;
use crate::object::Options;
use crate::schema::CommandType;

pub(super) static BLOCK_COMMIT: CommandType =
    CommandType::new("block-commit", &BLOCK_COMMIT_OPTIONS);

/// The job starts when the base is quiet, on a thread of its own, because the base may have to be opened anew.
pub(super) fn commit(arguments: Options, reply: Reply) {
    let start = match block::commit(arguments) {
        Ok(start) => start,
        Err(error) => return reply.done(Err(error)),
    };
    let nodes = start.nodes();
    run_drained("block-commit", &nodes, reply, move |drained| {
        start.start(drained)
    });
}
