//! Changes of the graph: nodes are opened anew, get other children, and other parents; all that is asked for, or nothing.
//!
//! Used by `blockdev-reopen`, snapshots and jobs:
//!
//! 1. A [`GraphChange`] collects what is to change.
//! 2. Its [`nodes`](GraphChange::nodes) are drained with [`drain`](super::drain()).
//! 3. [`GraphChange::make`] opens nodes anew, from below, and moves the edges, with the permissions of the whole graph checked.
//! 4. The drain is dropped, and all channels open their ways through the new graph.
//!
//! # Threads
//! Nodes are opened, so the thread that makes the change may have to wait for I/O. It must not be the home of a channel whose
//! requests are in flight.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use super::common::CommonOptions;
use super::drain::DrainedNodes;
use super::drivers::{child_roles, may_change};
use super::graph::Edge;
use super::graph::frozen::FreezeNumber;
use super::graph::rewire::Rewiring;
use super::node::Node;
use super::node::renewal::Renewal;
use crate::object::{Dict, Options, Value};
use crate::{Error, ErrorKind, Result};

#[cfg(test)]
mod tests;

/// Held by the change that is being made.
static ONE_CHANGE: Mutex<()> = Mutex::new(());

/// What is to change; see the head of this file.
#[derive(Debug, Default)]
pub struct GraphChange {
    openings: Vec<NodeOpening>,
    moved: Vec<(Arc<Node>, Arc<Node>)>,
    /// The numbers of edges.
    released: Vec<u64>,
    thawed: Option<FreezeNumber>,
}

/// A node that is to be opened anew.
#[derive(Debug)]
struct NodeOpening {
    node: Arc<Node>,
    /// The options, with children by their names.
    keys: Dict,
    /// What the node is to remember.
    options: Dict,
}

impl GraphChange {
    /// Nothing is to change.
    pub fn new() -> GraphChange {
        GraphChange::default()
    }

    /// The node is opened anew with all of these options, as `blockdev-reopen` describes them.
    ///
    /// # Errors
    /// `InvalidArgument` for options that cannot change, or not so; `NotFound` for a child that does not exist.
    pub(crate) fn reopen(&mut self, node: &Arc<Node>, options: Options) -> Result<()> {
        self.open_anew(
            node,
            options.into_dotted().into_entries(),
            None,
            Children::Given,
        )
    }

