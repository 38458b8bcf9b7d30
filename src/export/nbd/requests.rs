//! The requests of one connection that are under way.
//!
//! Each is a future. One that a waker has woken is polled again by the connection's task, the others are not.
//!
//! # Invariants
//! 1. A place keeps its waker. A waker that is called late wakes the place's next future, which does no harm.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::reply::NbdReply;

/// The work on one request.
pub(super) type RequestWork = Pin<Box<dyn Future<Output = NbdReply>>>;

/// See the head of this file.
pub(super) struct RequestSet {
    places: Vec<RequestPlace>,
    free: Vec<usize>,
    woken: Arc<WokenRequests>,
    /// Empty between calls.
    spare: Vec<usize>,
}

struct RequestPlace {
    work: Option<RequestWork>,
    waker: Waker,
}

/// What wakers do.
#[derive(Default)]
struct WokenRequests(Mutex<WokenList>);

#[derive(Default)]
struct WokenList {
    places: Vec<usize>,
    /// The connection's task.
    task: Option<Waker>,
}

struct RequestWake {
    place: usize,
    woken: Arc<WokenRequests>,
}

impl RequestSet {
    pub(super) fn new() -> RequestSet {
        RequestSet {
            places: Vec::new(),
            free: Vec::new(),
            woken: Arc::default(),
            spare: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Polls a new future once. Keeps it if it has no result yet.
    pub(super) fn start(&mut self, work: RequestWork) -> Option<NbdReply> {
        let place = self.free.pop().unwrap_or_else(|| self.add_place());
        self.places[place].work = Some(work);
        self.poll(place)
    }

    /// Polls those that were woken. `task` is woken when there are more.
    pub(super) fn poll_woken(&mut self, task: &Waker, mut done: impl FnMut(NbdReply)) {
        let mut places = mem::take(&mut self.spare);
        {
            let mut woken = self.woken.lock();
            mem::swap(&mut woken.places, &mut places);
            match &mut woken.task {
                Some(known) => known.clone_from(task),
                none => *none = Some(task.clone()),
            }
        }
        places
            .drain(..)
            .filter_map(|place| self.poll(place))
            .for_each(&mut done);
        self.spare = places;
    }

    fn poll(&mut self, index: usize) -> Option<NbdReply> {
        let place = &mut self.places[index];
        let work = place.work.as_mut()?;
        match work.as_mut().poll(&mut Context::from_waker(&place.waker)) {
            Poll::Pending => None,
            Poll::Ready(reply) => {
                place.work = None;
                self.free.push(index);
                Some(reply)
            }
        }
    }

    fn add_place(&mut self) -> usize {
        let place = self.places.len();
        let wake = RequestWake {
            place,
            woken: Arc::clone(&self.woken),
        };
        self.places.push(RequestPlace {
            work: None,
            waker: Waker::from(Arc::new(wake)),
        });
        place
    }
}

impl WokenRequests {
    /// The list is consistent after every single operation on it.
    fn lock(&self) -> MutexGuard<'_, WokenList> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for RequestWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut woken = self.woken.lock();
        woken.places.push(self.place);
        let task = woken.task.take();
        drop(woken);
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl fmt::Debug for RequestSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestSet({})", self.len())
    }
}
