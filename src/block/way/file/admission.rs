//! Where requests of direct I/O wait until an engine may have them.
//!
//! Used by [`super::FileWay`] where the image is open for direct I/O. A request that is aligned in memory and in the file goes
//! on at once. Another one gets a bounce buffer first; there are few, so that a guest that misaligns everything costs itself
//! speed and us a bounded amount of memory. Where direct I/O is coarser than a sector, writes also wait for their turn in the
//! image's [order](crate::block::write_order): the turn comes before the buffer, so those with a buffer always end.
//!
//! # Threads
//! Everything belongs to the home, except that a turn may come on any thread. Then the gate is scheduled, and the channel
//! reaps.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use super::bounces::Bounces;
use crate::block::gate::Gate;
use crate::block::image::{Alignment, Direct};
use crate::block::request::{Op, Request, RequestBatch};
use crate::block::write_order::{WriteOrder, WriteTurn};

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Admission {
    /// What memory must be aligned to, where nothing else can be wrong with a new request.
    fine_memory: Option<usize>,
    bounces: Bounces,
    /// Requests that wait for a bounce buffer.
    unbuffered: VecDeque<Box<Request>>,
    /// Requests that wait for their turn.
    early: RequestBatch,
    call: Arc<TurnCall>,
    waker: Waker,
}

/// Calls the channel when the turn of one of its requests has come.
#[derive(Debug)]
struct TurnCall {
    has_come: AtomicBool,
    gate: Arc<Gate>,
}

impl Wake for TurnCall {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_come.store(true, Ordering::Release);
        self.gate.schedule();
    }
}

/// Whether direct I/O takes the rest of the request from where it is now.
pub(super) fn is_admitted(direct: &Direct, request: &Request) -> bool {
    let alignment = direct.alignment();
    match &request.bounce {
        Some(bounce) => bounce.unit == alignment.offset,
        None => !needs_bounce(request, alignment),
    }
}

fn needs_bounce(request: &Request, alignment: Alignment) -> bool {
    match request.op {
        Op::Read | Op::Write => {
            is_fine(request, alignment.offset) || request.is_misaligned(alignment.memory)
        }
        Op::WriteZeroes { .. } => is_fine(request, alignment.offset),
        Op::Flush | Op::Discard | Op::BlockStatus | Op::Populate => false,
    }
}

/// Whether the rest of the request is not made of whole blocks of `unit` bytes.
fn is_fine(request: &Request, unit: u64) -> bool {
    (request.position() | request.remaining()) & (unit - 1) != 0
}

/// The turn of the rest of a request in the order of writes to blocks of `unit` bytes.
fn turn(order: &Arc<WriteOrder>, request: &Request, unit: u64) -> WriteTurn {
    let start = request.position();
    let end = start + request.remaining();
    if is_fine(request, unit) {
        return order.cycle(start / unit * unit..end.next_multiple_of(unit));
    }
    order.aligned(start..end)
}

fn has_come(turn: &mut WriteTurn, waker: &Waker) -> bool {
    let mut context = Context::from_waker(waker);
    Pin::new(turn).poll(&mut context).is_ready()
}

impl Admission {
    pub(super) fn new(direct: &Direct, gate: &Arc<Gate>) -> Admission {
        let call = Arc::new(TurnCall {
            has_come: AtomicBool::new(false),
            gate: Arc::clone(gate),
        });
        let is_fine = direct.order().is_none();
        Admission {
            fine_memory: is_fine.then(|| direct.alignment().memory),
            bounces: Bounces::default(),
            unbuffered: VecDeque::new(),
            early: Vec::new(),
            waker: Waker::from(Arc::clone(&call)),
            call,
        }
    }

    /// Whether a new request goes on as it is.
    #[inline]
    pub(super) fn is_straight(&self, request: &Request) -> bool {
        let memory = self.fine_memory;
        memory.is_some_and(|align| !request.is_misaligned(align))
    }

    /// Lets a request go on to `fresh`, now or in [`Admission::go_on`].
    #[inline(never)]
    pub(super) fn admit(
        &mut self,
        direct: &Direct,
        mut request: Box<Request>,
        fresh: &mut RequestBatch,
    ) {
        if let Some(order) = direct.order()
            && matches!(request.op, Op::Write | Op::WriteZeroes { .. })
        {
            let turn = turn(order, &request, direct.order_unit());
            if !has_come(request.turn.insert(turn), &self.waker) {
                self.early.push(request);
                return;
            }
        }
        self.admit_in_turn(direct, request, fresh);
    }

    /// Admits the rest of a request anew: as it was, direct I/O does not take it.
    pub(super) fn admit_again(
        &mut self,
        direct: &Direct,
        mut request: Box<Request>,
        fresh: &mut RequestBatch,
    ) {
        self.release(&mut request);
        self.admit(direct, request, fresh);
    }

    fn admit_in_turn(&mut self, direct: &Direct, request: Box<Request>, fresh: &mut RequestBatch) {
        if !needs_bounce(&request, direct.alignment()) {
            fresh.push(request);
            return;
        }
        self.unbuffered.push_back(request);
        self.give_bounces(direct, fresh);
    }

    /// Takes back what a request has that is finished; whether it had a bounce buffer.
    pub(super) fn release(&mut self, request: &mut Request) -> bool {
        request.turn = None;
        let bounce = request.bounce.take();
        let had_bounce = bounce.is_some();
        self.bounces.put(bounce);
        had_bounce
    }

    /// Lets requests go on for which there is a bounce buffer now, or whose turn has come.
    pub(super) fn go_on(&mut self, direct: &Direct, fresh: &mut RequestBatch) {
        if self.call.has_come.swap(false, Ordering::Acquire) {
            let waker = &self.waker;
            let early = self.early.extract_if(.., |request| {
                let turn = request.turn.as_mut();
                turn.is_none_or(|turn| has_come(turn, waker))
            });
            for request in early.collect::<RequestBatch>() {
                self.admit_in_turn(direct, request, fresh);
            }
        }
        self.give_bounces(direct, fresh);
    }

    /// Gives bounce buffers to the requests that wait for one, in order.
    fn give_bounces(&mut self, direct: &Direct, fresh: &mut RequestBatch) {
        while let Some(request) = self.unbuffered.front_mut() {
            let Some(mut bounce) = self.bounces.take() else {
                return;
            };
            bounce.begin(direct.alignment().offset);
            request.bounce = Some(bounce);
            fresh.extend(self.unbuffered.pop_front());
        }
    }
}
