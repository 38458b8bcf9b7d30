//! Nodes that a job uses, which other commands leave alone.
#![forbid(unsafe_code)]

use super::node::Node;
use crate::job;
use crate::{Error, ErrorKind, Result};

/// Checks that no job uses the node.
///
/// # Errors
/// `Busy` if one does.
pub fn check_unused(node: &Node) -> Result<()> {
    let parents = node.parents();
    let Some(user) = parents.iter().find(|parent| parent.kind() == "job") else {
        return Ok(());
    };
    let jobs = job::list();
    let known = jobs.iter().find(|known| known.id == user.name());
    let kind = known.map_or("job", |known| known.kind.name());
    let message = format!(
        "Node '{}' is busy: block device is in use by block job: {kind}",
        node.name()
    );
    Err(Error::new(ErrorKind::Busy, message))
}
