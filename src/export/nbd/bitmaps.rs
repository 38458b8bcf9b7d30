//! Dirty bitmaps that an export shows as metadata contexts `qemu:dirty-bitmap:NAME`.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::block::{BitmapRef, DirtyBitmap, HeldBitmap, Node, chain_of};
use crate::object::{Options, Value};
use crate::{Error, ErrorKind, Result};

/// Takes the bitmaps that an export of `node` is to show. They are busy until the answer is dropped.
///
/// # Errors
/// `NotFound` if there is none of a name; `Busy` if something uses one; `InvalidArgument` if one would change although the export is
/// read-only.
pub(super) fn take(
    options: &mut Options,
    node: &Arc<Node>,
    writable: bool,
) -> Result<Vec<HeldBitmap>> {
    let Some(Value::List(names)) = options.take("bitmaps") else {
        return Ok(Vec::new());
    };
    let mut held: Vec<HeldBitmap> = Vec::new();
    for name in names {
        let bitmap = find(name, node)?;
        if held
            .iter()
            .any(|known| Arc::ptr_eq(known.bitmap(), &bitmap))
        {
            continue;
        }
        let hold = bitmap.hold()?;
        if !writable && !node.is_read_only() && bitmap.is_recording() {
            let message = format!(
                "Enabled bitmap '{}' incompatible with readonly export",
                bitmap.name().unwrap_or_default()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        held.push(hold);
    }
    Ok(held)
}

/// A bitmap of a node that is named, or by its name alone of the node or of an image behind it.
fn find(name: Value, node: &Arc<Node>) -> Result<Arc<DirtyBitmap>> {
    let name = match name {
        Value::Dict(members) => {
            let mut members = Options::from_dict(members);
            let of = members.need_str("node")?;
            return BitmapRef::new(&of, members.need_str("name")?)?.find();
        }
        name => name.as_str().unwrap_or_default().to_owned(),
    };
    let found = chain_of(node).into_iter().find_map(|one| {
        let mut bitmaps = one.dirty_bitmaps().into_iter();
        bitmaps.find(|bitmap| bitmap.name() == Some(&name))
    });
    found.ok_or_else(|| {
        let message = format!("Bitmap '{name}' is not found");
        Error::new(ErrorKind::NotFound, message)
    })
}
