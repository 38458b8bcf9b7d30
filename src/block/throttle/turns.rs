//! Whose turn it is in a throttle group.
//!
//! Used by [`group`](super::group) under its lock. Time comes in as a parameter, and wakers go out in a list, so that this is
//! arithmetic alone.
//!
//! Each member has a queue of tickets for reads and one for writes. Members take turns: when one has passed, the next member
//! that has a ticket of that direction is next. Reads and writes that wait for the same limit take turns as well.
//!
//! # Invariants
//! 1. The tickets of a queue have ascending numbers. A ticket that is not in its queue any more has passed.
//! 2. Whenever another ticket becomes the next one of its direction, its waker is called, so that it finds out how long to sleep.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::task::Waker;

use super::bucket::Bucket;
use super::limits::{Direction, Limits};

const DIRECTIONS: [Direction; 2] = [Direction::Read, Direction::Write];

/// The state of a group; see the head of this file.
#[derive(Debug)]
pub(super) struct Turns {
    limits: Limits,
    buckets: [Bucket; 6],
    leaked_at_ns: i64,
    members: Vec<MemberQueues>,
    last_member: u64,
    last_ticket: u64,
    /// Where the search for the next member begins, for reads and for writes. May be one too large.
    next: [usize; 2],
    /// What passed last of those that had waited.
    last_direction: Direction,
    is_retired: bool,
}

#[derive(Debug)]
struct MemberQueues {
    number: u64,
    waiting: [VecDeque<Ticket>; 2],
}

#[derive(Debug)]
struct Ticket {
    number: u64,
    queue: usize,
    bytes: u64,
    waker: Waker,
}

/// A request that wants to pass.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) member: u64,
    /// The queue of the request, by the address of its tasks.
    pub(super) queue: usize,
    pub(super) direction: Direction,
    pub(super) bytes: u64,
}

/// What a request is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Pass,
    /// It is the next one: ask again in so many ns.
    Sleep(i64),
    /// Its waker will be called.
    Wait,
}

