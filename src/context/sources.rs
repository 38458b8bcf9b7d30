//! What is attached to a context: AioContexts and GSources, some of them by name.
#![allow(unsafe_code)] // asks GLib where a source is attached

use super::{ContextCore, QContext, lock};
use crate::{AioContext, Error, ErrorKind, Result};
use glib::translate::ToGlibPtr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Clone)]
enum AttachedSource {
    Aio(AioContext),
    Source(glib::Source),
}

/// The attached sources with their names.
#[derive(Default)]
pub(super) struct AttachedSources(Vec<(Option<String>, AttachedSource)>);

impl AttachedSources {
    fn is_taken(&self, name: Option<&str>) -> bool {
        name.is_some() && self.0.iter().any(|(other, _)| other.as_deref() == name)
    }

    fn named(&self, name: &str) -> Option<&AttachedSource> {
        self.0
            .iter()
            .find(|(other, _)| other.as_deref() == Some(name))
            .map(|(_, attached)| attached)
    }

    fn has_aio(&self, aio: &AioContext) -> bool {
        self.0.iter().any(
            |(_, attached)| matches!(attached, AttachedSource::Aio(other) if other.is_same(aio)),
        )
    }

    /// Takes out the sources that have been destroyed by others. Their names are free again.
    fn take_destroyed(&mut self) -> AttachedSources {
        let ended = |attached: &AttachedSource| matches!(attached, AttachedSource::Source(source) if source.is_destroyed());
        let (gone, alive) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(_, attached)| ended(attached));
        self.0 = alive;
        AttachedSources(gone)
    }

    fn take_aio(&mut self, aio: &AioContext) -> Option<AioContext> {
        let is_it = |attached: &AttachedSource| matches!(attached, AttachedSource::Aio(other) if other.is_same(aio));
        let index = self.0.iter().position(|(_, attached)| is_it(attached))?;
        match self.0.remove(index).1 {
            AttachedSource::Aio(found) => Some(found),
            AttachedSource::Source(_) => None,
        }
    }

    fn take_source(&mut self, source: &glib::Source) -> Option<AttachedSource> {
        let is_it = |attached: &AttachedSource| matches!(attached, AttachedSource::Source(other) if other == source);
        let index = self.0.iter().position(|(_, attached)| is_it(attached))?;
        Some(self.0.remove(index).1)
    }

    /// The first one that is not among the AioContexts of `refused`.
    fn first_but(&self, refused: &[AioContext]) -> Option<AttachedSource> {
        let is_refused = |one: &AttachedSource| match one {
            AttachedSource::Aio(aio) => refused.iter().any(|other| other.is_same(aio)),
            AttachedSource::Source(_) => false,
        };
        let mut attached = self.0.iter().map(|(_, attached)| attached);
        attached.find(|one| !is_refused(one)).cloned()
    }
}

impl QContext {
    /// Makes this context drive `aio`, under `name` if one is given. The context keeps it alive until it is detached.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; `Busy` when `aio` is attached elsewhere; `Closed` after a stop.
    pub fn attach(&self, aio: &AioContext, name: Option<&str>) -> Result<()> {
        let core = self.core();
        let mut sources = lock(&core.sources);
        core.check_free(&sources, name)?;
        aio.attach_to(&core.reactor)?;
        sources
            .0
            .push((name.map(str::to_owned), AttachedSource::Aio(aio.clone())));
        drop(sources);
        Ok(())
    }

    /// Stops driving `aio`: at once on the context's own thread or when no thread runs the context, otherwise soon. `aio` keeps
    /// its handlers and pending work, and can be attached elsewhere afterwards. When [`AioContext::detach`] refuses, because of
    /// tasks or io_uring requests in flight, `aio` stays, with a warning.
    pub fn detach(&self, aio: &AioContext) {
        // While this thread owns the GMainContext, no other thread runs the context.
        let owner = self.core().gmain.acquire();
        let detached = owner.is_ok() && aio.detach().is_ok();
        drop(owner);
        if detached {
            // Dropped without the lock.
            let taken = lock(&self.core().sources).take_aio(aio);
            drop(taken);
            return;
        }
        let (core, leaving) = (Arc::clone(self.core()), aio.clone());
        // Fails after a stop only, and a stop has detached everything.
        let _ = self.invoke(move || {
            if let Err(error) = core.detach_here(&leaving) {
                glib::g_warning!("qcontext", "cannot detach an AioContext: {error}");
            }
        });
    }

