//! A node that the NBD server offers under a name, and the clients that use it.
//!
//! # Threads
//! Any thread finds it and hands clients over. Clients are tasks on its AioContext, which its context drives.
//!
//! # Invariants
//! 1. A client that is counted has a task. When the end has begun none is added, and the last one to go begins the last step.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use gsource::AioContext;

use super::status::StatusContexts;
use crate::block::{Access, BlockBackend, Edge, HeldBitmap, Node, Parent, Permissions};
use crate::export::kind::{EndedCallback, Exported, NewExport};
use crate::{Error, ErrorKind, QContext, Result};

/// The offers by name.
static OFFERS: Mutex<Vec<Arc<NbdOffer>>> = Mutex::new(Vec::new());

/// What clients see of an export.
#[derive(Debug)]
pub(super) struct OfferedAs {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) contexts: StatusContexts,
}

/// See the head of this file.
pub(super) struct NbdOffer {
    pub(super) seen: OfferedAs,
    pub(super) writable: bool,
    node: Arc<Node>,
    context: QContext,
    aio: AioContext,
    backend: BlockBackend,
    state: Mutex<OfferState>,
}

#[derive(Default)]
struct OfferState {
    /// Absent at the end.
    edge: Option<Edge>,
    /// The bitmaps that it shows, so that nobody changes them.
    bitmaps: Vec<HeldBitmap>,
    clients: Vec<Arc<ClientEnd>>,
    is_ending: bool,
    ended: Option<EndedCallback>,
}

/// Says to a client's task that it should end.
#[derive(Debug, Default)]
struct ClientEnd {
    is_over: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl ClientEnd {
    /// Whether the task should end. It is woken when it should.
    fn is_over(&self, context: &Context<'_>) -> bool {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *task {
            Some(known) => known.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        drop(task);
        self.is_over.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        let task = {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.clone()
        };
        task.into_iter().for_each(Waker::wake);
    }
}

impl NbdOffer {
    /// Offers the node of `new`, and shows these bitmaps.
    ///
    /// # Errors
    /// The name is taken, or the node cannot be used so.
    pub(super) fn open(
        new: NewExport,
        seen: OfferedAs,
        bitmaps: Vec<HeldBitmap>,
    ) -> Result<Arc<NbdOffer>> {
        check_unused(&seen.name)?;
        let read = Permissions::CONSISTENT_READ;
        let access = Access {
            needs: match new.writable {
                true => read.and(Permissions::WRITE),
                false => read,
            },
            // A client learns the size when it connects.
            shares: Permissions::ALL.without(Permissions::RESIZE),
        };
        let edge = new.node.attach(Parent::new("export", &new.id), access)?;
        let context = new.context.unwrap_or_else(QContext::main);
        let aio = AioContext::new()?;
        context.attach(&aio, Some(&format!("{}.nbd", new.id)))?;
        let offer = Arc::new(NbdOffer {
            seen,
            writable: new.writable,
            node: new.node,
            context,
            backend: BlockBackend::open(&edge, &aio),
            aio,
            state: Mutex::new(OfferState {
                edge: Some(edge),
                bitmaps,
                ..OfferState::default()
            }),
        });
        let entered = enter(&offer);
        if entered.is_err() {
            offer.context.detach(&offer.aio);
        }
        entered.map(|()| offer)
    }

    /// The offer with that name. The empty name is that of no offer.
    pub(super) fn find(name: &str) -> Option<Arc<NbdOffer>> {
        let offers = offers();
        offers.iter().find(|offer| offer.seen.name == name).cloned()
    }

    /// All offers.
    pub(super) fn list() -> Vec<Arc<NbdOffer>> {
        offers().clone()
    }

    /// The size in bytes.
    pub(super) fn length(&self) -> u64 {
        self.node.length()
    }

    /// The node.
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The AioContext of its clients.
    pub(super) fn aio(&self) -> &AioContext {
        &self.aio
    }

    /// The way to the node, for tasks of clients.
    pub(super) fn backend(&self) -> &BlockBackend {
        &self.backend
    }

