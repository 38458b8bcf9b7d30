//! `copy-before-write`: before the data of a node changes, the data as it was is copied to another node, the target.
//!
//! So what the node had when the filter was opened is not lost: it is on the target where it was copied, and in the node itself where
//! not. [`snapshot_access`](super::snapshot_access) reads it. A write, a discard or a write of zeroes waits until the clusters
//! that it touches have been copied, each once. A flush makes durable what was written to the node, not the copies. [`Op::Populate`]
//! copies a range that nobody is going to change, for jobs.
//!
//! * [`state`]: which clusters are still to be copied, which are on the target; [`cluster_set`]: sets of clusters
//! * [`copier`]: copies of clusters
//! * [`layer`]: the way of those who write; [`snapshot`]: that of those who read the data as they were
//!
//! [`Op::Populate`]: crate::block::Op
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::{BLOCKDEV_REF, DriverType, child};
use crate::block::driver::{BlockDriver, Driver, NewNode};
use crate::block::gate::Gate;
use crate::block::graph::Edge;
use crate::block::image_info::ImageInfo;
use crate::block::node::Node;
use crate::block::permission::{Access, Permissions};
use crate::block::way::Way;
use crate::block::way::task::{NewLayer, TaskWay};
use crate::object::Options;
use crate::schema::{EnumType, Member, ValueType};
use crate::{Error, ErrorKind, Result};

mod cluster_set;
mod copier;
mod layer;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use copier::Copier;
use layer::CopyLayer;
use snapshot::SnapshotLayer;
pub(in crate::block) use state::CopyState;

/// The smallest unit of copies. Targets with larger clusters get whole ones.
const CLUSTER_SIZE_MIN: u64 = 64 << 10;
/// The most clusters that are kept track of.
const CLUSTERS_MAX: u64 = 1 << 32;
const SECOND_NS: i64 = 1_000_000_000;

/// A node whose data is copied before it changes.
#[derive(Debug)]
struct CopyBeforeWriteDriver {
    /// The node with the data and the target.
    children: [Edge; 2],
    state: Arc<CopyState>,
    settings: CopySettings,
    /// By its options.
    read_only: bool,
}

/// What the options say about copies.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::block) struct CopySettings {
    on_error: OnCopyError,
    /// How long a write waits for its copies.
    timeout_ns: Option<i64>,
    min_cluster_size: u64,
}

/// What happens when a copy fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OnCopyError {
    /// The write fails.
    #[default]
    BreakGuestWrite,
    /// The old data is lost: it cannot be read any more, and nothing is copied any more.
    BreakSnapshot,
}

const ON_CBW_ERROR: EnumType =
    EnumType::new("OnCbwError", &["break-guest-write", "break-snapshot"]);

static MEMBERS: [Member; 5] = [
    Member::new("file", ValueType::Alternate(&BLOCKDEV_REF)),
    Member::new("target", ValueType::Alternate(&BLOCKDEV_REF)),
    Member::optional("on-cbw-error", ValueType::Enum(ON_CBW_ERROR)),
    Member::optional("cbw-timeout", ValueType::Uint(32)),
    Member::optional("min-cluster-size", ValueType::Size),
];

/// The driver `copy-before-write`.
pub(super) const COPY_BEFORE_WRITE: DriverType = DriverType {
    name: "copy-before-write",
    members: &MEMBERS,
    open,
};

