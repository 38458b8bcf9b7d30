//! External snapshots, of one disk or of several at once: `blockdev-snapshot`, `transaction`.
#![forbid(unsafe_code)]

use super::reopen::run;
use crate::block::{self, GraphChange};
use crate::monitor::reply::Reply;
use crate::object::{Options, Value};
use crate::schema::{
    Case, CommandType, EnumType, Member, NOTHING, ObjectType, ValueType, Variants,
};
use crate::{Error, ErrorKind, Result};

static SNAPSHOT: ObjectType = ObjectType::new(
    "BlockdevSnapshot",
    &[
        Member::new("node", ValueType::Str),
        Member::new("overlay", ValueType::Str),
    ],
);

pub(super) static BLOCKDEV_SNAPSHOT: CommandType = CommandType::new("blockdev-snapshot", &SNAPSHOT);

/// Requests to the node wait until it is over.
pub(super) fn snapshot(arguments: Options, reply: Reply) {
    let mut change = GraphChange::new();
    match add(arguments, &mut change) {
        Ok(()) => run(change, reply),
        Err(error) => reply.done(Err(error)),
    }
}

fn add(mut arguments: Options, change: &mut GraphChange) -> Result<()> {
    let node = arguments.need_str("node")?;
    block::snapshot(change, &node, &arguments.need_str("overlay")?)
}

static ACTION: ObjectType = ObjectType::tagged(
    "TransactionAction",
    &[],
    Variants {
        tag: "type",
        tag_type: "TransactionActionKind",
        cases: || {
            vec![
                Case::new("abort", &[Member::new("data", ValueType::Object(&NOTHING))]),
                Case::new(
                    "blockdev-snapshot",
                    &[Member::new("data", ValueType::Object(&SNAPSHOT))],
                ),
            ]
        },
    },
);

const COMPLETION_MODE: EnumType = EnumType::new("ActionCompletionMode", &["individual", "grouped"]);

static PROPERTIES: ObjectType = ObjectType::new(
    "TransactionProperties",
    &[Member::optional(
        "completion-mode",
        ValueType::Enum(COMPLETION_MODE),
    )],
);

pub(super) static TRANSACTION: CommandType = CommandType::new(
    "transaction",
    &ObjectType::new(
        "q_obj_transaction-arg",
        &[
            Member::new("actions", ValueType::Array(&ValueType::Object(&ACTION))),
            Member::optional("properties", ValueType::Object(&PROPERTIES)),
        ],
    ),
);

/// All actions at once, or none. No action is a job, so the completion mode changes nothing.
pub(super) fn transaction(arguments: Options, reply: Reply) {
    match plan(arguments) {
        Ok(change) => run(change, reply),
        Err(error) => reply.done(Err(error)),
    }
}

fn plan(mut arguments: Options) -> Result<GraphChange> {
    let mut change = GraphChange::new();
    let Some(Value::List(actions)) = arguments.take("actions") else {
        return Ok(change);
    };
    for action in actions {
        let Value::Dict(members) = action else {
            continue;
        };
        let mut members = Options::from_dict(members);
        let kind = members.need_str("type")?;
        match members.take("data") {
            Some(Value::Dict(data)) if kind == "blockdev-snapshot" => {
                add(Options::from_dict(data), &mut change)?;
            }
            _ => {
                let message = "Transaction aborted using Abort action";
                return Err(Error::new(ErrorKind::Cancelled, message));
            }
        }
    }
    Ok(change)
}
