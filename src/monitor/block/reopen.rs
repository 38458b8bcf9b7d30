//! Nodes get other options and children: `blockdev-reopen`.
#![forbid(unsafe_code)]

use super::drained::run_drained;
use crate::block::{BLOCKDEV_OPTIONS, GraphChange, Node};
use crate::monitor::reply::Reply;
use crate::object::{Options, Value};
use crate::schema::{CommandType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result};

pub(super) static BLOCKDEV_REOPEN: CommandType = CommandType::new(
    "blockdev-reopen",
    &ObjectType::new(
        "q_obj_blockdev-reopen-arg",
        &[Member::new(
            "options",
            ValueType::Array(&ValueType::Object(&BLOCKDEV_OPTIONS)),
        )],
    ),
);

/// Requests to the nodes wait until it is over. It concerns all nodes of the list, or none.
pub(super) fn reopen(arguments: Options, reply: Reply) {
    match plan(arguments) {
        Ok(change) => {
            let nodes = change.nodes();
            run_drained("blockdev-reopen", &nodes, reply, move |drained| {
                change.make(drained)
            });
        }
        Err(error) => reply.done(Err(error)),
    }
}

fn plan(mut arguments: Options) -> Result<GraphChange> {
    let mut change = GraphChange::new();
    let Some(Value::List(nodes)) = arguments.take("options") else {
        return Ok(change);
    };
    for options in nodes {
        let Value::Dict(options) = options else {
            continue;
        };
        let options = Options::from_dict(options);
        let Some(name) = options.peek("node-name") else {
            let message = "node-name not specified";
            return Err(Error::new(ErrorKind::MissingArgument, message));
        };
        let node = Node::find(name).map_err(|_| {
            let message = format!("Failed to find node with node-name='{name}'");
            Error::new(ErrorKind::NotFound, message)
        })?;
        change.reopen(&node, options)?;
    }
    Ok(change)
}
