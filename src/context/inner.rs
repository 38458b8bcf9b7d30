//! A context in memory: what its handles, its home thread and the registry share, and its end.
#![forbid(unsafe_code)]

use super::home::Home;
use super::sources::Sources;
use super::{Handle, MAIN, POLL_MAX_NS, QContext, lock};
use crate::{AioContext, Error, ErrorKind, IoHandlers, Result};
use gsource::{Drivers, PollParams, Poller, Reactor};
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

/// A context in memory.
pub(crate) struct Inner {
    pub(super) id: String,
    /// The id with a NUL at its end.
    pub(super) c_id: CString,
    pub(super) threaded: bool,
    pub(super) gmain: glib::MainContext,
    pub(super) reactor: Arc<Reactor>,
    /// What users hold of this context.
    pub(super) handle: Mutex<Weak<Handle>>,
    /// The context's own sources; gone once it has stopped.
    pub(super) own: Mutex<Option<Own>>,
    pub(super) sources: Mutex<Sources>,
    /// Devices that hold the context, by name; `None` once it was deleted.
    pub(super) users: Mutex<Option<Vec<String>>>,
    pub(super) thread_id: AtomicI64,
    pub(super) stopping: AtomicBool,
    /// Some foreign GSource may be attached, so GLib is asked before each wait.
    pub(super) foreign: AtomicBool,
    /// GLib's side of the loop, taken by whoever iterates.
    pub(super) home: Mutex<Option<Home>>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

/// The sources every context has.
pub(super) struct Own {
    /// For `invoke`.
    pub(super) aio: AioContext,
    pub(super) handlers: IoHandlers,
    pub(super) source: glib::Source,
}

impl Inner {
    pub(super) fn new(
        id: &str,
        threaded: bool,
        poller: Poller,
        gmain: glib::MainContext,
    ) -> Result<Arc<Inner>> {
        let reactor = reactor(id, threaded, poller)?;
        reactor.set_poll_params(PollParams {
            max_ns: POLL_MAX_NS,
            ..PollParams::default()
        })?;
        let (aio, handlers) = (AioContext::new()?, IoHandlers::new()?);
        aio.attach_to(&reactor)?;
        handlers.aio().attach_to(&reactor)?;
        let source = reactor.g_source()?;
        source.attach(Some(&gmain));
        let home = Home::new(&reactor, &aio)?;
        Ok(Arc::new(Inner {
            id: id.to_owned(),
            c_id: CString::new(id).unwrap_or_default(),
            threaded,
            gmain,
            reactor,
            handle: Mutex::new(Weak::new()),
            own: Mutex::new(Some(Own {
                aio,
                handlers,
                source,
            })),
            sources: Mutex::default(),
            users: Mutex::new(Some(Vec::new())),
            thread_id: AtomicI64::new(-1),
            stopping: AtomicBool::new(false),
            foreign: AtomicBool::new(id == MAIN),
            home: Mutex::new(Some(home)),
            thread: Mutex::new(None),
        }))
    }

    /// A new handle, unless the last one is going.
    pub(super) fn handle(&self) -> Option<QContext> {
        lock(&self.handle).upgrade().map(QContext)
    }

    pub(super) fn aio(&self) -> Result<AioContext> {
        lock(&self.own)
            .as_ref()
            .map(|own| own.aio.clone())
            .ok_or_else(|| self.closed())
    }

    pub(super) fn handlers(&self) -> Result<IoHandlers> {
        lock(&self.own)
            .as_ref()
            .map(|own| own.handlers.clone())
            .ok_or_else(|| self.closed())
    }

    pub(super) fn closed(&self) -> Error {
        Error::new(
            ErrorKind::Closed,
            format!("context '{}' has been stopped", self.id),
        )
    }

    pub(super) fn refuse_own_thread(&self, what: &str) -> Result<()> {
        if self.threaded && self.reactor.is_driven_here() {
            let message = format!(
                "context '{}' can not {what} itself from its own thread",
                self.id
            );
            return Err(Error::new(ErrorKind::WouldDeadlock, message));
        }
        Ok(())
    }

    /// Refuses new claims, if no device holds one.
    pub(super) fn close_to_users(&self) -> Result<()> {
        let mut users = lock(&self.users);
        let holder = users.as_ref().and_then(|users| users.first());
        if let Some(device) = holder {
            let message = format!(
                "object '{}' is in use by device '{device}', can not be deleted",
                self.id
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        *users = None;
        drop(users);
        Ok(())
    }

    /// Asks a threaded context to end; tears an unthreaded one down here.
    pub(super) fn request_stop(self: &Arc<Self>) {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        self.reactor.notify();
        if !self.threaded {
            self.tear_down();
        }
    }

    /// Gives back what was attached and destroys what is the context's own. On the home thread, or where none runs.
    pub(super) fn tear_down(&self) {
        let sources = std::mem::take(&mut *lock(&self.sources));
        sources.release();
        let own = lock(&self.own).take();
        if let Some(own) = own {
            own.source.destroy();
        }
        let home = lock(&self.home).take();
        drop(home);
        self.reactor.reap_if_idle();
    }
}

/// A reactor that waits with `poller`, or with epoll where that is not to be had, which is told of.
fn reactor(id: &str, threaded: bool, poller: Poller) -> Result<Arc<Reactor>> {
    let drivers = if threaded { Drivers::One } else { Drivers::Any };
    Reactor::with_poller(poller, drivers).or_else(|error| {
        if poller == Poller::Epoll {
            return Err(error);
        }
        let reactor = Reactor::new()?;
        glib::g_warning!(
            "qcontext",
            "context '{id}' waits with epoll, not with {poller}: {error}"
        );
        Ok(reactor)
    })
}
