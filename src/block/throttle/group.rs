//! The users of the same limits, which take turns.
//!
//! Used by the layer of the `throttle` driver: each node is a member, and each request of it awaits a [`ThrottleTurn`]. A request
//! that need not wait passes under one short lock. The others wait in the queue of their member and direction. The members
//! of a group take turns, request by request, so a busy disk does not keep the others from their share. The request that
//! is next sleeps until the buckets have room, on the AioContext of its own queue; then it lets pass all that may, and
//! wakes the one that is next now. A sleep that is dropped hands that duty over.
//!
//! # Threads
//! Members may be on different homes. The group has one lock, which is held to count, never while a request or a callback
//! runs. Wakers are called without it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use gsource::{Clock, Sleep};

use super::limits::{Direction, Limits};
use super::turns::{Asked, Passage, Turns};
use crate::block::way::task::queue::TaskQueue;
use crate::{Error, ErrorKind, Result};

/// All groups by name. One that only nodes use goes with the last of them.
static GROUPS: Mutex<BTreeMap<String, Weak<ThrottleGroup>>> = Mutex::new(BTreeMap::new());

/// See the head of this file.
#[derive(Debug)]
pub(in crate::block) struct ThrottleGroup {
    name: String,
    turns: Mutex<Turns>,
}

/// A node's membership. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::block) struct ThrottleMember {
    group: Arc<ThrottleGroup>,
    number: u64,
}

impl ThrottleGroup {
    /// A new group.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken.
    pub(super) fn create(name: &str, limits: Limits) -> Result<Arc<ThrottleGroup>> {
        let mut groups = lock(&GROUPS);
        if groups
            .get(name)
            .is_some_and(|group| group.strong_count() > 0)
        {
            let message = format!("A group with this name already exists: '{name}'");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let group = Arc::new(ThrottleGroup {
            name: name.to_owned(),
            turns: Mutex::new(Turns::new(limits, now_ns())),
        });
        groups.insert(name.to_owned(), Arc::downgrade(&group));
        drop(groups);
        Ok(group)
    }

    /// The group of that name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub(in crate::block) fn find(name: &str) -> Result<Arc<ThrottleGroup>> {
        let found = lock(&GROUPS).get(name).and_then(Weak::upgrade);
        found.ok_or_else(|| {
            let message = format!("Throttle group '{name}' does not exist");
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// The group of that name, with new limits if there are any; a new one if there is none.
    ///
    /// # Errors
    /// Another thread creates the same group at the same time.
    pub(in crate::block) fn find_or_create(
        name: &str,
        limits: Option<Limits>,
    ) -> Result<Arc<ThrottleGroup>> {
        match ThrottleGroup::find(name) {
            Ok(group) => {
                if let Some(limits) = limits {
                    group.set_limits(limits);
                }
                Ok(group)
            }
            Err(_) => ThrottleGroup::create(name, limits.unwrap_or_default()),
        }
    }

    /// The limits.
    pub(super) fn limits(&self) -> Limits {
        self.turns().limits().clone()
    }

    /// Changes the limits, also for the requests that wait.
    pub(in crate::block) fn set_limits(&self, limits: Limits) {
        let mut woken = Vec::new();
        self.turns().set_limits(limits, now_ns(), &mut woken);
        wake(woken);
    }

    /// Takes the name away, unless nodes are members.
    ///
    /// # Errors
    /// `Busy` if there are members.
    pub(super) fn retire(self: &Arc<ThrottleGroup>) -> Result<()> {
        let mut groups = lock(&GROUPS);
        if !self.turns().retire() {
            let message = format!("object '{}' is in use, can not be deleted", self.name);
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let known = groups.get(&self.name);
        if known.is_some_and(|known| ptr::eq(known.as_ptr(), Arc::as_ptr(self))) {
            groups.remove(&self.name);
        }
        drop(groups);
        Ok(())
    }

    /// Makes a node a member.
    ///
    /// # Errors
    /// `NotFound` if the group was deleted meanwhile.
    pub(in crate::block) fn join(self: Arc<ThrottleGroup>) -> Result<ThrottleMember> {
        let number = self.turns().join();
        let number = number.ok_or_else(|| {
            let message = format!("Throttle group '{}' does not exist", self.name);
            Error::new(ErrorKind::NotFound, message)
        })?;
        Ok(ThrottleMember {
            group: self,
            number,
        })
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        lock(&self.turns)
    }
}

impl ThrottleMember {
    /// Waits until a request of `bytes` may pass. `queue` is that of the task that waits.
    pub(in crate::block) fn turn<'a>(
        &'a self,
        queue: &'a Arc<TaskQueue>,
        direction: Direction,
        bytes: u64,
    ) -> ThrottleTurn<'a> {
        ThrottleTurn {
            group: &self.group,
            queue,
            asked: Asked {
                member: self.number,
                queue: Arc::as_ptr(queue).addr(),
                direction,
                bytes,
            },
            ticket: None,
            sleep: None,
        }
    }

    /// Lets all requests of a queue pass that wait.
    pub(in crate::block) fn let_pass(&self, queue: &Arc<TaskQueue>) {
        let mut woken = Vec::new();
        let queue = Arc::as_ptr(queue).addr();
        self.group.turns().let_pass(queue, now_ns(), &mut woken);
        wake(woken);
    }
}

impl Drop for ThrottleMember {
    fn drop(&mut self) {
        let mut woken = Vec::new();
        self.group.turns().leave(self.number, &mut woken);
        wake(woken);
    }
}

/// A request that waits for its turn. The one that is next in the group sleeps; the others are woken.
#[derive(Debug)]
#[must_use = "a request waits when this is awaited"]
pub(in crate::block) struct ThrottleTurn<'a> {
    group: &'a ThrottleGroup,
    queue: &'a Arc<TaskQueue>,
    asked: Asked,
    /// Its place in the group, while it waits.
    ticket: Option<u64>,
    sleep: Option<Sleep>,
}

impl Future for ThrottleTurn<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let (now, mut woken) = (now_ns(), Vec::new());
            let mut turns = this.group.turns();
            if this.queue.is_hurried() {
                turns.let_pass(this.asked.queue, now, &mut woken);
            }
            let answer = turns.ask(
                &this.asked,
                &mut this.ticket,
                context.waker(),
                now,
                &mut woken,
            );
            drop(turns);
            wake(woken);
            match answer {
                Passage::Pass => return Poll::Ready(()),
                Passage::Wait => {
                    this.sleep = None;
                    return Poll::Pending;
                }
                Passage::Sleep(ns) => {
                    let mut sleep = this.queue.sleep_ns(ns);
                    let polled = Pin::new(&mut sleep).poll(context);
                    this.sleep = Some(sleep);
                    if polled.is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Drop for ThrottleTurn<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut woken = Vec::new();
            self.group.turns().give_up(&self.asked, ticket, &mut woken);
            wake(woken);
        }
    }
}

/// Outside of the lock: a waker is foreign code.
fn wake(woken: Vec<Waker>) {
    woken.into_iter().for_each(Waker::wake);
}

fn now_ns() -> i64 {
    Clock::Realtime.now_ns()
}

/// What is locked is consistent after every single operation on it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
