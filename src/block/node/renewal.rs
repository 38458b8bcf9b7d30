//! A node is opened anew: another driver, with other options or children, takes the place of its driver.
//!
//! Used by a change of the graph, which has drained the node. The new driver is opened beside the old one and takes its place at once,
//! so that the nodes above are opened over it. If the change fails later, the old one comes back.
#![forbid(unsafe_code)]

use super::*;
use crate::block::drivers;
use crate::object::Options;

/// A node that was opened anew, and what it was before.
#[derive(Debug)]
pub(in crate::block) struct Renewal {
    node: Arc<Node>,
    before: Arc<NodeState>,
    options: Dict,
}

impl Node {
    pub(in crate::block) fn set_options(&self, options: Dict) {
        *lock(&self.options) = options;
    }

    /// The options that it was opened with, by their dotted names, without what it got from its parent.
    pub(in crate::block) fn options(&self) -> Dict {
        lock(&self.options).clone()
    }

    /// What its options say about every node.
    pub(in crate::block) fn common(&self) -> CommonOptions {
        self.state().common.clone()
    }

    /// The child that the driver calls `role`.
    pub(in crate::block) fn child_of(&self, role: &str) -> Option<Arc<Node>> {
        let children = graph::edges().into_iter();
        let mut own = children.filter(|edge| edge.parent.node_id() == Some(self.id));
        let child = own.find(|edge| edge.parent.role() == role)?.child;
        let state = self.state();
        let mut nodes = state.driver.children().iter().map(Edge::node);
        nodes.find(|node| node.id() == child)
    }

    /// The nodes right below.
    pub(in crate::block) fn children(&self) -> Vec<Arc<Node>> {
        let state = self.state();
        state.driver.children().iter().map(Edge::node).collect()
    }

    /// Opens a driver with the options `keys`, which the node keeps as `options`.
    pub(in crate::block) fn renew(
        self: &Arc<Node>,
        mut keys: Options,
        options: Dict,
    ) -> Result<Renewal> {
        let common = CommonOptions::take(&mut keys)?;
        let before = self.state();
        before.driver.write_back()?;
        let new = NewNode {
            id: self.id,
            name: &self.name,
            common: &common,
            old: Some(&*before.driver),
        };
        let opened = drivers::open(&mut keys, &new).and_then(|driver| {
            keys.finish()?;
            driver.length()?;
            self.check_bitmaps(&*before.driver, &*driver)?;
            Ok(driver)
        });
        let driver = opened.inspect_err(|_| before.driver.restored())?;
        self.install(Arc::new(NodeState { driver, common }));
        Ok(Renewal {
            node: Arc::clone(self),
            before,
            options,
        })
    }

    fn check_bitmaps(&self, before: &dyn BlockDriver, after: &dyn BlockDriver) -> Result<()> {
        match before.can_store_bitmaps() == after.can_store_bitmaps() {
            true => Ok(()),
            false => self.check_access_can_change(),
        }
    }

    /// Checks that an image that is only read can be written from now on, or the other way round. Its bitmaps are in use while it is
    /// written, and that cannot change while it is open.
    pub(in crate::block) fn check_access_can_change(&self) -> Result<()> {
        let bitmaps = self.persistent_bitmaps();
        let Some(bitmap) = bitmaps.first() else {
            return Ok(());
        };
        let message = format!(
            "node '{}' has the persistent bitmap '{}': 'read-only' cannot change",
            self.name,
            bitmap.name().unwrap_or_default()
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    fn install(self: &Arc<Node>, state: Arc<NodeState>) {
        let unit = state.driver.block_size();
        self.block_size.store(unit, Ordering::Relaxed);
        let before = std::mem::replace(&mut *lock(&self.state), state);
        drop(before);
        self.follow_children();
    }
}

impl Renewal {
    pub(in crate::block) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The change is made.
    pub(in crate::block) fn keep(self) {
        self.node.set_options(self.options);
        self.before.driver.superseded();
    }

    /// The change failed.
    pub(in crate::block) fn undo(self) {
        self.before.driver.restored();
        self.node.install(self.before);
    }
}
