//! The arguments of `blockdev-backup`. Names, checks and error texts are QEMU's.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::{BackupSettings, BackupSync};
use crate::block::error_policy::{ON_ERROR, OnError};
use crate::block::job_options::take_job_options;
use crate::block::job_use::check_unused;
use crate::block::node::Node;
use crate::job::{JobOptions, JobType};
use crate::object::Options;
use crate::schema::{EnumType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result};

/// The most bytes of one chunk, if users do not say.
const CHUNK: u64 = 1 << 20;
/// The most bytes of all chunks under way.
const MEMORY: u64 = 64 << 20;
/// The most chunks at once, if users do not say.
const WORKERS: u64 = 64;

const SYNC: EnumType = EnumType::new(
    "MirrorSyncMode",
    &["top", "full", "none", "incremental", "bitmap"],
);
const BITMAP_SYNC: EnumType = EnumType::new("BitmapSyncMode", &["on-success", "never", "always"]);

static PERF: ObjectType = ObjectType::new(
    "BackupPerf",
    &[
        Member::optional("use-copy-range", ValueType::Bool),
        Member::optional("max-workers", ValueType::Int),
        Member::optional("max-chunk", ValueType::Int),
        Member::optional("min-cluster-size", ValueType::Size),
    ],
);

/// What `blockdev-backup` takes.
pub static BLOCKDEV_BACKUP_OPTIONS: ObjectType = ObjectType::new(
    "BlockdevBackup",
    &[
        Member::optional("job-id", ValueType::Str),
        Member::new("device", ValueType::Str),
        Member::new("sync", ValueType::Enum(SYNC)),
        Member::optional("speed", ValueType::Int),
        Member::optional("bitmap", ValueType::Str),
        Member::optional("bitmap-mode", ValueType::Enum(BITMAP_SYNC)),
        Member::optional("compress", ValueType::Bool),
        Member::optional("on-source-error", ValueType::Enum(ON_ERROR)),
        Member::optional("on-target-error", ValueType::Enum(ON_ERROR)),
        Member::optional("auto-finalize", ValueType::Bool),
        Member::optional("auto-dismiss", ValueType::Bool),
        Member::optional("filter-node-name", ValueType::Str),
        Member::optional("discard-source", ValueType::Bool),
        Member::optional("x-perf", ValueType::Object(&PERF)),
        Member::new("target", ValueType::Str),
    ],
);

/// What a backup is asked to be.
#[derive(Debug)]
pub(super) struct BackupOptions {
    pub(super) source: Arc<Node>,
    pub(super) target: Arc<Node>,
    pub(super) filter_name: Option<String>,
    pub(super) min_cluster_size: u64,
    pub(super) settings: BackupSettings,
    pub(super) job: JobOptions,
    /// As given, 0 if not.
    max_chunk: u64,
}

impl BackupOptions {
    pub(super) fn take(mut arguments: Options) -> Result<BackupOptions> {
        let source = Node::find(&arguments.need_str("device")?)?;
        let target = Node::find(&arguments.need_str("target")?)?;
        let mut perf = arguments.take_group("x-perf")?;
        let workers = perf.take_int("max-workers")?;
        let max_chunk = perf.take_int("max-chunk")?;
        let min_cluster_size = perf.take_size("min-cluster-size")?.unwrap_or(0);
        let sync = take_sync(&mut arguments)?;
        if source.id() == target.id() {
            return Err(invalid("Source and target cannot be the same"));
        }
        check_unused(&source)?;
        check_unused(&target)?;
        if arguments.take_bool("compress")?.unwrap_or(false) {
            return Err(invalid("Compression is not supported for this drive"));
        }
        if arguments.take_bool("discard-source")?.unwrap_or(false) {
            let message = "discard-source=on is not supported";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if source.length() != target.length() {
            return Err(invalid("Source and target image have different sizes"));
        }
        let workers = match workers.map(u64::try_from) {
            None => WORKERS,
            Some(Ok(workers @ 1..=0x7fff_ffff)) => workers,
            Some(_) => return Err(invalid("max-workers must be between 1 and 2147483647")),
        };
        let max_chunk = u64::try_from(max_chunk.unwrap_or(0))
            .map_err(|_| invalid("max-chunk must be zero (which means no limit) or positive"))?;
        let chunk = if max_chunk == 0 {
            CHUNK
        } else {
            max_chunk.min(CHUNK)
        };
        let settings = BackupSettings {
            sync,
            on_source_error: OnError::take(&mut arguments, "on-source-error")?,
            on_target_error: OnError::take(&mut arguments, "on-target-error")?,
            workers: usize::try_from(workers.min(MEMORY / CHUNK)).unwrap_or(1),
            chunk,
        };
        let job = take_job_options(&mut arguments, &source, JobType::Backup)?;
        Ok(BackupOptions {
            source,
            target,
            filter_name: arguments.take_str("filter-node-name")?,
            min_cluster_size,
            settings,
            job,
            max_chunk,
        })
    }

    pub(super) fn check_chunk(&self, cluster_size: u64) -> Result<()> {
        let chunk = self.max_chunk;
        if chunk == 0 || chunk >= cluster_size {
            return Ok(());
        }
        Err(invalid(format!(
            "Required max-chunk ({chunk}) is less than backup cluster size ({cluster_size})"
        )))
    }
}

/// Takes what is to be copied.
fn take_sync(arguments: &mut Options) -> Result<BackupSync> {
    let sync = arguments.need_str("sync")?;
    let bitmap = arguments.take_str("bitmap")?;
    let mode = arguments.take_str("bitmap-mode")?;
    if let Some(name) = bitmap {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("Bitmap '{name}' could not be found"),
        ));
    }
    if mode.is_some() {
        return Err(invalid("Cannot specify bitmap sync mode without a bitmap"));
    }
    match sync.as_str() {
        "full" => Ok(BackupSync::Full),
        "top" => Ok(BackupSync::Top),
        "none" => Ok(BackupSync::None),
        other => Err(invalid(format!(
            "must provide a valid bitmap name for '{other}' sync mode"
        ))),
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
