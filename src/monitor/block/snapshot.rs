//! External snapshots, of one disk or of several at once: `blockdev-snapshot`, `transaction`.
#![forbid(unsafe_code)]

use super::bitmap;
use super::reopen::run;
use crate::block::{self, BitmapChange, GraphChange, drain};
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
            let mut cases = vec![
                Case::new("abort", &[Member::new("data", ValueType::Object(&NOTHING))]),
                Case::new(
                    "blockdev-snapshot",
                    &[Member::new("data", ValueType::Object(&SNAPSHOT))],
                ),
            ];
            cases.extend(bitmap::cases());
            cases
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

/// All actions at once, or none.
pub(super) fn transaction(arguments: Options, reply: Reply) {
    let (graph, bitmaps) = match plan(arguments) {
        Ok(changes) => changes,
        Err(error) => return reply.done(Err(error)),
    };
    let draining = drain(graph.nodes().iter().chain(&bitmaps.nodes()));
    glib::MainContext::default().spawn_local(async move {
        let drained = draining.await;
        reply.done_by_thread("transaction", move || {
            let made = bitmaps.make(&drained)?;
            let outcome = graph.make(&drained).map(|()| made.keep());
            drop(drained);
            outcome
        });
    });
}

/// The changes of the graph, and those of bitmaps. Bitmaps stay with their nodes, so their order among each other is all that counts.
fn plan(mut arguments: Options) -> Result<(GraphChange, BitmapChange)> {
    let (mut graph, mut bitmaps) = (GraphChange::new(), BitmapChange::new());
    let mut properties = arguments.take_group("properties")?;
    let is_grouped = properties.take_str("completion-mode")?.as_deref() == Some("grouped");
    let Some(Value::List(actions)) = arguments.take("actions") else {
        return Ok((graph, bitmaps));
    };
    for action in actions {
        let Value::Dict(members) = action else {
            continue;
        };
        let mut members = Options::from_dict(members);
        let kind = members.need_str("type")?;
        if is_grouped {
            return Err(not_grouped(&kind));
        }
        match members.take("data") {
            Some(Value::Dict(data)) if kind == "blockdev-snapshot" => {
                add(Options::from_dict(data), &mut graph)?;
            }
            Some(Value::Dict(data)) if bitmap::is_action(&kind) => {
                bitmap::plan(&mut bitmaps, &kind, Options::from_dict(data))?;
            }
            _ => {
                let message = "Transaction aborted using Abort action";
                return Err(Error::new(ErrorKind::Cancelled, message));
            }
        }
    }
    Ok((graph, bitmaps))
}

/// Only jobs complete together.
fn not_grouped(kind: &str) -> Error {
    let message =
        format!("Action '{kind}' does not support transaction property completion-mode = grouped");
    Error::new(ErrorKind::InvalidArgument, message)
}
