//! `blockdev-backup`.
#![forbid(unsafe_code)]

use crate::Result;
use crate::block::{BLOCKDEV_BACKUP_OPTIONS, GraphChange, NewBackup, drain};
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
    let draining = drain(&change.nodes());
    glib::MainContext::default().spawn_local(async move {
        let drained = draining.await;
        reply.done_by_thread("blockdev-backup", move || {
            change.make(&drained)?;
            new.start(&drained)
        });
    });
}

fn plan(arguments: Options) -> Result<(NewBackup, GraphChange)> {
    let new = NewBackup::new(arguments)?;
    let mut change = GraphChange::new();
    new.add_to(&mut change)?;
    Ok((new, change))
}
