//! Several things at once, or none of them: `transaction`.
#![forbid(unsafe_code)]

use super::{bitmap, snapshot};
use crate::block::{self, BitmapChange, GraphChange, NewOverlay, drain};
use crate::monitor::reply::Reply;
use crate::object::{Options, Value};
use crate::schema::{
    Case, CommandType, EnumType, Member, NOTHING, ObjectType, ValueType, Variants,
};
use crate::{Error, ErrorKind, Result};

static ACTION: ObjectType = ObjectType::tagged(
    "TransactionAction",
    &[],
    Variants {
        tag: "type",
        tag_type: "TransactionActionKind",
        cases: || {
            let mut cases = vec![Case::new(
                "abort",
                &[Member::new("data", ValueType::Object(&NOTHING))],
            )];
            cases.extend(snapshot::cases());
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
    run(reply, |plan| plan.add_all(arguments));
}

/// `blockdev-snapshot`
pub(super) fn snapshot(arguments: Options, reply: Reply) {
    run(reply, |plan| plan.add("blockdev-snapshot", arguments));
}

/// `blockdev-snapshot-sync`
pub(super) fn snapshot_sync(arguments: Options, reply: Reply) {
    run(reply, |plan| plan.add("blockdev-snapshot-sync", arguments));
}

/// Plans and makes a change on a thread of its own, which may wait for storage. Requests to the nodes wait until it is over.
fn run(reply: Reply, add: impl FnOnce(&mut TransactionPlan) -> Result<()> + Send + 'static) {
    reply.done_by_thread("transaction", move || {
        let mut plan = TransactionPlan::default();
        add(&mut plan)?;
        plan.make()
    });
}

/// What is to happen at once.
#[derive(Debug, Default)]
struct TransactionPlan {
    graph: GraphChange,
    bitmaps: BitmapChange,
    overlays: Vec<NewOverlay>,
}

impl TransactionPlan {
    fn add_all(&mut self, mut arguments: Options) -> Result<()> {
        let mut properties = arguments.take_group("properties")?;
        let is_grouped = properties.take_str("completion-mode")?.as_deref() == Some("grouped");
        let Some(Value::List(actions)) = arguments.take("actions") else {
            return Ok(());
        };
        for action in actions {
            let Value::Dict(members) = action else {
                continue;
            };
            let mut members = Options::from_dict(members);
            let kind = members.need_str("type")?;
            if is_grouped && kind != "abort" {
                return Err(not_grouped(&kind));
            }
            match members.take("data") {
                Some(Value::Dict(data)) => self.add(&kind, Options::from_dict(data))?,
                _ => self.add(&kind, Options::from_dict(Vec::new()))?,
            }
        }
        Ok(())
    }

    /// Adds an action.
    fn add(&mut self, kind: &str, mut data: Options) -> Result<()> {
        match kind {
            "blockdev-snapshot" => {
                let node = data.need_str("node")?;
                block::snapshot(&mut self.graph, &node, &data.need_str("overlay")?)
            }
            "blockdev-snapshot-sync" => {
                self.overlays
                    .push(block::snapshot_sync(&mut self.graph, data)?);
                Ok(())
            }
            kind if bitmap::is_action(kind) => bitmap::plan(&mut self.bitmaps, kind, data),
            _ => {
                let message = "Transaction aborted using Abort action";
                Err(Error::new(ErrorKind::Cancelled, message))
            }
        }
    }

    fn make(self) -> Result<()> {
        let nodes = self.graph.nodes().into_iter().chain(self.bitmaps.nodes());
        let drained = drain(&nodes.collect::<Vec<_>>()).wait();
        // Bitmaps stay with their nodes, so their order among each other is all that counts.
        let bitmaps = self.bitmaps.make(&drained)?;
        self.graph.make(&drained).map(|()| bitmaps.keep())?;
        drop(drained);
        self.overlays.into_iter().for_each(NewOverlay::keep);
        Ok(())
    }
}

/// Only jobs complete together.
fn not_grouped(kind: &str) -> Error {
    let message =
        format!("Action '{kind}' does not support transaction property completion-mode = grouped");
    Error::new(ErrorKind::InvalidArgument, message)
}