    /// Counts a client that has finished its negotiation, unless the end has begun.
    pub(super) fn join(self: &Arc<Self>) -> Option<OfferedClient> {
        let end = Arc::new(ClientEnd::default());
        let mut state = self.state();
        if state.is_ending {
            return None;
        }
        state.clients.push(Arc::clone(&end));
        drop(state);
        Some(OfferedClient {
            offer: Arc::clone(self),
            end,
        })
    }

    fn leave(self: &Arc<Self>, end: &Arc<ClientEnd>) {
        let mut state = self.state();
        state.clients.retain(|client| !Arc::ptr_eq(client, end));
        let is_last = state.is_ending && state.clients.is_empty();
        drop(state);
        if is_last {
            self.finish();
        }
    }

    /// The last step: no client is left.
    fn finish(self: &Arc<Self>) {
        let (this, builder) = (Arc::clone(self), Arc::clone(self));
        let task = self.aio.spawn(move || async move {
            if builder.writable
                && let Err(error) = builder.backend.flush().await
            {
                let name = &builder.seen.name;
                glib::g_warning!(
                    "qcontext",
                    "flush at the end of NBD export '{name}': {error}"
                );
            }
            // Outside of the AioContext that goes.
            let context = this.context.clone();
            let free = Arc::clone(&this);
            if context.invoke(move || free.free()).is_err() {
                this.free();
            }
        });
        task.detach();
    }

    fn free(&self) {
        self.context.detach(&self.aio);
        let mut state = self.state();
        let (edge, ended) = (state.edge.take(), state.ended.take());
        let bitmaps = mem::take(&mut state.bitmaps);
        drop(state);
        drop((edge, bitmaps));
        ended.into_iter().for_each(|ended| ended());
    }

    /// The state is consistent after every single operation on it.
    fn state(&self) -> MutexGuard<'_, OfferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that is counted until this is dropped.
pub(super) struct OfferedClient {
    offer: Arc<NbdOffer>,
    end: Arc<ClientEnd>,
}

impl OfferedClient {
    /// Whether its task should end; see [`ClientEnd`].
    pub(super) fn is_over(&self, context: &Context<'_>) -> bool {
        self.end.is_over(context)
    }
}

impl Drop for OfferedClient {
    fn drop(&mut self) {
        self.offer.leave(&self.end);
    }
}

impl fmt::Debug for OfferedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OfferedClient({:?})", self.offer.seen.name)
    }
}

/// The offer, as the list of exports has it.
pub(super) struct ExportedOffer(pub(super) Arc<NbdOffer>);

impl Exported for ExportedOffer {
    fn is_in_use(&self) -> bool {
        !self.0.state().clients.is_empty()
    }

    fn shut_down(&self, ended: EndedCallback) {
        offers().retain(|offer| !Arc::ptr_eq(offer, &self.0));
        // Requests come back without waiting for a throttle group.
        self.0.backend.hurry();
        let mut state = self.0.state();
        state.is_ending = true;
        state.ended = Some(ended);
        let clients = state.clients.clone();
        drop(state);
        match clients.is_empty() {
            true => self.0.finish(),
            false => clients.iter().for_each(|client| client.end()),
        }
    }
}

fn check_unused(name: &str) -> Result<()> {
    match NbdOffer::find(name) {
        Some(_) => Err(taken(name)),
        None => Ok(()),
    }
}

fn enter(offer: &Arc<NbdOffer>) -> Result<()> {
    let mut offers = offers();
    let name = &offer.seen.name;
    if offers.iter().any(|other| other.seen.name == *name) {
        return Err(taken(name));
    }
    offers.push(Arc::clone(offer));
    drop(offers);
    Ok(())
}

fn taken(name: &str) -> Error {
    let message = format!("NBD server already has export named '{name}'");
    Error::new(ErrorKind::AlreadyExists, message)
}

/// The list is consistent after every single operation on it.
fn offers() -> MutexGuard<'static, Vec<Arc<NbdOffer>>> {
    OFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for NbdOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NbdOffer")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}