    /// As [`QContext::detach`], and waits until it is done. If the context stops meanwhile, that detaches it.
    ///
    /// # Errors
    /// As for [`QContext::invoke_sync`] and [`AioContext::detach`]; it stays attached then.
    pub fn detach_sync(&self, aio: &AioContext) -> Result<()> {
        let (core, leaving) = (Arc::clone(self.core()), aio.clone());
        match self.invoke_sync(move || core.detach_here(&leaving)) {
            Err(error) if error.kind() == ErrorKind::Closed && !self.has_aio(aio) => Ok(()),
            outcome => outcome?,
        }
    }

    /// The AioContext attached under `name`.
    pub fn find_aio(&self, name: &str) -> Option<AioContext> {
        match lock(&self.core().sources).named(name) {
            Some(AttachedSource::Aio(aio)) => Some(aio.clone()),
            _ => None,
        }
    }

    /// Attaches any GSource, under `name` if one is given.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; `Busy` when the source is attached or destroyed already; `Closed` after a
    /// stop.
    pub fn attach_source(&self, source: &glib::Source, name: Option<&str>) -> Result<()> {
        let core = self.core();
        let gone = lock(&core.sources).take_destroyed();
        // Dropped without the lock.
        drop(gone);
        let mut sources = lock(&core.sources);
        core.check_free(&sources, name)?;
        if source.is_destroyed() || is_attached(source) {
            return Err(Error::new(
                ErrorKind::Busy,
                "the source is attached or destroyed already",
            ));
        }
        sources.0.push((
            name.map(str::to_owned),
            AttachedSource::Source(source.clone()),
        ));
        core.foreign.store(true, Ordering::Release);
        // Under the lock, so that a stop cannot destroy the source before. GLib calls no callbacks here.
        source.attach(Some(&core.gmain));
        drop(sources);
        core.reactor.notify();
        Ok(())
    }

    /// The GSource attached under `name`.
    pub fn find_source(&self, name: &str) -> Option<glib::Source> {
        match lock(&self.core().sources).named(name) {
            Some(AttachedSource::Source(source)) if !source.is_destroyed() => Some(source.clone()),
            _ => None,
        }
    }

    /// True when `aio` was attached here and not detached.
    pub fn has_aio(&self, aio: &AioContext) -> bool {
        lock(&self.core().sources).has_aio(aio)
    }

    /// Destroys a source attached with [`QContext::attach_source`]; false when it was not.
    pub fn destroy_source(&self, source: &glib::Source) -> bool {
        let taken = lock(&self.core().sources).take_source(source);
        if taken.is_some() {
            source.destroy();
        }
        taken.is_some()
    }
}

impl ContextCore {
    fn check_free(&self, sources: &AttachedSources, name: Option<&str>) -> Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(self.closed());
        }
        match name {
            Some(name) if sources.is_taken(Some(name)) => {
                let message = format!("context '{}' has a source named '{name}' already", self.id);
                Err(Error::new(ErrorKind::AlreadyExists, message))
            }
            _ => Ok(()),
        }
    }

    /// Detaches the AioContexts and destroys the GSources, for a context that ends. An AioContext that cannot be detached stays in
    /// the list, so that it can be detached later. Runs on the context's thread, or, if it has none, on the thread that ends it.
    pub(super) fn release_sources(&self) {
        let mut refused = Vec::new();
        loop {
            let next = lock(&self.sources).first_but(&refused);
            match next {
                None => return,
                Some(AttachedSource::Source(source)) => {
                    let taken = lock(&self.sources).take_source(&source);
                    source.destroy();
                    drop(taken);
                }
                Some(AttachedSource::Aio(aio)) => {
                    // Tasks cannot move away from this thread, which is ending.
                    let _ = aio.cancel_tasks();
                    if let Err(error) = self.detach_here(&aio) {
                        glib::g_warning!("qcontext", "cannot detach an AioContext: {error}");
                        refused.push(aio);
                    }
                }
            }
        }
    }

    /// Detaches first and updates the list then: a thread that does not find `aio` in the list may attach it elsewhere.
    fn detach_here(&self, aio: &AioContext) -> Result<()> {
        if !lock(&self.sources).has_aio(aio) {
            return Ok(());
        }
        aio.detach()?;
        let taken = lock(&self.sources).take_aio(aio);
        drop(taken);
        Ok(())
    }
}

fn is_attached(source: &glib::Source) -> bool {
    // SAFETY: the source is alive and not destroyed.
    !unsafe { glib_sys::g_source_get_context(source.to_glib_none().0) }.is_null()
}
