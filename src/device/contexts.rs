//! Where a device runs: its context, and the AioContexts that the context drives for it.
#![forbid(unsafe_code)]

use gsource::AioContext;

use super::DeviceOptions;
use crate::{ErrorKind, QContext, Result};

/// The AioContexts of one device, attached to its context; detached when dropped.
pub(super) struct AttachedContexts {
    context: QContext,
    attached: Vec<AioContext>,
}

impl AttachedContexts {
    /// Attaches the control context, then those of the queues.
    pub(super) fn new(
        context: &QContext,
        id: &str,
        control: &AioContext,
        queues: Vec<AioContext>,
    ) -> Result<AttachedContexts> {
        let mut contexts = AttachedContexts {
            context: context.clone(),
            attached: Vec::with_capacity(1 + queues.len()),
        };
        contexts.attach(control.clone(), &format!("{id}.control"))?;
        for (index, queue) in queues.into_iter().enumerate() {
            contexts.attach(queue, &format!("{id}.queue{index}"))?;
        }
        Ok(contexts)
    }

    fn attach(&mut self, aio: AioContext, name: &str) -> Result<()> {
        self.context.attach(&aio, Some(name))?;
        self.attached.push(aio);
        Ok(())
    }
}

impl Drop for AttachedContexts {
    fn drop(&mut self) {
        for aio in &self.attached {
            self.context.detach(aio);
        }
    }
}

/// The context that the options ask for, the main context if they ask for none.
///
/// # Errors
/// `context=` without `x-data-plane=on`; there is no such context; it has no thread that would serve the device.
pub(super) fn find(options: &DeviceOptions) -> Result<QContext> {
    let Some(name) = &options.context else {
        return Ok(QContext::main());
    };
    if !options.data_plane {
        let what = format!("context={name} needs x-data-plane=on");
        return Err(options.error(ErrorKind::InvalidArgument, &what));
    }
    let context = QContext::find(name).map_err(|_| {
        let what = format!("context '{name}' not found, expected the id of a qcontext object");
        options.error(ErrorKind::NotFound, &what)
    })?;
    if !context.is_threaded() && context.id() != QContext::main().id() {
        let what = format!(
            "context '{name}' has no thread to serve a device, expected one with threaded=yes"
        );
        return Err(options.error(ErrorKind::InvalidArgument, &what));
    }
    Ok(context)
}
