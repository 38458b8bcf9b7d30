//! The commands of the block layer: nodes come, go and change their length; queries about nodes.
//!
//! * `backup`: `blockdev-backup`
//! * `info`: what `query-block` and `query-named-block-nodes` say about a node
//! * `image_info`: what both say about its image
//! * `stats`: `query-blockstats`
//! * `reopen`: `blockdev-reopen`
//! * `commit`: `block-commit`
//! * `backing_name`: `change-backing-file`
//! * `snapshot`: `blockdev-snapshot`, `blockdev-snapshot-sync`; `transaction`: these and others at once
//! * `bitmap`: `block-dirty-bitmap-*`
//! * `drained`: commands that drain nodes
//! * `threshold`: `block-set-write-threshold`
//! * `graph`: `x-debug-query-block-graph`
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::command::Commands;
use super::reply::Reply;
use crate::block::{
    self, BLOCK_STREAM_OPTIONS, BLOCKDEV_CREATE_OPTIONS, BLOCKDEV_MIRROR_OPTIONS, BLOCKDEV_OPTIONS,
    DRIVE_MIRROR_OPTIONS, Node,
};
use crate::object::{Options, Value};
use crate::schema::{CommandType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result};

mod backing_name;
mod backup;
mod bitmap;
mod commit;
mod drained;
mod graph;
mod image_info;
mod info;
mod reopen;
mod snapshot;
mod stats;
mod threshold;
mod transaction;

pub(super) fn add(commands: &mut Commands) {
    commands.add_later(&BLOCKDEV_ADD, blockdev_add);
    commands.add_later(&backup::BLOCKDEV_BACKUP, backup::backup);
    commands.add(&BLOCKDEV_CREATE, blockdev_create);
    commands.add(&BLOCKDEV_MIRROR, blockdev_mirror);
    commands.add_later(&DRIVE_MIRROR, drive_mirror);
    commands.add_later(&BLOCKDEV_DEL, blockdev_del);
    commands.add_later(&reopen::BLOCKDEV_REOPEN, reopen::reopen);
    commands.add_later(&BLOCK_RESIZE, resize);
    commands.add_later(
        &backing_name::CHANGE_BACKING_FILE,
        backing_name::change_backing_file,
    );
    commands.add(&BLOCK_STREAM, block_stream);
    commands.add_later(&commit::BLOCK_COMMIT, commit::commit);
    commands.add_later(&snapshot::BLOCKDEV_SNAPSHOT, transaction::snapshot);
    commands.add_later(
        &snapshot::BLOCKDEV_SNAPSHOT_SYNC,
        transaction::snapshot_sync,
    );
    commands.add_later(&transaction::TRANSACTION, transaction::transaction);
    bitmap::add(commands);
    commands.add_later(&threshold::SET_WRITE_THRESHOLD, threshold::set);
    commands.add_event(&threshold::WRITE_THRESHOLD);
    commands.add_later(&info::QUERY_NAMED_BLOCK_NODES, info::named_nodes);
    commands.add_later(&info::QUERY_BLOCK, info::devices);
    commands.add(&stats::QUERY_BLOCKSTATS, stats::blockstats);
    commands.add(&graph::QUERY_BLOCK_GRAPH, graph::block_graph);
}

static BLOCKDEV_ADD: CommandType = CommandType::new("blockdev-add", &BLOCKDEV_OPTIONS);

/// Opens on a thread of its own, because a server or a file system may keep it waiting.
fn blockdev_add(arguments: Options, reply: Reply) {
    reply.done_by_thread("blockdev-add", move || {
        Node::open_blockdev(arguments).map(drop)
    });
}

static BLOCKDEV_CREATE: CommandType = CommandType::new("blockdev-create", &BLOCKDEV_CREATE_OPTIONS);

fn blockdev_create(arguments: Options) -> Result<Value> {
    block::create(arguments)?;
    Ok(Value::empty())
}

static BLOCK_STREAM: CommandType = CommandType::new("block-stream", &BLOCK_STREAM_OPTIONS);

fn block_stream(arguments: Options) -> Result<Value> {
    block::stream(arguments)?;
    Ok(Value::empty())
}

static BLOCKDEV_MIRROR: CommandType = CommandType::new("blockdev-mirror", &BLOCKDEV_MIRROR_OPTIONS);

fn blockdev_mirror(arguments: Options) -> Result<Value> {
    block::mirror(arguments)?;
    Ok(Value::empty())
}

static DRIVE_MIRROR: CommandType = CommandType::new("drive-mirror", &DRIVE_MIRROR_OPTIONS);

/// Makes and opens the target on a thread of its own.
fn drive_mirror(arguments: Options, reply: Reply) {
    reply.done_by_thread("drive-mirror", move || block::drive_mirror(arguments));
}

static BLOCKDEV_DEL: CommandType = CommandType::new(
    "blockdev-del",
    &ObjectType::new(
        "q_obj_blockdev-del-arg",
        &[Member::new("node-name", ValueType::Str)],
    ),
);

/// Closes on a thread of its own, because an image writes what it has in memory, and a file system may keep it waiting.
fn blockdev_del(mut arguments: Options, reply: Reply) {
    reply.done_by_thread("blockdev-del", move || {
        Node::remove(&arguments.need_str("node-name")?)
    });
}

static BLOCK_RESIZE: CommandType = CommandType::new(
    "block_resize",
    &ObjectType::new(
        "q_obj_block_resize-arg",
        &[
            Member::optional("device", ValueType::Str),
            Member::optional("node-name", ValueType::Str),
            Member::new("size", ValueType::Int),
        ],
    ),
);

/// Resizes on a thread of its own, because an image waits for its requests, which the monitor's thread may have to serve.
fn resize(arguments: Options, reply: Reply) {
    let (node, length) = match resize_target(arguments) {
        Ok(target) => target,
        Err(error) => return reply.complete(Err(error)),
    };
    reply.done_by_thread("block_resize", move || node.set_length(length));
}

/// The node and its new length. A length between two blocks is rounded up, as the length of an image is.
fn resize_target(mut arguments: Options) -> Result<(Arc<Node>, u64)> {
    let device = arguments.take_str("device")?.unwrap_or_default();
    let name = arguments.take_str("node-name")?.unwrap_or_default();
    let found = [&name, &device]
        .into_iter()
        .find_map(|name| Node::find(name).ok());
    let node = found.ok_or_else(|| {
        let message = format!("Cannot find device='{device}' nor node-name='{name}'");
        Error::new(ErrorKind::NotFound, message)
    })?;
    block::check_unused(&node)?;
    let size = arguments.take_int("size")?.unwrap_or(0);
    let size = u64::try_from(size).map_err(|_| arguments.bad("size", "a >0 size"))?;
    let length = size.checked_next_multiple_of(node.block_size());
    let length = length.ok_or_else(|| arguments.bad("size", "a smaller size"))?;
    Ok((node, length))
}
