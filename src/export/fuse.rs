//! `fuse`: a node as a file. It is mounted over a regular file, whatever format the node's image has.
//!
//! * `mount`, `fusermount`: the mount
//! * `session`: the connection to the kernel, with `greeting` and `message`
//! * `attributes`, `content`: the file
//!
//! The protocol's structures come from `fuse-abi`; how requests are taken and answered is ours, on the export's context.
//!
//! # Threads
//! Made on any thread that may wait. Everything else runs on the home of the export's AioContext.
#![deny(unsafe_code)] // children that need it say why

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gsource::{AioContext, JoinHandle};

use super::kind::{EndedCallback, ExportType, Exported, NewExport};
use crate::block::{Access, BlockBackend, Edge, Parent, Permissions};
use crate::context::ContextClaim;
use crate::object::Options;
use crate::schema::{EnumType, Member, ValueType};
use crate::{Error, ErrorKind, QContext, Result};

mod attributes;
mod content;
mod fusermount;
mod greeting;
mod message;
mod mount;
mod session;

use attributes::Attributes;
use content::FuseContent;
use message::TRANSFER_MAX;
use mount::{MountOptions, Mounted, Mountpoint};
use session::FuseSession;

/// The type `fuse`.
pub(super) const FUSE: ExportType = ExportType {
    name: "fuse",
    members: &MEMBERS,
    ends_at_once: false,
    open,
};

static MEMBERS: [Member; 3] = [
    Member::new("mountpoint", ValueType::Str),
    Member::optional("growable", ValueType::Bool),
    Member::optional(
        "allow-other",
        ValueType::Enum(EnumType::new(
            "FuseExportAllowOther",
            &["off", "on", "auto"],
        )),
    ),
];

/// A file on offer.
struct FuseExport {
    id: String,
    attached: AttachedAio,
    this: Weak<FuseExport>,
    /// `None` when it has ended.
    parts: Mutex<Option<FuseParts>>,
}

/// What an export has while it exists. The fields are dropped in this order.
struct FuseParts {
    session: Arc<FuseSession>,
    _edge: Edge,
    _claim: ContextClaim,
}

/// An AioContext that a context drives until this is dropped.
struct AttachedAio {
    context: QContext,
    aio: AioContext,
}

fn open(new: NewExport, options: &mut Options) -> Result<Arc<dyn Exported>> {
    let path = options.need_str("mountpoint")?;
    let is_growable = options.take_bool("growable")?.unwrap_or(false);
    let allow_other = options.take_str("allow-other")?;
    let attached = AttachedAio::new(&new)?;
    let claim = attached.context.claim(&new.id)?;
    let parent = Parent::new("export", new.id.clone());
    let edge = new.node.attach(parent, access(new.writable, is_growable))?;
    let backend = BlockBackend::open(&edge, &attached.aio);
    let content = FuseContent::new(backend, new.writable, is_growable);
    let owner = owner()?;
    let mountpoint = Mountpoint::find(&path)?;
    let (mounted, is_for_all) = mount(&mountpoint, allow_other.as_deref())?;
    let attributes = Attributes::new(owner, new.writable, is_for_all);
    let session = FuseSession::start(&attached.aio, mounted, content, attributes)?;
    let parts = FuseParts {
        session,
        _edge: edge,
        _claim: claim,
    };
    Ok(Arc::new_cyclic(|this| FuseExport {
        id: new.id,
        attached,
        this: Weak::clone(this),
        parts: Mutex::new(Some(parts)),
    }))
}

/// What the export does with the node. Others may do the same.
fn access(is_writable: bool, is_growable: bool) -> Access {
    let mut needs = Permissions::CONSISTENT_READ;
    if is_writable {
        needs = needs.and(Permissions::WRITE);
    }
    if is_writable || is_growable {
        needs = needs.and(Permissions::RESIZE);
    }
    Access {
        needs,
        shares: Permissions::ALL,
    }
}

/// The user and the group of this process.
fn owner() -> Result<(u32, u32)> {
    let process = fs::metadata("/proc/self");
    let process = process.map_err(|error| Error::os("/proc/self", error))?;
    Ok((process.uid(), process.gid()))
}

/// Mounts. Also says whether other users may open the file; if the options do not say that, they may if it is possible.
fn mount(mountpoint: &Mountpoint, allow_other: Option<&str>) -> Result<((Mounted, File), bool)> {
    let ways: &[bool] = match allow_other {
        Some("on") => &[true],
        Some("off") => &[false],
        _ => &[true, false],
    };
    let mut failure = None;
    for &is_for_all in ways {
        let options = MountOptions {
            max_read: TRANSFER_MAX,
            allow_other: is_for_all,
        };
        match mountpoint.mount(options) {
            Ok(mounted) => return Ok((mounted, is_for_all)),
            Err(error) => failure = Some(error),
        }
    }
    let failure = failure.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
    Err(Error::os("Failed to mount FUSE session to export", failure))
}

impl AttachedAio {
    /// On the context that the options name, or the main context.
    fn new(export: &NewExport) -> Result<AttachedAio> {
        let context = export.context.clone().unwrap_or_else(QContext::main);
        if !context.is_threaded() && context.id() != QContext::main().id() {
            let message = format!(
                "iothread \"{}\" has no thread to serve an export",
                context.id()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let aio = AioContext::new()?;
        context.attach(&aio, Some(&format!("{}.fuse", export.id)))?;
        Ok(AttachedAio { context, aio })
    }
}

impl Drop for AttachedAio {
    fn drop(&mut self) {
        self.context.detach(&self.aio);
    }
}

impl FuseExport {
    fn session(&self) -> Option<Arc<FuseSession>> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.as_ref().map(|parts| Arc::clone(&parts.session))
    }

    /// No request is in flight any more: makes durable what was written, then frees everything.
    fn finish(self: Arc<Self>, session: Arc<FuseSession>, ended: EndedCallback) {
        let aio = self.attached.aio.clone();
        let task = aio.spawn_local(async move {
            if let Err(errno) = session.content().flush().await {
                let error = io::Error::from_raw_os_error(errno);
                glib::g_warning!(
                    "qcontext",
                    "export '{}' cannot be flushed: {error}",
                    self.id
                );
            }
            drop(session);
            self.leave(ended);
        });
        // It is the home, so there can be a task.
        task.into_iter().for_each(JoinHandle::detach);
    }

    /// Frees the parts outside of the export's own AioContext.
    fn leave(self: Arc<Self>, ended: EndedCallback) {
        let context = self.attached.context.clone();
        let invoked = context.invoke(move || {
            let parts = self
                .parts
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            drop(parts);
            ended();
        });
        if let Err(error) = invoked {
            glib::g_warning!("qcontext", "an export cannot end: {error}");
        }
    }
}

impl Exported for FuseExport {
    fn shut_down(&self, ended: EndedCallback) {
        let (Some(this), Some(session)) = (self.this.upgrade(), self.session()) else {
            return ended();
        };
        self.attached
            .aio
            .schedule_oneshot("fuse-shutdown", move || {
                let unmounted = Arc::clone(&session);
                session.unmount(move || {
                    let quiet = Arc::clone(&unmounted);
                    unmounted.stop(move || this.finish(quiet, ended));
                });
            });
    }
}
