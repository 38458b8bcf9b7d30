//! Dirty bitmaps of users: the commands `block-dirty-bitmap-*`, which are actions of `transaction` as well, and what queries say.
#![forbid(unsafe_code)]

use glib::{Checksum, ChecksumType};

use super::drained::run_drained;
use crate::block::{BitmapAction, BitmapChange, BitmapRef, DirtyBitmap, DirtyBits, Node};
use crate::monitor::command::Commands;
use crate::monitor::reply::Reply;
use crate::object::{Dict, Options, Value};
use crate::schema::{AlternateType, Case, CommandType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result};

static BITMAP: ObjectType = ObjectType::new(
    "BlockDirtyBitmap",
    &[
        Member::new("node", ValueType::Str),
        Member::new("name", ValueType::Str),
    ],
);

static ADD: ObjectType = ObjectType::new(
    "BlockDirtyBitmapAdd",
    &[
        Member::new("node", ValueType::Str),
        Member::new("name", ValueType::Str),
        Member::optional("granularity", ValueType::Uint(32)),
        Member::optional("persistent", ValueType::Bool),
        Member::optional("disabled", ValueType::Bool),
    ],
);

static MERGE: ObjectType = ObjectType::new(
    "BlockDirtyBitmapMerge",
    &[
        Member::new("node", ValueType::Str),
        Member::new("target", ValueType::Str),
        Member::new(
            "bitmaps",
            ValueType::Array(&ValueType::Alternate(&BITMAP_OR_NAME)),
        ),
    ],
);

/// A bitmap of the same node, or of another one.
static BITMAP_OR_NAME: AlternateType = AlternateType {
    name: "BlockDirtyBitmapOrStr",
    branches: &[ValueType::Str, ValueType::Object(&BITMAP)],
};

static COMMANDS: [CommandType; 6] = [
    CommandType::new("block-dirty-bitmap-add", &ADD),
    CommandType::new("block-dirty-bitmap-remove", &BITMAP),
    CommandType::new("block-dirty-bitmap-clear", &BITMAP),
    CommandType::new("block-dirty-bitmap-enable", &BITMAP),
    CommandType::new("block-dirty-bitmap-disable", &BITMAP),
    CommandType::new("block-dirty-bitmap-merge", &MERGE),
];

pub(super) fn add(commands: &mut Commands) {
    for command in &COMMANDS {
        commands.add_later(command, |arguments, reply| {
            change(command.name, arguments, reply);
        });
    }
    commands.add(&SHA256, sha256);
}

/// The actions of a transaction.
pub(super) fn cases() -> Vec<Case> {
    let of = |command: &CommandType| {
        let data = ValueType::Object(command.arguments);
        Case::new(command.name, &[Member::new("data", data)])
    };
    COMMANDS.iter().map(of).collect()
}

/// Whether that is an action with a bitmap.
pub(super) fn is_action(kind: &str) -> bool {
    COMMANDS.iter().any(|command| command.name == kind)
}

/// Adds an action to a change.
pub(super) fn plan(change: &mut BitmapChange, kind: &str, mut data: Options) -> Result<()> {
    let node = data.need_str("node")?;
    let action = match kind {
        "block-dirty-bitmap-remove" => BitmapAction::Remove,
        "block-dirty-bitmap-clear" => BitmapAction::Clear,
        "block-dirty-bitmap-enable" => BitmapAction::Record(true),
        "block-dirty-bitmap-disable" => BitmapAction::Record(false),
        "block-dirty-bitmap-merge" => {
            let target = BitmapRef::new(&node, data.need_str("target")?)?;
            let sources = sources(&node, &mut data)?;
            change.push(target, BitmapAction::Merge(sources));
            return Ok(());
        }
        _ => {
            // QEMU looks for the node of a new bitmap in another way.
            Node::find(&node)?;
            BitmapAction::Add {
                granularity: data.take_size("granularity")?,
                is_disabled: data.take_bool("disabled")?.unwrap_or(false),
                is_persistent: data.take_bool("persistent")?.unwrap_or(false),
            }
        }
    };
    change.push(BitmapRef::new(&node, data.need_str("name")?)?, action);
    Ok(())
}

