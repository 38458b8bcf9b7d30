//! The exports by id.
//!
//! An id is taken before anything of the export is made, and free again when everything of it is gone.
//!
//! # Threads
//! One lock around the list, under which no other code runs.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::kind::{EndedCallback, ExportType, Exported};
use super::options::WantedExport;
use crate::object::Options;
use crate::{Error, ErrorKind, Result};

static EXPORTS: Mutex<Vec<NamedExport>> = Mutex::new(Vec::new());

/// Called with the id of an export that has ended.
type GoneHook = Arc<dyn Fn(&str) + Send + Sync>;

struct NamedExport {
    id: String,
    kind: &'static ExportType,
    node: String,
    /// `None` while it is made.
    exported: Option<Arc<dyn Exported>>,
    is_ending: bool,
    /// Called when it has ended.
    callbacks: Vec<EndedCallback>,
}

/// What is known of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its name.
    pub id: String,
    /// Its type, as options name it.
    pub kind: &'static str,
    /// The name of its node.
    pub node: String,
    /// Its end does not wait for clients.
    pub ends_at_once: bool,
    /// Its end has begun.
    pub is_ending: bool,
}

/// Makes the export that `options` describe.
///
/// # Errors
/// An option is missing, unknown or not what is expected; the id is taken; the node or what the type needs does not exist, or
/// cannot be used as the options ask. Nothing is left behind then.
pub fn add(options: Options) -> Result<()> {
    let wanted = WantedExport::check(options)?;
    let reservation = Reservation::new(&wanted)?;
    let (kind, new, mut rest) = wanted.resolve()?;
    let (id, node) = (new.id.clone(), new.node.name().to_owned());
    let exported = (kind.open)(new, &mut rest)?;
    reservation.complete(&id, node, exported);
    Ok(())
}

/// All exports, in the order of their making.
pub fn list() -> Vec<ExportInfo> {
    with_exports(|exports| {
        let made = exports.iter().filter(|export| export.exported.is_some());
        made.map(NamedExport::info).collect()
    })
}

/// Begins the end of an export, and calls `gone` with its id when it is over. If it has clients, this is only done with `is_hard`.
///
/// # Errors
/// `NotFound` if there is no such export; `Busy` if its end has begun already, or it has clients.
pub fn remove(id: &str, is_hard: bool, gone: impl Fn(&str) + Send + Sync + 'static) -> Result<()> {
    if !is_hard && is_in_use(id) {
        let message = format!("export '{id}' still in use");
        return Err(Error::new(ErrorKind::Busy, message));
    }
    let begun = begin(id, Arc::new(gone))?;
    begun.map(drop).ok_or_else(|| {
        let message = format!("Export '{id}' is already shutting down");
        Error::new(ErrorKind::Busy, message)
    })
}

/// Ends the exports that `chosen` names, calls `gone` with the id of each that has ended, and `done` after the last one.
pub(super) fn shut_down(
    chosen: impl Fn(&ExportInfo) -> bool,
    gone: impl Fn(&str) + Send + Sync + 'static,
    done: impl FnOnce() + Send + 'static,
) {
    let gone: GoneHook = Arc::new(gone);
    let exports = list().into_iter().filter(chosen);
    let ids: Vec<String> = exports.map(|export| export.id).collect();
    let left = Arc::new(AtomicUsize::new(ids.len() + 1));
    let done: Arc<Mutex<Option<EndedCallback>>> = Arc::new(Mutex::new(Some(Box::new(done))));
    let one_less = move || {
        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
            done.into_iter().for_each(|done| done());
        }
    };
    for id in ids {
        let after = one_less.clone();
        let is_there = when_ended(&id, Box::new(after.clone()));
        if !is_there {
            after();
        }
        // An error means that it is over.
        let _ = begin(&id, Arc::clone(&gone));
    }
    one_less();
}

fn is_in_use(id: &str) -> bool {
    let exported = with_exports(|exports| {
        let export = exports.iter().find(|export| export.id == id)?;
        export.exported.clone()
    });
    exported.is_some_and(|exported| exported.is_in_use())
}

/// Calls `ended` when the export is over; false if it is already.
fn when_ended(id: &str, ended: EndedCallback) -> bool {
    let refused = with_exports(|exports| {
        let Some(export) = exports.iter_mut().find(|export| export.id == id) else {
            return Some(ended);
        };
        export.callbacks.push(ended);
        None
    });
    refused.is_none()
}

/// Begins the end of an export. `None` if it has begun already.
fn begin(id: &str, gone: GoneHook) -> Result<Option<()>> {
    let Some(exported) = mark_ending(id)? else {
        return Ok(None);
    };
    let name = id.to_owned();
    exported.shut_down(Box::new(move || {
        let callbacks = forget(&name);
        gone(&name);
        callbacks.into_iter().for_each(|ended| ended());
    }));
    Ok(Some(()))
}

fn mark_ending(id: &str) -> Result<Option<Arc<dyn Exported>>> {
    let found = with_exports(|exports| {
        let export = exports.iter_mut().find(|export| export.id == id)?;
        let exported = export.exported.clone()?;
        let first = !std::mem::replace(&mut export.is_ending, true);
        Some(first.then_some(exported))
    });
    found.ok_or_else(|| {
        let message = format!("Export '{id}' is not found");
        Error::new(ErrorKind::NotFound, message)
    })
}

/// Gives the id back. Returns what is to be called.
fn forget(id: &str) -> Vec<EndedCallback> {
    let gone = with_exports(|exports| {
        let index = exports.iter().position(|export| export.id == id)?;
        Some(exports.remove(index))
    });
    // What it has is dropped outside of the lock.
    gone.map(|gone| gone.callbacks).unwrap_or_default()
}

impl NamedExport {
    fn info(&self) -> ExportInfo {
        ExportInfo {
            id: self.id.clone(),
            kind: self.kind.name,
            ends_at_once: self.kind.ends_at_once,
            node: self.node.clone(),
            is_ending: self.is_ending,
        }
    }
}

/// A taken id; free again when dropped before it is complete.
struct Reservation {
    /// `None` when the export is complete.
    id: Option<String>,
}

impl Reservation {
    fn new(wanted: &WantedExport) -> Result<Reservation> {
        let id = wanted.id.clone();
        let new = NamedExport {
            id: id.clone(),
            kind: wanted.kind,
            node: String::new(),
            exported: None,
            is_ending: false,
            callbacks: Vec::new(),
        };
        let is_taken = with_exports(|exports| {
            let is_taken = exports.iter().any(|export| export.id == id);
            if !is_taken {
                exports.push(new);
            }
            is_taken
        });
        if is_taken {
            let message = format!("Block export id '{id}' is already in use");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        Ok(Reservation { id: Some(id) })
    }

    fn complete(mut self, id: &str, node: String, exported: Arc<dyn Exported>) {
        self.id = None;
        with_exports(|exports| {
            if let Some(export) = exports.iter_mut().find(|export| export.id == id) {
                export.node = node;
                export.exported = Some(exported);
            }
        });
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            forget(&id);
        }
    }
}

/// Runs `work` on the list under its lock. No code of an export may run in it, not even a destructor. The list is consistent
/// after every single operation on it.
fn with_exports<T>(work: impl FnOnce(&mut Vec<NamedExport>) -> T) -> T {
    work(&mut EXPORTS.lock().unwrap_or_else(PoisonError::into_inner))
}