impl Turns {
    pub(super) fn new(limits: Limits, now_ns: i64) -> Turns {
        Turns {
            buckets: limits.rates.each_ref().map(Bucket::new),
            limits,
            leaked_at_ns: now_ns,
            members: Vec::new(),
            last_member: 0,
            last_ticket: 0,
            next: [0; 2],
            last_direction: Direction::Write,
            is_retired: false,
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn set_limits(&mut self, limits: Limits, now_ns: i64, woken: &mut Vec<Waker>) {
        self.buckets = limits.rates.each_ref().map(Bucket::new);
        self.limits = limits;
        self.leaked_at_ns = now_ns;
        self.wake_next(woken);
    }

    /// Lets no more members in. False if there are any.
    pub(super) fn retire(&mut self) -> bool {
        self.is_retired |= self.members.is_empty();
        self.is_retired
    }

    /// A new member, unless the group has retired.
    pub(super) fn join(&mut self) -> Option<u64> {
        if self.is_retired {
            return None;
        }
        self.last_member += 1;
        self.members.push(MemberQueues {
            number: self.last_member,
            waiting: Default::default(),
        });
        Some(self.last_member)
    }

    pub(super) fn leave(&mut self, member: u64, woken: &mut Vec<Waker>) {
        self.members.retain(|known| known.number != member);
        self.wake_next(woken);
    }

    /// What a request is to do. Gives it a ticket if it must wait, and takes the ticket back when it passes.
    pub(super) fn ask(
        &mut self,
        asked: &Asked,
        ticket: &mut Option<u64>,
        waker: &Waker,
        now_ns: i64,
        woken: &mut Vec<Waker>,
    ) -> Passage {
        self.leak(now_ns);
        let direction = asked.direction;
        if ticket.is_none() {
            if self.next_member(direction).is_none() && self.wait_ns(direction) == 0 {
                self.pour(direction, asked.bytes);
                return Passage::Pass;
            }
            *ticket = self.add_ticket(asked, waker);
        } else if let Some(known) = self.ticket_mut(asked, *ticket) {
            known.waker.clone_from(waker);
        }
        if self.is_next(asked, *ticket) {
            self.let_waiting_pass(*ticket, woken);
        }
        if self.ticket_mut(asked, *ticket).is_none() {
            *ticket = None;
            return Passage::Pass;
        }
        match self.is_next(asked, *ticket) {
            true => Passage::Sleep(self.wait_ns(direction)),
            false => Passage::Wait,
        }
    }

    /// A request does not wait any more.
    pub(super) fn give_up(&mut self, asked: &Asked, ticket: u64, woken: &mut Vec<Waker>) {
        if let Some(waiting) = self.waiting_mut(asked) {
            waiting.retain(|known| known.number != ticket);
        }
        self.wake_next(woken);
    }

    /// Lets all requests of a queue pass.
    pub(super) fn let_pass(&mut self, queue: usize, now_ns: i64, woken: &mut Vec<Waker>) {
        self.leak(now_ns);
        for direction in DIRECTIONS {
            let mut bytes = Vec::new();
            for member in &mut self.members {
                member.waiting[direction as usize].retain(|ticket| {
                    let stays = ticket.queue != queue;
                    if !stays {
                        bytes.push(ticket.bytes);
                        woken.push(ticket.waker.clone());
                    }
                    stays
                });
            }
            bytes
                .into_iter()
                .for_each(|bytes| self.pour(direction, bytes));
        }
        self.wake_next(woken);
    }

    /// Lets those pass that are next, reads and writes in turn, as long as the buckets have room. Wakes them and those that
    /// are next then. The owner of the ticket `own` runs already.
    fn let_waiting_pass(&mut self, own: Option<u64>, woken: &mut Vec<Waker>) {
        let mut has_passed = [false; 2];
        while let Some((direction, index)) = self.next_that_may() {
            let Some(ticket) = self.members[index].waiting[direction as usize].pop_front() else {
                break;
            };
            self.pour(direction, ticket.bytes);
            self.next[direction as usize] = index + 1;
            self.last_direction = direction;
            has_passed[direction as usize] = true;
            if Some(ticket.number) != own {
                woken.push(ticket.waker);
            }
        }
        for direction in DIRECTIONS {
            if has_passed[direction as usize] {
                self.wake_next_of(direction, woken);
            }
        }
    }

    /// The next member that may pass. If there is one for either direction, that of the other direction than the last one.
    fn next_that_may(&self) -> Option<(Direction, usize)> {
        let other = match self.last_direction {
            Direction::Read => Direction::Write,
            Direction::Write => Direction::Read,
        };
        [other, self.last_direction]
            .into_iter()
            .find_map(|direction| {
                let index = self.next_member(direction)?;
                (self.wait_ns(direction) == 0).then_some((direction, index))
            })
    }

    fn wake_next(&self, woken: &mut Vec<Waker>) {
        for direction in DIRECTIONS {
            self.wake_next_of(direction, woken);
        }
    }

    fn wake_next_of(&self, direction: Direction, woken: &mut Vec<Waker>) {
        if let Some(index) = self.next_member(direction) {
            let ticket = self.members[index].waiting[direction as usize].front();
            woken.extend(ticket.map(|ticket| ticket.waker.clone()));
        }
    }

    fn next_member(&self, direction: Direction) -> Option<usize> {
        let count = self.members.len();
        let start = self.next[direction as usize];
        let order = (start..count).chain(0..start.min(count));
        order
            .into_iter()
            .find(|index| !self.members[*index].waiting[direction as usize].is_empty())
    }

    fn is_next(&self, asked: &Asked, ticket: Option<u64>) -> bool {
        let next = self
            .next_member(asked.direction)
            .and_then(|index| self.members[index].waiting[asked.direction as usize].front());
        next.is_some_and(|next| Some(next.number) == ticket)
    }

    fn add_ticket(&mut self, asked: &Asked, waker: &Waker) -> Option<u64> {
        self.last_ticket += 1;
        let ticket = Ticket {
            number: self.last_ticket,
            queue: asked.queue,
            bytes: asked.bytes,
            waker: waker.clone(),
        };
        let number = ticket.number;
        self.waiting_mut(asked)?.push_back(ticket);
        Some(number)
    }

    fn waiting_mut(&mut self, asked: &Asked) -> Option<&mut VecDeque<Ticket>> {
        let mut members = self.members.iter_mut();
        let member = members.find(|member| member.number == asked.member)?;
        Some(&mut member.waiting[asked.direction as usize])
    }

    fn ticket_mut(&mut self, asked: &Asked, ticket: Option<u64>) -> Option<&mut Ticket> {
        let waiting = self.waiting_mut(asked)?;
        let index = waiting.binary_search_by_key(&ticket?, |known| known.number);
        waiting.get_mut(index.ok()?)
    }

    fn leak(&mut self, now_ns: i64) {
        let elapsed = now_ns - self.leaked_at_ns;
        if elapsed > 0 {
            self.leaked_at_ns = now_ns;
            for (bucket, rate) in self.buckets.iter_mut().zip(&self.limits.rates) {
                bucket.leak(rate, elapsed);
            }
        }
    }

    fn wait_ns(&self, direction: Direction) -> i64 {
        let waits = Limits::waited_for(direction)
            .map(|index| self.buckets[index].wait_ns(&self.limits.rates[index]));
        waits.into_iter().max().unwrap_or(0)
    }

    fn pour(&mut self, direction: Direction, bytes: u64) {
        let units = self.limits.units(direction, bytes);
        for ((bucket, rate), count) in self.buckets.iter_mut().zip(&self.limits.rates).zip(units) {
            bucket.pour(rate, count);
        }
    }
}

#[cfg(test)]
mod tests;
