//! A model of requests to an image: writes that allocate clusters, and discards that free them, in every order in which their steps can
//! follow each other. With the lock none of them touches a cluster that is not its own; without it some do.
//!
//! The lock's operations are atomic, so the orders of whole steps are all there are.
#![forbid(unsafe_code)]

use super::*;
use crate::block::test_waker::{WakeCount, is_ready};

const GUEST: usize = 2;
const HOST: usize = 3;

/// What a request wants, of which guest clusters.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Write(usize),
    Discard(usize, usize),
}

/// How far a request has come.
#[derive(Debug)]
enum Stage {
    New,
    Waiting(RangeTicket),
    /// A write knows its host cluster.
    Mapped(Option<RangeTicket>, usize),
    Over,
}

/// An image: which host cluster each guest cluster has, and which write each host cluster belongs to.
#[derive(Debug)]
struct Model {
    uses_lock: bool,
    lock: Arc<RangeLock>,
    map: [Option<usize>; GUEST],
    is_used: [bool; HOST],
    wishes: Vec<Wish>,
    stages: Vec<Stage>,
    wakes: Arc<WakeCount>,
    harm: bool,
}

impl Model {
    fn new(uses_lock: bool, wishes: &[Wish]) -> Model {
        Model {
            uses_lock,
            lock: Arc::default(),
            map: [None; GUEST],
            is_used: [false; HOST],
            wishes: wishes.to_vec(),
            stages: wishes.iter().map(|_| Stage::New).collect(),
            wakes: Arc::default(),
            harm: false,
        }
    }

    fn ticket(&self, wish: Wish) -> RangeTicket {
        let range = |first: usize, last: usize| first as u64..last as u64 + 1;
        match wish {
            Wish::Write(at) => self.lock.shared_ticket(range(at, at)),
            Wish::Discard(first, last) => self.lock.ticket(range(first, last)),
        }
    }

    /// One step of a request. Returns false if it can do none.
    fn step(&mut self, index: usize) -> bool {
        let wish = self.wishes[index];
        let stage = std::mem::replace(&mut self.stages[index], Stage::Over);
        let (next, has_moved) = match stage {
            Stage::New if self.uses_lock => (Stage::Waiting(self.ticket(wish)), true),
            Stage::New => (self.begin(wish, None), true),
            Stage::Waiting(mut ticket) => match is_ready(&mut ticket, &self.wakes) {
                true => (self.begin(wish, Some(ticket)), true),
                false => (Stage::Waiting(ticket), false),
            },
            Stage::Mapped(ticket, host) => {
                // The data goes to the host cluster, which must still be that of the guest's.
                let Wish::Write(at) = wish else {
                    unreachable!()
                };
                self.harm |= self.map[at] != Some(host);
                drop(ticket);
                (Stage::Over, true)
            }
            Stage::Over => (Stage::Over, false),
        };
        self.stages[index] = next;
        has_moved
    }

    fn begin(&mut self, wish: Wish, ticket: Option<RangeTicket>) -> Stage {
        match wish {
            Wish::Write(at) => {
                let host = self.map[at].unwrap_or_else(|| self.allocate());
                self.map[at] = Some(host);
                Stage::Mapped(ticket, host)
            }
            Wish::Discard(first, last) => {
                for host in self.map[first..=last].iter_mut().filter_map(Option::take) {
                    self.is_used[host] = false;
                }
                Stage::Over
            }
        }
    }

    fn allocate(&mut self) -> usize {
        let free = self.is_used.iter().position(|used| !used);
        let free = free.expect("there are as many host clusters as requests");
        self.is_used[free] = true;
        free
    }

    fn is_over(&self) -> bool {
        let is_over = |stage: &Stage| matches!(stage, Stage::Over);
        self.stages.iter().all(is_over)
    }
}

/// Runs the requests in the order that `order` says, which it makes longer as far as needed: the number of the request that makes each
/// step. Returns whether something was harmed.
fn run(uses_lock: bool, wishes: &[Wish], order: &mut Vec<usize>) -> bool {
    let mut model = Model::new(uses_lock, wishes);
    let mut at = 0;
    while !model.is_over() {
        if at == order.len() {
            order.push(0);
        }
        // A request that can do nothing leaves its place to the next one.
        while !model.step(order[at]) {
            order[at] += 1;
            assert!(order[at] < wishes.len(), "all requests wait: {order:?}");
        }
        at += 1;
    }
    model.harm
}

/// The next order of steps, as a number with one more is. None after the last one.
fn advance(order: &mut Vec<usize>, uses_lock: bool, wishes: &[Wish]) -> bool {
    while let Some(last) = order.pop() {
        for next in last + 1..wishes.len() {
            let mut model = Model::new(uses_lock, wishes);
            order.iter().for_each(|&index| assert!(model.step(index)));
            if model.step(next) {
                order.push(next);
                return true;
            }
        }
    }
    false
}

/// How many orders there are, and in how many something is harmed.
fn explore(uses_lock: bool, wishes: &[Wish]) -> (usize, usize) {
    let (mut orders, mut harmed) = (0, 0);
    let mut order = Vec::new();
    loop {
        orders += 1;
        harmed += usize::from(run(uses_lock, wishes, &mut order));
        if !advance(&mut order, uses_lock, wishes) {
            return (orders, harmed);
        }
    }
}

#[test]
fn discards_and_allocating_writes_harm_each_other_only_without_the_lock() {
    let cases: [&[Wish]; 3] = [
        &[Wish::Write(0), Wish::Discard(0, 0), Wish::Write(1)],
        &[
            Wish::Write(0),
            Wish::Discard(0, 1),
            Wish::Write(0),
            Wish::Write(1),
        ],
        &[
            Wish::Write(1),
            Wish::Discard(0, 1),
            Wish::Discard(1, 1),
            Wish::Write(0),
        ],
    ];
    for wishes in cases {
        let (orders, harmed) = explore(true, wishes);
        assert!(
            orders > 20 && harmed == 0,
            "{wishes:?}: {harmed} of {orders}"
        );
        let (_, without) = explore(false, wishes);
        assert!(without > 0, "{wishes:?}");
    }
}