fn sources(node: &str, data: &mut Options) -> Result<Vec<BitmapRef>> {
    let Some(Value::List(list)) = data.take("bitmaps") else {
        return Ok(Vec::new());
    };
    let of = |source| match source {
        Value::Dict(members) => {
            let mut members = Options::from_dict(members);
            BitmapRef::new(&members.need_str("node")?, members.need_str("name")?)
        }
        Value::Str(name) => BitmapRef::new(node, name),
        _ => Err(Error::new(ErrorKind::InvalidArgument, "not a bitmap")),
    };
    list.into_iter().map(of).collect()
}

/// Writes to the nodes wait meanwhile, so each of them is before the change or after it.
fn change(command: &'static str, arguments: Options, reply: Reply) {
    let mut change = BitmapChange::new();
    if let Err(error) = plan(&mut change, command, arguments) {
        return reply.done(Err(error));
    }
    let nodes = change.nodes();
    run_drained(command, &nodes, reply, move |drained| {
        change.make(drained).map(|made| made.keep())
    });
}

static SHA256: CommandType = CommandType::returning(
    "x-debug-block-dirty-bitmap-sha256",
    &BITMAP,
    ValueType::Object(&ObjectType::new(
        "BlockDirtyBitmapSha256",
        &[Member::new("sha256", ValueType::Str)],
    )),
);

fn sha256(mut arguments: Options) -> Result<Value> {
    let node = arguments.need_str("node")?;
    let bitmap = BitmapRef::new(&node, arguments.need_str("name")?)?.find()?;
    let checksum = Checksum::new(ChecksumType::Sha256).map(|mut checksum| {
        checksum.update(&bytes(bitmap.bits()));
        checksum.string().unwrap_or_default()
    });
    Ok(Value::dict([(
        "sha256",
        checksum.unwrap_or_default().as_str().into(),
    )]))
}

/// The bits, the first one in the least bit of the first byte, in whole words.
fn bytes(bits: &DirtyBits) -> Vec<u8> {
    let granules = bits.length().div_ceil(bits.granularity());
    let len = usize::try_from(granules.div_ceil(64) * 8).unwrap_or(0);
    let mut bytes = vec![0; len];
    for run in bits.runs() {
        let (first, end) = (
            run.start / bits.granularity(),
            run.end.div_ceil(bits.granularity()),
        );
        for bit in first..end {
            if let Some(byte) = bytes.get_mut(usize::try_from(bit / 8).unwrap_or(len)) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    bytes
}

pub(super) static BITMAP_INFO: ObjectType = ObjectType::new(
    "BlockDirtyInfo",
    &[
        Member::optional("name", ValueType::Str),
        Member::new("count", ValueType::Int),
        Member::new("granularity", ValueType::Uint(32)),
        Member::new("recording", ValueType::Bool),
        Member::new("busy", ValueType::Bool),
        Member::new("persistent", ValueType::Bool),
        Member::optional("inconsistent", ValueType::Bool),
    ],
);

/// The bitmaps of a node, the newest one first. `None` if it has none.
pub(super) fn infos(node: &Node) -> Option<Value> {
    let bitmaps = node.dirty_bitmaps();
    let all = bitmaps.iter().rev().map(|bitmap| info(bitmap));
    (!bitmaps.is_empty()).then(|| all.collect())
}

fn info(bitmap: &DirtyBitmap) -> Value {
    let mut members: Dict = vec![
        ("count".to_owned(), bitmap.count().into()),
        ("granularity".to_owned(), bitmap.bits().granularity().into()),
        ("recording".to_owned(), bitmap.is_recording().into()),
        ("busy".to_owned(), bitmap.is_busy().into()),
        ("persistent".to_owned(), bitmap.is_persistent().into()),
    ];
    if let Some(name) = bitmap.name() {
        members.push(("name".to_owned(), name.into()));
    }
    if bitmap.is_inconsistent() {
        members.push(("inconsistent".to_owned(), true.into()));
    }
    Value::Dict(members)
}
