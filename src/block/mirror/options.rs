//! The arguments of `blockdev-mirror`.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::copier::CopyOptions;
use super::state::MirrorState;
use super::{MirrorSync, MirrorWork};
use crate::block::chain::check_root;
use crate::block::common::{check_name, duplicate_node};
use crate::block::driver::Driver;
use crate::block::error_policy::{ON_ERROR, OnError};
use crate::block::graph::Parent;
use crate::block::job_options::take_job_options;
use crate::block::job_use::check_unused;
use crate::block::node::Node;
use crate::block::permission::{Access, Permissions};
use crate::job::{self, JobType};
use crate::object::Options;
use crate::schema::{EnumType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, QContext, Result};

/// What each request copies at least, unless the target has clusters or the user says otherwise.
pub(super) const GRANULARITY: i64 = 64 << 10;

/// The most bytes in flight, unless the user says otherwise.
pub(super) const MEMORY: i64 = 10 << 20;

pub(super) const MIRROR_SYNC: EnumType = EnumType::new(
    "MirrorSyncMode",
    &["top", "full", "none", "incremental", "bitmap"],
);

/// When guests' writes get to the target.
pub const COPY_MODE: EnumType = EnumType::new("MirrorCopyMode", &["background", "write-blocking"]);

/// What `blockdev-mirror` takes.
pub static BLOCKDEV_MIRROR_OPTIONS: ObjectType = ObjectType::new(
    "q_obj_blockdev-mirror-arg",
    &[
        Member::optional("job-id", ValueType::Str),
        Member::new("device", ValueType::Str),
        Member::new("target", ValueType::Str),
        Member::optional("replaces", ValueType::Str),
        Member::new("sync", ValueType::Enum(MIRROR_SYNC)),
        Member::optional("speed", ValueType::Int),
        Member::optional("granularity", ValueType::Int),
        Member::optional("buf-size", ValueType::Int),
        Member::optional("on-source-error", ValueType::Enum(ON_ERROR)),
        Member::optional("on-target-error", ValueType::Enum(ON_ERROR)),
        Member::optional("filter-node-name", ValueType::Str),
        Member::optional("copy-mode", ValueType::Enum(COPY_MODE)),
        Member::optional("auto-finalize", ValueType::Bool),
        Member::optional("auto-dismiss", ValueType::Bool),
    ],
);

/// Starts the job that the arguments of `blockdev-mirror` describe.
///
/// # Errors
/// There is no such node; the source has nodes above it, or a job uses one of both; the target cannot be written, or others use it; an
/// option has a value that is not possible; the job's id is taken or not well-formed.
pub fn mirror(mut arguments: Options) -> Result<()> {
    let source = Node::find(&arguments.need_str("device")?)?;
    check_root(&source)?;
    let target = Node::find(&arguments.need_str("target")?)?;
    let replaces = replaced(&mut arguments, &source)?;
    let filter = arguments.take_str("filter-node-name")?;
    filter.as_deref().map_or(Ok(()), check_unused_name)?;
    start(arguments, source, target, replaces)
}

/// The node whose users get the target.
pub(super) fn replaced(arguments: &mut Options, source: &Arc<Node>) -> Result<Arc<Node>> {
    let Some(name) = arguments.take_str("replaces")? else {
        return Ok(Arc::clone(source));
    };
    let node = Node::find(&name).map_err(|_| {
        let message = format!("Failed to find node with node-name='{name}'");
        Error::new(ErrorKind::NotFound, message)
    })?;
    match shows_data_of(source, &node) {
        true => Ok(node),
        false => Err(invalid(format!(
            "Cannot replace '{name}' by a node mirrored from '{}', because it cannot be guaranteed that doing so would not lead \
             to an abrupt change of visible data",
            source.name()
        ))),
    }
}

