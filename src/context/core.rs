//! What the handles of a context, its thread and the registry share.
#![forbid(unsafe_code)]

use super::builder::QContextBuilder;
use super::end::ContextEnd;
use super::glib_side::{self, GlibSide};
use super::remains::LastWork;
use super::sources::AttachedSources;
use super::{Handle, MAIN, QContext, lock, registry};
use crate::{AioContext, Error, ErrorKind, IoHandlers, Result};
use gsource::{Drivers, Poller, Reactor};
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

/// What the handles of a context, its thread and the registry share.
pub(crate) struct ContextCore {
    pub(super) id: String,
    /// The id with a NUL at its end.
    pub(super) c_id: CString,
    pub(super) threaded: bool,
    pub(super) gmain: glib::MainContext,
    pub(super) reactor: Arc<Reactor>,
    /// From the core back to the handles, for `QContext::current`.
    pub(super) handle: Mutex<Weak<Handle>>,
    /// `None` once the context has stopped.
    pub(super) own: Mutex<Option<OwnSources>>,
    pub(super) sources: Mutex<AttachedSources>,
    /// The names of the devices that hold a claim. `None` once the context was deleted.
    pub(super) devices: Mutex<Option<Vec<String>>>,
    pub(super) thread_id: AtomicI64,
    /// See `thread`, invariant 1.
    pub(super) leaving: Mutex<()>,
    pub(super) stopping: AtomicBool,
    /// GSources that are not ours may be attached, so GLib is asked before each wait.
    pub(super) foreign: AtomicBool,
    /// Taken out by the thread that iterates, and by the end. `None` inside an iteration.
    pub(super) glib_side: Mutex<Option<GlibSide>>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) end: ContextEnd,
    pub(super) remains: Mutex<Vec<LastWork>>,
}

/// The sources that every context has.
pub(super) struct OwnSources {
    /// For `invoke`.
    pub(super) aio: AioContext,
    pub(super) handlers: IoHandlers,
    /// Lets GLib's own iteration serve the reactor.
    pub(super) reactor_source: glib::Source,
}

impl ContextCore {
    /// With a GMainContext of its own, which only this context knows yet.
    pub(super) fn with_own_main_context(settings: &QContextBuilder) -> Result<Arc<ContextCore>> {
        let core = ContextCore::new(settings, glib_side::new_main_context()?)?;
        core.take_back_first_wake_up()?;
        Ok(core)
    }

    /// With an existing GMainContext.
    pub(super) fn around(
        settings: &QContextBuilder,
        gmain: &glib::MainContext,
    ) -> Result<Arc<ContextCore>> {
        let core = ContextCore::new(settings, gmain.clone())?;
        // A GMainContext that was not made here does not signal its changes, so GLib is always asked.
        core.foreign.store(true, Ordering::Release);
        Ok(core)
    }

    /// The core of `qcontext-main`.
    pub(super) fn main() -> Result<Arc<ContextCore>> {
        let main = QContextBuilder::named(MAIN).poller(Poller::Epoll);
        let core = ContextCore::around(&main, &glib::MainContext::default())?;
        let main_thread = i64::from(std::process::id());
        core.thread_id.store(main_thread, Ordering::Release);
        Ok(core)
    }

    fn new(settings: &QContextBuilder, gmain: glib::MainContext) -> Result<Arc<ContextCore>> {
        let id = settings.id.clone().unwrap_or_else(registry::generate_id);
        let reactor = reactor(&id, settings.threaded, settings.poller)?;
        reactor.set_poll_params(settings.poll_params)?;
        reactor.set_pool_limits(settings.pool_limits)?;
        let (aio, handlers) = (AioContext::new()?, IoHandlers::new()?);
        aio.attach_to(&reactor)?;
        let reactor_source = reactor.g_source()?;
        reactor_source.attach(Some(&gmain));
        if settings.id.as_deref() == Some(MAIN) {
            // As in QEMU, two GSources: an AioContext of the main loop can be polled without the iohandlers, their bottom halves
            // and timers. GLib is asked in each iteration here anyway.
            handlers.aio().g_source()?.attach(Some(&gmain));
        } else {
            handlers.aio().attach_to(&reactor)?;
        }
        let glib_side = GlibSide::new(&reactor, &aio)?;
        Ok(Arc::new(ContextCore {
            c_id: CString::new(&*id).unwrap_or_default(),
            id,
            threaded: settings.threaded,
            gmain,
            reactor,
            handle: Mutex::new(Weak::new()),
            own: Mutex::new(Some(OwnSources {
                aio,
                handlers,
                reactor_source,
            })),
            sources: Mutex::default(),
            devices: Mutex::new(Some(Vec::new())),
            thread_id: AtomicI64::new(-1),
            leaving: Mutex::default(),
            stopping: AtomicBool::new(false),
            foreign: AtomicBool::new(false),
            glib_side: Mutex::new(Some(glib_side)),
            thread: Mutex::new(None),
            end: ContextEnd::default(),
            remains: Mutex::default(),
        }))
    }

    /// A new handle, unless the last one is being dropped.
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

    pub(super) fn of_parent(&self) -> Error {
        let id = &self.id;
        let message =
            format!("context '{id}' was made before fork() and belongs to the parent process");
        Error::new(ErrorKind::WrongThread, message)
    }

    pub(super) fn closed(&self) -> Error {
        let message = format!("context '{}' has been stopped", self.id);
        Error::new(ErrorKind::Closed, message)
    }
}

/// A reactor that waits with `poller`. If the kernel does not offer that, it waits with epoll, and a warning says why.
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
