//! A queue's way to the data of a node.
//!
//! A node's driver opens it, a channel uses it. It is one of a few kinds, told apart by one match per request: what is
//! done at once needs no more than that. A driver that needs more brings a [`task::Layer`], whose requests are tasks.
//!
//! # Threads
//! A way belongs to its channel, on the home thread.
#![deny(unsafe_code)] // children that need it say why

use super::budget::Budget;
use super::request::{Finished, Request, Submission};

pub(super) mod below;
pub(super) mod file;
pub(super) mod marking;
pub(super) mod nbd;
pub(super) mod null;
pub(super) mod task;

use file::FileWay;
use marking::MarkingWay;
use nbd::NbdWay;
use null::NullWay;
use task::TaskWay;

/// A queue's way to the data of a node, open.
#[derive(Debug)]
pub(super) enum Way {
    /// There is none, while nodes are drained. No request comes here.
    Absent,
    Null(NullWay),
    File(Box<FileWay>),
    Nbd(Box<NbdWay>),
    Tasks(Box<TaskWay>),
    /// One of the others, to a node that has bitmaps.
    Marking(Box<MarkingWay>),
}

impl Way {
    /// Starts a request or carries it out at once.
    #[inline]
    pub(super) fn submit(&mut self, request: Box<Request>, budget: &mut Budget) -> Submission {
        match self {
            Way::Absent => Submission::Done(Finished {
                request,
                result: -libc::ENOMEDIUM,
            }),
            Way::Null(null) => Submission::Done(null.run(request, budget)),
            Way::File(file) => file.submit(request, budget),
            Way::Nbd(nbd) => nbd.submit(request),
            Way::Tasks(tasks) => tasks.submit(request, budget),
            Way::Marking(marking) => marking.submit(request, budget),
        }
    }

    /// Hands over what was submitted since the last time.
    #[inline]
    pub(super) fn flush_submissions(&mut self) {
        match self {
            Way::Absent | Way::Null(_) => {}
            Way::File(file) => file.flush_submissions(),
            Way::Nbd(nbd) => nbd.flush_submissions(),
            Way::Tasks(tasks) => tasks.flush_submissions(),
            Way::Marking(marking) => marking.flush_submissions(),
        }
    }

    /// Whether it takes writes of parts of the node's blocks.
    pub(super) fn takes_parts(&self) -> bool {
        match self {
            Way::Absent | Way::Null(_) | Way::File(_) | Way::Nbd(_) => false,
            Way::Marking(marking) => marking.takes_parts(),
            Way::Tasks(tasks) => tasks.takes_parts(),
        }
    }

    /// Appends the requests that have finished, and goes on with those that need more.
    pub(super) fn reap(&mut self, budget: &mut Budget, finished: &mut Vec<Finished>) {
        match self {
            Way::Absent | Way::Null(_) => {}
            Way::File(file) => file.reap(budget, finished),
            Way::Nbd(nbd) => nbd.reap(finished),
            Way::Tasks(tasks) => tasks.reap(budget, finished),
            Way::Marking(marking) => marking.reap(budget, finished),
        }
    }
}