/// Opens what `-blockdev driver=copy-before-write` describes.
fn open(keys: &mut Options, node: &NewNode<'_>) -> Result<Box<dyn BlockDriver>> {
    if node.old.is_some() {
        let message = format!(
            "Block format 'copy-before-write' used by node '{}' does not support reopening files",
            node.name
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let settings = CopySettings::take(keys)?;
    let file = child::take(keys, "file", node)?;
    let target = child::take(keys, "target", node)?;
    over(&file, &target, settings, node).map(|(driver, _)| driver)
}

/// Lets `node` copy to `target` what changes in `file`.
pub(in crate::block) fn over(
    file: &Arc<Node>,
    target: &Arc<Node>,
    settings: CopySettings,
    node: &NewNode<'_>,
) -> Result<(Box<dyn BlockDriver>, Arc<CopyState>)> {
    let length = file.length();
    let cluster_size = cluster_size(target, settings.min_cluster_size)?;
    check_target(file, target)?;
    if length.div_ceil(cluster_size) > CLUSTERS_MAX {
        let message = format!(
            "node '{}': {length} bytes are too many clusters of {cluster_size} bytes: give a larger min-cluster-size",
            node.name
        );
        return Err(Error::new(ErrorKind::LimitExceeded, message));
    }
    let source = Access {
        needs: Permissions::CONSISTENT_READ,
        shares: Permissions::ALL.without(Permissions::WRITE.and(Permissions::RESIZE)),
    };
    let copies = Access {
        needs: Permissions::WRITE,
        shares: Permissions::ALL.without(Permissions::RESIZE),
    };
    let state = Arc::new(CopyState::new(length, cluster_size));
    let driver = CopyBeforeWriteDriver {
        children: [
            file.attach(node.as_parent_when_used("file"), source)?,
            target.attach(node.as_separate_parent("target"), copies)?,
        ],
        state: Arc::clone(&state),
        settings,
        read_only: node.common.read_only.unwrap_or(false),
    };
    Ok((Box::new(driver), state))
}

fn cluster_size(target: &Node, min: u64) -> Result<u64> {
    let invalid = |reason| {
        let message = format!("Cannot create block-copy-state: min-cluster-size {reason}");
        Error::new(ErrorKind::InvalidArgument, message)
    };
    if min > 0 && !min.is_power_of_two() {
        return Err(invalid("needs to be a power of 2".to_owned()));
    }
    if min > 1 << 31 {
        return Err(invalid(format!("too large: {min} > {}", 1_u64 << 31)));
    }
    let of_target = target.cluster_size().unwrap_or(0);
    Ok(CLUSTER_SIZE_MIN.max(min).max(of_target))
}

/// The copies go to the same places in the target, past the checks of its length.
fn check_target(file: &Node, target: &Node) -> Result<()> {
    let unit = target.block_size();
    let reason = if target.length() < file.length() {
        "is shorter than".to_owned()
    } else if !file.length().is_multiple_of(unit) {
        format!("has blocks of {unit} bytes, too large for the end of")
    } else {
        return Ok(());
    };
    let (target, file) = (target.name(), file.name());
    let message = format!("target '{target}' {reason} node '{file}'");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

impl CopySettings {
    fn take(keys: &mut Options) -> Result<CopySettings> {
        let on_error = match keys.take_str("on-cbw-error")?.as_deref() {
            Some("break-snapshot") => OnCopyError::BreakSnapshot,
            _ => OnCopyError::BreakGuestWrite,
        };
        let seconds = keys.take_int("cbw-timeout")?.filter(|&seconds| seconds > 0);
        Ok(CopySettings {
            on_error,
            timeout_ns: seconds.map(|seconds| seconds.saturating_mul(SECOND_NS)),
            min_cluster_size: keys.take_size("min-cluster-size")?.unwrap_or(0),
        })
    }

    /// With clusters of that size at least.
    pub(in crate::block) fn with_clusters_of(min_cluster_size: u64) -> CopySettings {
        CopySettings {
            min_cluster_size,
            ..CopySettings::default()
        }
    }
}

impl CopyBeforeWriteDriver {
    fn file(&self) -> Arc<Node> {
        self.children[0].node()
    }

    /// A queue's ways to both nodes.
    fn copier(&self, new: &mut NewLayer) -> Copier {
        Copier {
            state: Arc::clone(&self.state),
            file: new.open(|gate| self.file().open_way(gate)),
            target: new.open(|gate| self.children[1].node().open_way(gate)),
        }
    }
}

impl BlockDriver for CopyBeforeWriteDriver {
    fn driver(&self) -> Driver {
        Driver::CopyBeforeWrite
    }

    fn open_way(&self, gate: &Arc<Gate>) -> Way {
        TaskWay::open(gate, |new| {
            Arc::new(CopyLayer {
                settings: self.settings,
                queue: Arc::clone(new.queue()),
                copier: Arc::new(self.copier(new)),
            })
        })
    }

    fn keeps_old_data(&self) -> bool {
        true
    }

    fn open_old_way(&self, gate: &Arc<Gate>) -> Way {
        TaskWay::open(gate, |new| {
            Arc::new(SnapshotLayer(Arc::new(self.copier(new))))
        })
    }

    fn length(&self) -> Result<u64> {
        Ok(self.state.length())
    }

    fn set_length(&self, _: u64) -> Result<()> {
        let message = "a copy-before-write node keeps its length";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    fn block_size(&self) -> u64 {
        self.file().block_size()
    }

    fn passes_parts_to(&self) -> Option<&Edge> {
        self.children.first()
    }

    fn is_read_only(&self) -> bool {
        self.read_only || self.file().is_read_only()
    }

    fn image_info(&self) -> ImageInfo {
        ImageInfo::passed_on(&self.file())
    }

    fn is_filter(&self) -> bool {
        true
    }

    fn children(&self) -> &[Edge] {
        &self.children
    }
}
