//! A child of a node, as options describe it: another node by name, or one described in place.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::block::node::Node;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

/// The node that `key` names, or that `key.driver=...` describes.
pub(super) fn take(keys: &mut Options, key: &str) -> Result<Arc<Node>> {
    let mut inner = keys.take_group(key)?;
    if let Some(name) = keys.take_str(key)? {
        return Node::find(&name);
    }
    if inner.is_empty() {
        let message = format!("A block device must be specified for \"{key}\"");
        return Err(Error::new(ErrorKind::MissingArgument, message));
    }
    let child = Node::unnamed(|child| super::open(&mut inner, child))?;
    inner.finish()?;
    Ok(child)
}
