//! Nodes get other options and children: `blockdev-reopen`.
#![forbid(unsafe_code)]

use crate::block::{BLOCKDEV_OPTIONS, GraphChange, Node, drain};
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
        Ok(change) => run(change, reply),
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

/// Makes a change when its nodes are quiet, on a thread of its own, which may wait for storage.
fn run(change: GraphChange, reply: Reply) {
    run_after(change, reply, || Ok(()));
}

/// The same after `first`, when the nodes are quiet already.
pub(super) fn run_after(
    change: GraphChange,
    reply: Reply,
    first: impl FnOnce() -> Result<()> + Send + 'static,
) {
    let draining = drain(&change.nodes());
    glib::MainContext::default().spawn_local(async move {
        let drained = draining.await;
        reply.done_by_thread("graph-change", move || {
            let outcome = first().and_then(|()| change.make(&drained));
            drop(drained);
            outcome
        });
    });
}
