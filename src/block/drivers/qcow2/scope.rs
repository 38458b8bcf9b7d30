//! Through which queue's ways a future does its I/O.
//!
//! The tasks of all queues share one image, and the image has no idea of queues. So while a task is polled, its queue's ways
//! to the nodes below are where [`current`] finds them, and [`NodeStorage`](super::storage::NodeStorage) uses these.
//!
//! # Threads
//! Each thread has its own current ways. Tasks of one image may wait for each other over locks, but none polls another.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::block::node::Node;
use crate::block::way::below::Below;
use crate::block::way::task::NewLayer;

thread_local! {
    static CURRENT: RefCell<Option<Arc<WaysBelow>>> = const { RefCell::new(None) };
}

/// What a node is to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It has the image's tables, and the data as well unless there is a data file.
    File,
    Data,
    Backing,
}

/// The nodes of an image.
#[derive(Clone, Debug)]
pub(super) struct ImageNodes {
    pub(super) file: Arc<Node>,
    pub(super) data: Option<Arc<Node>>,
    pub(super) backing: Option<Arc<Node>>,
}

/// One queue's ways to them.
#[derive(Debug)]
pub(super) struct WaysBelow {
    file: Arc<Below>,
    data: Option<Arc<Below>>,
    backing: Option<Arc<Below>>,
}

impl ImageNodes {
    pub(super) fn open(&self, new: &mut NewLayer) -> Arc<WaysBelow> {
        let mut open = |node: &Arc<Node>| new.open(|gate| node.open_way(gate));
        Arc::new(WaysBelow {
            file: open(&self.file),
            data: self.data.as_ref().map(&mut open),
            backing: self.backing.as_ref().map(&mut open),
        })
    }
}

/// The way to a node of the image, for the task that is being polled.
pub(super) fn current(role: Role) -> Option<Arc<Below>> {
    CURRENT.with_borrow(|ways| {
        let ways = ways.as_ref()?;
        match role {
            Role::File => Some(Arc::clone(&ways.file)),
            Role::Data => ways.data.clone(),
            Role::Backing => ways.backing.clone(),
        }
    })
}

/// A future that does its I/O through these ways.
pub(super) struct Scoped<T> {
    /// Those of the future or, while it is polled, those that were current before.
    ways: Option<Arc<WaysBelow>>,
    future: Pin<Box<dyn Future<Output = T>>>,
}

impl<T> Scoped<T> {
    pub(super) fn new(
        ways: Arc<WaysBelow>,
        future: impl Future<Output = T> + 'static,
    ) -> Scoped<T> {
        Scoped {
            ways: Some(ways),
            future: Box::pin(future),
        }
    }

    fn swap(&mut self) {
        CURRENT.with_borrow_mut(|current| std::mem::swap(current, &mut self.ways));
    }
}

impl<T> Future for Scoped<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.swap();
        let poll = self.future.as_mut().poll(context);
        self.swap();
        poll
    }
}

impl<T> fmt::Debug for Scoped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped").finish_non_exhaustive()
    }
}
