//! rust-vmm's event-manager, with a subscriber for each fd, as devices have them.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::RawFd;

use event_manager::{
    EventManager, EventOps, Events, MutEventSubscriber, RemoteEndpoint, SubscriberId, SubscriberOps,
};
use vmm_sys_util::epoll::EventSet;

use crate::Result;
use crate::event_loop::{Action, Deferred, Fds, Kind, Loop, Posts, Wait, Wakes, hit, receive};
use crate::eventfd::EventFd;

pub(crate) struct Subscriber {
    fd: RawFd,
    action: Action,
}

impl MutEventSubscriber for Subscriber {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.action.perform(self.fd);
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::new_raw(self.fd, EventSet::IN));
    }
}

pub(crate) struct Manager {
    manager: EventManager<Subscriber>,
    ids: HashMap<RawFd, SubscriberId>,
}

impl Loop for Manager {
    const NAME: &'static str = "event-manager";
    const KIND: Kind = Kind::Peer;

    fn new() -> Result<Self> {
        let manager = EventManager::new().map_err(|error| format!("{error:?}"))?;
        Ok(Manager {
            manager,
            ids: HashMap::new(),
        })
    }

    fn iterate(&mut self, wait: Wait) {
        let timeout = if wait == Wait::Block { -1 } else { 0 };
        let _ = self.manager.run_with_timeout(timeout);
    }
}

impl Fds for Manager {
    fn watch(&mut self, fd: RawFd, action: Action) -> Result<()> {
        let id = self.manager.add_subscriber(Subscriber { fd, action });
        self.ids.insert(fd, id);
        Ok(())
    }

    fn unwatch(&mut self, fd: RawFd) {
        if let Some(id) = self.ids.remove(&fd) {
            let _ = self.manager.remove_subscriber(id);
        }
    }
}

impl Deferred for Manager {
    type Bh = RemoteEndpoint<Subscriber>;

    fn bh(&mut self) -> RemoteEndpoint<Subscriber> {
        self.manager.remote_endpoint()
    }

    fn schedule(&mut self, endpoint: &RemoteEndpoint<Subscriber>) {
        let _ = endpoint.fire(|_| hit());
    }
}

impl Wakes for Manager {
    type Waker = EventFd;

    fn waker(&mut self) -> Result<EventFd> {
        self.watch_signal()
    }

    fn wake(waker: &EventFd) {
        waker.signal();
    }
}

impl Posts for Manager {
    type Poster = RemoteEndpoint<Subscriber>;

    fn poster(&mut self) -> Result<RemoteEndpoint<Subscriber>> {
        Ok(self.manager.remote_endpoint())
    }

    fn post(endpoint: &RemoteEndpoint<Subscriber>, number: u64) {
        let _ = endpoint.fire(move |_| receive(number));
    }
}
