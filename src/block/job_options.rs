//! The options of a job on a node.
#![forbid(unsafe_code)]

use super::node::Node;
use crate::Result;
use crate::job::{JobOptions, JobType};
use crate::object::Options;

/// Takes the options that all jobs have. A job without an id gets that of the drive, if `node` is one.
///
/// # Errors
/// The speed is negative.
pub(super) fn take_job_options(
    arguments: &mut Options,
    node: &Node,
    kind: JobType,
) -> Result<JobOptions> {
    let id = arguments.take_str("job-id")?;
    let id = id.unwrap_or_else(|| match node.is_drive() {
        true => node.name().to_owned(),
        false => String::new(),
    });
    JobOptions::take(arguments, id, kind)
}