/// Whether `node` is the node itself or below it with nothing between that changes the data.
fn shows_data_of(above: &Arc<Node>, node: &Arc<Node>) -> bool {
    if above.id() == node.id() {
        return true;
    }
    let is_filter = matches!(
        above.driver(),
        Driver::Throttle | Driver::CopyOnRead | Driver::Blkdebug
    );
    let below = above.children().into_iter().next();
    is_filter && below.is_some_and(|below| shows_data_of(&below, node))
}

/// There is no node for the job's look at the source. Its name is checked all the same.
fn check_unused_name(name: &str) -> Result<()> {
    check_name(name)?;
    Node::check_unused(name, duplicate_node)
}

/// Starts the job with the rest of the arguments.
pub(super) fn start(
    mut arguments: Options,
    source: Arc<Node>,
    target: Arc<Node>,
    replaces: Arc<Node>,
) -> Result<()> {
    check_unused(&source)?;
    check_unused(&target)?;
    let granularity = granularity(&mut arguments, &target)?;
    let memory = arguments.take_int("buf-size")?.unwrap_or(0);
    let memory = match u64::try_from(memory) {
        Ok(0) => MEMORY.cast_unsigned(),
        Ok(memory) => memory,
        Err(_) => return Err(invalid("Invalid parameter 'buf-size'")),
    };
    let copying = CopyOptions {
        memory: memory.max(granularity),
        unmap: arguments.take_bool("unmap")?.unwrap_or(true),
        on_source_error: OnError::take(&mut arguments, "on-source-error")?,
        on_target_error: OnError::take(&mut arguments, "on-target-error")?,
    };
    let sync = sync(&arguments.need_str("sync")?, &source)?;
    if source.id() == target.id() {
        return Err(invalid("Can't mirror node into itself"));
    }
    let is_blocking = arguments.take_str("copy-mode")?.as_deref() == Some("write-blocking");
    let options = take_job_options(&mut arguments, &source, JobType::Mirror)?;
    job::check_new_id(&options.id)?;
    let parent = || Parent::new("job", options.id.clone());
    let state = MirrorState::new(source.length(), granularity)?;
    let work = MirrorWork {
        source: source.attach(parent(), SOURCE_ACCESS)?,
        target: target.attach(parent(), TARGET_ACCESS)?,
        replaces,
        sync,
        copying,
        state: Arc::new(state),
        is_blocking: AtomicBool::new(is_blocking),
        is_tapped: AtomicBool::new(false),
        is_found: AtomicBool::new(false),
        is_completed: AtomicBool::new(false),
        commit: None,
    };
    job::start(options, &QContext::main(), Arc::new(work))
}

pub(super) const SOURCE_ACCESS: Access = Access {
    needs: Permissions::CONSISTENT_READ,
    shares: Permissions::ALL.without(Permissions::RESIZE),
};

const TARGET_ACCESS: Access = Access {
    needs: Permissions::WRITE,
    shares: Permissions::WRITE_UNCHANGED,
};

fn granularity(arguments: &mut Options, target: &Node) -> Result<u64> {
    let cluster = target.cluster_size().and_then(|size| size.try_into().ok());
    let usual = cluster.map_or(GRANULARITY, |size: i64| size.clamp(4096, 64 << 20));
    let given = arguments.take_int("granularity")?.unwrap_or(0);
    let granularity = if given == 0 { usual } else { given };
    if !(512..=64 << 20).contains(&granularity) {
        return Err(invalid(
            "Parameter 'granularity' expects a value in range [512B, 64MB]",
        ));
    }
    let granularity = granularity.cast_unsigned();
    match granularity.is_power_of_two() {
        true => Ok(granularity),
        false => Err(invalid("Parameter 'granularity' expects a power of 2")),
    }
}

fn sync(name: &str, source: &Arc<Node>) -> Result<MirrorSync> {
    match name {
        "full" => Ok(MirrorSync::Full),
        "none" => Ok(MirrorSync::None),
        // Without a backing file there is nothing else.
        "top" if source.child_of("backing").is_none() => Ok(MirrorSync::Full),
        "top" => Ok(MirrorSync::Top),
        other => Err(invalid(format!("Sync mode '{other}' not supported"))),
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
