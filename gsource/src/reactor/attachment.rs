//! A tenant's place on a reactor, through which other threads make the home look at its bottom halves.
#![allow(unsafe_code)] // queued attachments are counted by hand

use super::Reactor;
use super::bh::flags::Urgency;
use super::queued::Queued;
use super::tenant::Tenant;
use crate::list::{Link, Linked, Pushed};
use crate::sync::Life;
use std::sync::Arc;

/// A tenant on a reactor.
pub(crate) struct Attachment {
    link: Link<Attachment>,
    pub(super) life: Life,
    pub(super) queued: Queued,
    pub(super) tenant: Arc<Tenant>,
    pub(super) reactor: Arc<Reactor>,
}

// SAFETY: the link is a field.
unsafe impl Linked for Attachment {
    fn link(&self) -> &Link<Attachment> {
        &self.link
    }
}

impl Attachment {
    pub(super) fn new(tenant: &Arc<Tenant>, reactor: &Arc<Reactor>) -> Arc<Attachment> {
        Arc::new(Attachment {
            link: Link::new(),
            life: Life::new(),
            queued: Queued::new(),
            tenant: Arc::clone(tenant),
            reactor: Arc::clone(reactor),
        })
    }

    /// Queues this tenant on its reactor and wakes the home if it sleeps. Async-signal-safe.
    pub(super) fn kick(&self, urgency: Urgency) {
        if self.queued.win() {
            let this = std::ptr::from_ref(self);
            // SAFETY: attachments live in Arcs. The list owns this count until the home takes it.
            unsafe { Arc::increment_strong_count(this) };
            // SAFETY: this call has won `queued`, and the count keeps the node allocated.
            if unsafe { self.reactor.kicked.push(this.cast_mut()) } == Pushed::Closed {
                // SAFETY: the list did not take the count. The caller has another.
                unsafe { Arc::decrement_strong_count(this) };
            }
        }
        self.reactor.wake_for(urgency);
    }
}
