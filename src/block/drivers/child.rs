//! A child of a node, as options describe it: another node by name, or one described in place.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::block::common::{CommonOptions, check_name, duplicate_node};
use crate::block::driver::NewNode;
use crate::block::node::Node;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

/// The node that `key` names, or that `key.driver=...` describes. A node that is described takes over what its options leave
/// open from those of its parent.
pub(super) fn take(keys: &mut Options, key: &str, parent: &NewNode<'_>) -> Result<Arc<Node>> {
    take_with(keys, key, parent.common)
}

/// The same, with other options to take over.
pub(in crate::block) fn take_with(
    keys: &mut Options,
    key: &str,
    passed_on: &CommonOptions,
) -> Result<Arc<Node>> {
    let mut inner = keys.take_group(key)?;
    if let Some(name) = keys.take_str(key)? {
        return Node::find(&name);
    }
    if inner.is_empty() {
        let message = format!("A block device must be specified for \"{key}\"");
        return Err(Error::new(ErrorKind::MissingArgument, message));
    }
    let own = inner.clone().into_entries();
    passed_on.pass_on(&mut inner);
    let name = inner.take_str("node-name")?;
    if let Some(name) = &name {
        check_name(name)?;
    }
    let common = CommonOptions::take(&mut inner)?;
    let child = Node::child(name, common, |child| super::open(&mut inner, child))?;
    inner.finish()?;
    child.set_options(own);
    child.enter(duplicate_node)?;
    Ok(child)
}
