//! The disk as a device model: `-device virtio-blk`.
#![forbid(unsafe_code)]

use std::sync::Arc;

use gsource::AioContext;

use super::options::OPTIONS;
use super::{Blk, BlkModel, BlkOptions};
use crate::block::{self, Node};
use crate::object::Value;
use crate::virtio::pluggable::{FinishCallback, ModelOptions, ModelType, PluggableDevice};
use crate::{Error, ErrorKind, Result};

/// The model `virtio-blk`.
pub static MODEL: ModelType = ModelType {
    name: "virtio-blk",
    options: &OPTIONS,
    properties: &[
        ("drive", "string"),
        ("num-queues", "int"),
        ("read-only", "bool"),
        ("rerror", "BlockdevOnError"),
        ("werror", "BlockdevOnError"),
        ("logical_block_size", "size"),
        ("physical_block_size", "size"),
        ("min_io_size", "size"),
        ("opt_io_size", "size"),
        ("discard_granularity", "size"),
        ("reads", "int"),
        ("writes", "int"),
        ("flushes", "int"),
        ("read-bytes", "int"),
        ("write-bytes", "int"),
        ("errors", "int"),
        ("errors-by-errno", "dict"),
    ],
    parse: |id, options| Ok(Arc::new(BlkOptions::from_options(id, options)?)),
};

impl ModelOptions for BlkOptions {
    fn model_type(&self) -> &'static ModelType {
        &MODEL
    }

    fn queue_count(&self) -> u16 {
        self.num_queues
    }

    /// A read has three descriptors (header, data, status), and the size is a power of two.
    fn queue_size_min(&self) -> u16 {
        4
    }

    fn check(&self, id: &str) -> Result<()> {
        self.check_numbers(id)
    }

    fn build(&self, id: &str, queues: Vec<AioContext>) -> Result<Arc<dyn PluggableDevice>> {
        let drive = &self.drive;
        let node = Node::find(drive).map_err(|_| {
            let message = format!(
                "device '{id}': drive '{drive}' not found, expected the id of a -drive or a node-name"
            );
            Error::new(ErrorKind::NotFound, message)
        })?;
        Ok(Arc::new(Blk::with_options(id, &node, queues, self)?))
    }
}

/// A property of a disk.
pub(super) fn property(model: &BlkModel, name: &str) -> Option<Value> {
    let counter = match name {
        "drive" => return Some(model.node().name().into()),
        "num-queues" => {
            let queues = i64::try_from(model.stats.len()).unwrap_or(i64::MAX);
            return Some(queues.into());
        }
        "read-only" => return Some(model.read_only.into()),
        "rerror" => return Some(model.error_rules.read.name().into()),
        "werror" => return Some(model.error_rules.write.name().into()),
        "errors-by-errno" => return Some(model.failures.to_value()),
        "reads" => model.total().reads,
        "writes" => model.total().writes,
        "flushes" => model.total().flushes,
        "read-bytes" => model.total().bytes_read,
        "write-bytes" => model.total().bytes_written,
        "errors" => model.total().errors,
        _ => return model.sizes.property(name),
    };
    Some(counter.into())
}

/// Writes that the guest saw finished may be in the host's page cache; a flush brings them into the file.
pub(super) fn finish(node: &Arc<Node>, control: &AioContext, done: FinishCallback) {
    let drive = node.name().to_owned();
    block::flush(node, control, move |outcome| {
        done(outcome.map_err(|error| {
            let message = format!("the last flush of drive '{drive}' failed: {error}");
            Error::new(error.kind(), message)
        }));
    });
}
