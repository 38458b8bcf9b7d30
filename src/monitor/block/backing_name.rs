//! The name of a backing file in an image: `change-backing-file`.
#![forbid(unsafe_code)]

use super::drained::run_drained;
use crate::Result;
use crate::block::{BackingRename, GraphChange};
use crate::monitor::reply::Reply;
use crate::object::Options;
use crate::schema::{CommandType, Member, ObjectType, ValueType};

pub(super) static CHANGE_BACKING_FILE: CommandType = CommandType::new(
    "change-backing-file",
    &ObjectType::new(
        "q_obj_change-backing-file-arg",
        &[
            Member::new("device", ValueType::Str),
            Member::new("image-node-name", ValueType::Str),
            Member::new("backing-file", ValueType::Str),
        ],
    ),
);

/// Requests to the image wait until it is over. The image goes on with the file that it has; the new name counts when it is
/// opened the next time.
pub(super) fn change_backing_file(arguments: Options, reply: Reply) {
    match plan(arguments) {
        Ok((change, rename)) => {
            let nodes = change.nodes();
            run_drained("change-backing-file", &nodes, reply, move |drained| {
                rename.write()?;
                change.make(drained)
            });
        }
        Err(error) => reply.done(Err(error)),
    }
}

fn plan(mut arguments: Options) -> Result<(GraphChange, BackingRename)> {
    let device = arguments.need_str("device")?;
    let image = arguments.need_str("image-node-name")?;
    let file = arguments.need_str("backing-file")?;
    let mut change = GraphChange::new();
    let rename = BackingRename::new(&mut change, &device, &image, file)?;
    Ok((change, rename))
}