    /// The node `parent` gets another child `role`, for example `backing`, or none.
    ///
    /// # Errors
    /// `InvalidArgument` if the child is above the node, or the node was not made by a `-blockdev`.
    pub fn set_child(
        &mut self,
        parent: &Arc<Node>,
        role: &'static str,
        child: Option<&Arc<Node>>,
    ) -> Result<()> {
        let value = child.map_or(Value::Null, |child| child.name().into());
        if let Some(opening) = self
            .openings
            .iter_mut()
            .find(|one| one.node.id() == parent.id())
        {
            set(&mut opening.keys, role, value.clone());
            set(&mut opening.options, role, value);
            return Ok(());
        }
        let mut options = parent.options();
        if options.is_empty() {
            let message = format!("the children of node '{}' cannot change", parent.name());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut keys = options.clone();
        for known in child_roles(parent.driver().name()) {
            let current = parent.child_of(known);
            let current = current.map(|node| Value::from(node.name()));
            take_part(&mut keys, known);
            if known != role {
                keys.extend(current.map(|name| (known.to_owned(), name)));
            }
        }
        if let Some(child) = child {
            check_cycle(parent, role, child)?;
        }
        keys.push((role.to_owned(), value.clone()));
        // What it got from its parent stays.
        let mut keys = Options::from_dict(keys);
        parent.common().pass_on(&mut keys);
        // The other children that the options describe are still the node's own.
        set(&mut options, role, value);
        self.push(parent, keys.into_entries(), options);
        Ok(())
    }

    /// All who use `node`, except jobs, `by` itself and the nodes below that, use the node `by` instead.
    ///
    /// # Errors
    /// As for [`GraphChange::set_child`], for the nodes above.
    pub fn replace(&mut self, node: &Arc<Node>, by: &Arc<Node>) -> Result<()> {
        for edge in super::graph::edges() {
            let Some(parent) = edge.parent.node_id().filter(|_| edge.child == node.id()) else {
                continue;
            };
            let parent = Node::list().into_iter().find(|one| one.id() == parent);
            if let Some(parent) = parent.filter(|parent| !has_below(by, parent)) {
                self.set_child(&parent, edge.parent.role(), Some(by))?;
            }
        }
        // Those who were to use the node use what takes its place.
        for (_, to) in &mut self.moved {
            if to.id() == node.id() {
                *to = Arc::clone(by);
            }
        }
        for opening in self
            .openings
            .iter_mut()
            .filter(|one| one.node.id() != by.id())
        {
            opening.rename_child(node, by);
        }
        self.moved.push((Arc::clone(node), Arc::clone(by)));
        Ok(())
    }

    /// The parent of `edge` needs nothing any more, and shares everything.
    pub(super) fn release(&mut self, edge: &Edge) {
        self.released.push(edge.number());
    }

    /// What takes the place of the node with this change.
    pub(super) fn successor(&self, node: &Node) -> Option<&Arc<Node>> {
        let mut moved = self.moved.iter();
        moved.find_map(|(from, to)| (from.id() == node.id()).then_some(to))
    }

    /// The node can be written, or is only read, with the files that its options describe.
    ///
    /// # Errors
    /// `Unsupported` if the node was not made by a `-blockdev`.
    pub(super) fn set_read_only(&mut self, node: &Arc<Node>, read_only: bool) -> Result<()> {
        let mut options = node.options();
        if options.is_empty() {
            let message = format!("the options of node '{}' cannot change", node.name());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        set(&mut options, "read-only", Value::Bool(read_only));
        self.open_read_only(node, options, read_only);
        Ok(())
    }

    /// The same for a node that is to remember these options.
    fn open_read_only(&mut self, node: &Arc<Node>, options: Dict, read_only: bool) {
        let mut keys = options.clone();
        for role in child_roles(node.driver().name()) {
            let (value, _) = take_part(&mut keys, role);
            let child = node.child_of(role);
            let name = child.as_ref().map(|child| child.name().into());
            keys.extend(name.or(value).map(|value| (role.to_owned(), value)));
            let own = child.filter(|_| role != "backing" && is_described(node, role));
            if let Some(own) = own.filter(|own| !has_part(&own.options(), "read-only")) {
                let same = own.options();
                self.open_read_only(&own, same, read_only);
            }
        }
        set(&mut keys, "read-only", Value::Bool(read_only));
        // What it got from its parent stays.
        let mut keys = Options::from_dict(keys);
        node.common().pass_on(&mut keys);
        self.push(node, keys.into_entries(), options);
    }

    /// A job's use of a chain ends with the change.
    pub(super) fn thaw(&mut self, links: FreezeNumber) {
        self.thawed = Some(links);
    }

    /// The nodes to be drained.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        let opened = self.openings.iter().map(|opening| &opening.node);
        let moved = self.moved.iter().flat_map(|(node, by)| [node, by]);
        opened.chain(moved).map(Arc::clone).collect()
    }

    /// Makes the change.
    ///
    /// # Errors
    /// What opening a node says; `Busy` if permissions contradict each other then; `InvalidArgument` if the nodes are not drained.
    /// Nothing has changed then.
    pub fn make(mut self, drained: &DrainedNodes) -> Result<()> {
        if !self.nodes().iter().all(|node| drained.contains(node)) {
            let message = "a node that is to change is not drained";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        // Nodes may be drained for several changes at the same time.
        let only = ONE_CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
        self.sort();
        let mut renewals = Vec::new();
        let made = self.open_all(&mut renewals).and_then(|()| {
            let renewed = renewals.iter().map(|one: &Renewal| Arc::clone(one.node()));
            let rewiring = Rewiring {
                renewed: renewed.collect(),
                moved: self.moved,
                released: self.released,
                thawed: self.thawed,
            };
            rewiring.make().map(|()| rewiring)
        });
        match made {
            Ok(rewiring) => {
                renewals.into_iter().for_each(Renewal::keep);
                drop(only);
                rewiring.tell_lengths();
                Ok(())
            }
            Err(error) => {
                renewals.into_iter().rev().for_each(Renewal::undo);
                Err(error)
            }
        }
    }

    fn open_all(&mut self, renewals: &mut Vec<Renewal>) -> Result<()> {
        for opening in self.openings.drain(..) {
            let keys = Options::from_dict(opening.keys).into_dotted();
            renewals.push(opening.node.renew(keys, opening.options)?);
        }
        Ok(())
    }

    /// Puts nodes before those above them.
    fn sort(&mut self) {
        let mut left = std::mem::take(&mut self.openings);
        while !left.is_empty() {
            let is_lowest = |one: &NodeOpening| {
                let mut others = left.iter().filter(|other| other.node.id() != one.node.id());
                !others.any(|other| one.is_above(&other.node))
            };
            let index = left.iter().position(is_lowest).unwrap_or(0);
            let next = left.remove(index);
            self.openings.push(next);
        }
    }

    fn push(&mut self, node: &Arc<Node>, keys: Dict, options: Dict) {
        self.openings.retain(|known| known.node.id() != node.id());
        let not_options = |(key, _): &(String, Value)| key != "node-name";
        self.openings.push(NodeOpening {
            node: Arc::clone(node),
            keys: keys.into_iter().filter(not_options).collect(),
            options,
        });
    }

    /// `given` are all options of the node. Those that are absent come from `parent`, if that describes the node.
    fn open_anew(
        &mut self,
        node: &Arc<Node>,
        mut given: Dict,
        parent: Option<&CommonOptions>,
        children: Children,
    ) -> Result<()> {
        check_changes(node, &given)?;
        let mut keys = Options::from_dict(given.clone());
        if let Some(parent) = parent {
            parent.pass_on(&mut keys);
        }
        let mut keys = keys.into_entries();
        let mut common_keys = Options::from_dict(keys.clone()).into_dotted();
        let common = CommonOptions::take(&mut common_keys)?;
        if children == Children::Kept && common == node.common() {
            return Ok(());
        }
        for role in child_roles(node.driver().name()) {
            let own = self.child_anew(node, role, &common, &mut keys)?;
            if let Some(own) = own {
                // It is still the node's own.
                take_part(&mut given, role);
                let members = own.options().into_iter();
                given.extend(members.map(|(key, value)| (format!("{role}.{key}"), value)));
            } else if children == Children::Given {
                check_backing(node, role, &keys)?;
            }
            if let Some(child) = node.child_of(role).filter(|_| !has_part(&keys, role)) {
                keys.push((role.to_owned(), child.name().into()));
            }
        }
        self.push(node, keys, given);
        Ok(())
    }

    /// Makes the child `role` a name in `keys`. A child that the node's own options describe is opened anew with it, and returned.
    fn child_anew(
        &mut self,
        node: &Arc<Node>,
        role: &'static str,
        common: &CommonOptions,
        keys: &mut Dict,
    ) -> Result<Option<Arc<Node>>> {
        let own = node.child_of(role).filter(|_| is_described(node, role));
        let (value, members) = take_part(keys, role);
        if !members.is_empty() {
            let own = own.ok_or_else(|| cannot_change(&format!("{role}.driver")))?;
            self.open_anew(&own, members, Some(common), Children::Given)?;
            keys.push((role.to_owned(), own.name().into()));
            return Ok(None);
        }
        let Some(value) = value else {
            return Ok(None);
        };
        let mut kept = None;
        if let Value::Str(name) = &value {
            let child = Node::find_by_node_name(name)?;
            check_cycle(node, role, &child)?;
            kept = own.filter(|own| own.id() == child.id());
            if let Some(same) = &kept {
                self.open_anew(same, same.options(), Some(common), Children::Kept)?;
            }
        }
        keys.push((role.to_owned(), value));
        Ok(kept)
    }
}

/// Which children a node has when it is opened anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Children {
    /// Those in the options. A backing file must be among them.
    Given,
    /// The same as before.
    Kept,
}

/// A node that has a backing file, or has been told to have none, must be told again.
fn check_backing(node: &Node, role: &str, keys: &Dict) -> Result<()> {
    let had = || node.child_of(role).is_some() || has_part(&node.options(), role);
    if role != "backing" || has_part(keys, role) || !had() {
        return Ok(());
    }
    let message = format!("backing is missing for '{}'", node.name());
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

impl NodeOpening {
    /// Its children that are `node` become `by`.
    fn rename_child(&mut self, node: &Node, by: &Node) {
        for role in child_roles(self.node.driver().name()) {
            for entries in [&mut self.keys, &mut self.options] {
                let mut entries = entries.iter_mut();
                let child =
                    entries.find(|(key, value)| key == role && value.as_str() == Some(node.name()));
                child
                    .into_iter()
                    .for_each(|(_, value)| *value = by.name().into());
            }
        }
    }

    /// Whether the node is above `other`, now or after the change.
    fn is_above(&self, other: &Arc<Node>) -> bool {
        let named = |(_, value): &(String, Value)| value.as_str() == Some(other.name());
        let mut children = self.node.children().into_iter();
        self.keys.iter().any(named) || children.any(|child| has_below(&child, other))
    }
}

/// Whether the node's options describe its child.
fn is_described(node: &Node, role: &str) -> bool {
    let prefix = format!("{role}.");
    node.options()
        .iter()
        .any(|(key, _)| key.starts_with(&prefix))
}

/// Whether `below` is the node itself or somewhere below it.
fn has_below(node: &Arc<Node>, below: &Arc<Node>) -> bool {
    let mut children = node.children().into_iter();
    node.id() == below.id() || children.any(|child| has_below(&child, below))
}

fn check_cycle(node: &Arc<Node>, role: &str, child: &Arc<Node>) -> Result<()> {
    if !has_below(child, node) {
        return Ok(());
    }
    let message = format!(
        "Making '{}' a {role} child of '{}' would create a cycle",
        child.name(),
        node.name()
    );
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

/// Checks that only options change that can.
fn check_changes(node: &Node, given: &Dict) -> Result<()> {
    let driver = node.driver().name();
    let before = node.options();
    let roles = child_roles(driver);
    let is_child = |key: &str| {
        let mut roles = roles.iter();
        roles.any(|role| {
            key.strip_prefix(role)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let is_fixed = |key: &str| !is_child(key) && !may_change(driver, key) && key != "node-name";
    let value_of = |options: &Dict, wanted: &str| {
        let mut options = options.iter();
        options.find_map(|(key, value)| (key == wanted).then(|| value.clone()))
    };
    for (key, value) in given.iter().filter(|(key, _)| is_fixed(key)) {
        let before = match key.as_str() {
            "driver" => Some(driver.into()),
            _ => value_of(&before, key),
        };
        if before.as_ref() != Some(value) {
            return Err(cannot_change(key));
        }
    }
    match before
        .iter()
        .find(|(key, _)| is_fixed(key) && value_of(given, key).is_none())
    {
        Some((key, _)) => {
            let message = format!("Option '{key}' cannot be reset to its default value");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
        None => Ok(()),
    }
}

fn cannot_change(key: &str) -> Error {
    let message = format!("Cannot change the option '{key}'");
    Error::new(ErrorKind::InvalidArgument, message)
}

fn has_part(options: &Dict, role: &str) -> bool {
    let (value, members) = take_part(&mut options.clone(), role);
    value.is_some() || !members.is_empty()
}

/// Takes the value of `role` and its members, by their names without the prefix.
fn take_part(options: &mut Dict, role: &str) -> (Option<Value>, Dict) {
    let prefix = format!("{role}.");
    let (mut value, mut members) = (None, Dict::new());
    for (key, one) in std::mem::take(options) {
        match key.strip_prefix(&prefix) {
            Some(rest) => members.push((rest.to_owned(), one)),
            None if key == role => value = Some(one),
            None => options.push((key, one)),
        }
    }
    (value, members)
}

fn set(options: &mut Dict, role: &str, value: Value) {
    take_part(options, role);
    options.push((role.to_owned(), value));
}
