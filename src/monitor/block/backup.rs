//! `blockdev-backup`.
#![forbid(unsafe_code)]

use super::drained::run_drained;
use crate::Result;
use crate::block::{BLOCKDEV_BACKUP_OPTIONS, GraphChange, NewBackup};
use crate::monitor::reply::Reply;
use crate::object::Options;
use crate::schema::CommandType;

pub(super) static BLOCKDEV_BACKUP: CommandType =
    CommandType::new("blockdev-backup", &BLOCKDEV_BACKUP_OPTIONS);

/// Requests to the node wait until the filter of the backup has taken its place.
pub(super) fn backup(arguments: Options, reply: Reply) {
    let (new, change) = match plan(arguments) {
        Ok(planned) => planned,
        Err(error) => return reply.done(Err(error)),
    };
    let nodes = change.nodes();
    run_drained("blockdev-backup", &nodes, reply, move |drained| {
        change.make(drained)?;
        new.start(drained)
    });
}

fn plan(arguments: Options) -> Result<(NewBackup, GraphChange)> {
    let new = NewBackup::new(arguments)?;
    let mut change = GraphChange::new();
    new.add_to(&mut change)?;
    Ok((new, change))
}
