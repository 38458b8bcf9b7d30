//! What a type of export is.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::block::Node;
use crate::object::Options;
use crate::schema::Member;
use crate::{QContext, Result};

/// Called once when an export has ended.
pub(super) type EndedCallback = Box<dyn FnOnce() + Send>;

/// A type of export, as options name it.
pub(super) struct ExportType {
    /// What `type=` says.
    pub(super) name: &'static str,
    /// Its options besides those of every export.
    pub(super) members: &'static [Member],
    /// Whether it ends without waiting for clients, so that to delete it takes as long as that.
    pub(super) ends_at_once: bool,
    /// Offers a node. Takes the type's options out of all.
    pub(super) open: fn(NewExport, &mut Options) -> Result<Arc<dyn Exported>>,
}

/// What every export is made from.
#[derive(Debug)]
pub(super) struct NewExport {
    pub(super) id: String,
    pub(super) node: Arc<Node>,
    pub(super) writable: bool,
    /// The context that serves it; the main context if there is none.
    pub(super) context: Option<QContext>,
}

/// A node on offer.
pub(super) trait Exported: Send + Sync {
    /// Whether it has clients that its removal would disturb.
    fn is_in_use(&self) -> bool {
        false
    }

    /// Ends the connections and finishes what is in flight, then calls `ended`. Called once.
    fn shut_down(&self, ended: EndedCallback);
}
