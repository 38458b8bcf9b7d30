//! `block-stream`: an image gets the data of its backing files, as a job, and does not need these files any more.
//!
//! The job asks the image what each range is, and lets it copy what it takes from the files that are to go ([`Op::Populate`]). The
//! image does so with the range locked, so a guest's write comes before or after. At the end the header names another backing
//! file, or none, and the image is opened anew over that, with its channels drained.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::backend::BlockBackend;
use super::chain::{chain_of, links};
use super::change::GraphChange;
use super::drain::drain;
use super::driver::Driver;
use super::drivers::qcow2::{BackingName, rewrite_backing};
use super::error_policy::{ErrorPolicy, OnError};
use super::graph::frozen::FrozenLinks;
use super::graph::{Edge, Parent};
use super::job_options::take_job_options;
use super::job_use::check_unused;
use super::node::Node;
use super::permission::{Access, Permissions};
use super::request::Op;
use crate::job::{self, JobIo, JobStep, JobType, JobWork, RunningJob, WorkFuture};
use crate::object::Options;
use crate::schema::{Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, QContext, Result};

/// How much one request copies. A cancellation waits no longer.
const COPIED_MAX: u64 = 512 << 10;

/// What `block-stream` takes.
pub static BLOCK_STREAM_OPTIONS: ObjectType = ObjectType::new(
    "q_obj_block-stream-arg",
    &[
        Member::optional("job-id", ValueType::Str),
        Member::new("device", ValueType::Str),
        Member::optional("base", ValueType::Str),
        Member::optional("base-node", ValueType::Str),
        Member::optional("backing-file", ValueType::Str),
        Member::optional("backing-mask-protocol", ValueType::Bool),
        Member::optional("bottom", ValueType::Str),
        Member::optional("speed", ValueType::Int),
        Member::optional("on-error", ValueType::Enum(super::error_policy::ON_ERROR)),
        Member::optional("filter-node-name", ValueType::Str),
        Member::optional("auto-finalize", ValueType::Bool),
        Member::optional("auto-dismiss", ValueType::Bool),
    ],
);

/// The job's work.
#[derive(Debug)]
struct StreamWork {
    edge: Edge,
    /// `None` if the image takes nothing from files that are to go.
    plan: Option<StreamPlan>,
    on_error: OnError,
    /// The images whose data is copied stay where they are.
    links: FrozenLinks,
}

/// What the image is to have.
#[derive(Debug)]
struct StreamPlan {
    /// The file that stays behind it, and how it names that.
    base: Option<(Arc<Node>, BackingName)>,
    /// Data of images as deep as this stay there.
    depth: u32,
}

/// Starts the job that the arguments of `block-stream` describe.
///
/// # Errors
/// There is no such node; the base is not behind it; another job uses it, or it cannot be written; the job's id is taken or not
/// well-formed.
pub fn stream(mut arguments: Options) -> Result<()> {
    let wanted = WantedBase::take(&mut arguments)?;
    let device = arguments.need_str("device")?;
    let top = Node::find(&device)?;
    let base = wanted.find(&top)?;
    let is_base = |node: &&Arc<Node>| base.as_ref().is_some_and(|base| base.id() == node.id());
    let chain = chain_of(&top);
    let going = chain.iter().take_while(|node| !is_base(node));
    going.clone().try_for_each(|node| check_unused(node))?;
    let name = arguments.take_str("backing-file")?;
    if base.is_none() && name.is_some() {
        return Err(invalid(
            "backing file specified, but streaming the entire chain",
        ));
    }
    let on_error = OnError::take(&mut arguments, "on-error")?;
    let options = take_job_options(&mut arguments, &top, JobType::Stream)?;
    let plan = plan(&top, base, name)?;
    let access = Access {
        needs: Permissions::CONSISTENT_READ.and(Permissions::WRITE_UNCHANGED),
        shares: Permissions::ALL.without(Permissions::RESIZE),
    };
    let parent = Parent::new("job", options.id.clone());
    let links = match &plan {
        Some(plan) => freeze(&top, plan, &parent)?,
        None => FrozenLinks::freeze(&[], false)?,
    };
    let edge = top.attach(parent, access)?;
    let work = StreamWork {
        links,
        edge,
        plan,
        on_error,
    };
    job::start(options, &QContext::main(), Arc::new(work))
}

/// Which file stays, as the arguments say.
#[derive(Debug, Default)]
struct WantedBase {
    file: Option<String>,
    node: Option<String>,
    bottom: Option<String>,
}

impl WantedBase {
    fn take(arguments: &mut Options) -> Result<WantedBase> {
        let wanted = WantedBase {
            file: arguments.take_str("base")?,
            node: arguments.take_str("base-node")?,
            bottom: arguments.take_str("bottom")?,
        };
        let given = [
            ("base", wanted.file.is_some()),
            ("bottom", wanted.bottom.is_some()),
            ("base-node", wanted.node.is_some()),
        ];
        let mut given = given.iter().filter(|(_, is_given)| *is_given);
        match (given.next(), given.next()) {
            (Some((one, _)), Some((other, _))) => Err(invalid(format!(
                "'{one}' and '{other}' cannot be specified at the same time"
            ))),
            _ => Ok(wanted),
        }
    }

    fn find(&self, top: &Arc<Node>) -> Result<Option<Arc<Node>>> {
        let chain = backing_chain(top);
        if let Some(file) = &self.file {
            let is_it = |node: &&Arc<Node>| node.filename().as_ref() == Some(file);
            let found = chain.iter().find(is_it).map(Arc::clone);
            let missing = || {
                let message = format!("Can't find '{file}' in the backing chain");
                Error::new(ErrorKind::NotFound, message)
            };
            return found.ok_or_else(missing).map(Some);
        }
        if let Some(name) = &self.node {
            let node = Node::find_by_node_name(name)?;
            return match chain.iter().any(|known| known.id() == node.id()) {
                true => Ok(Some(node)),
                false => Err(invalid(format!(
                    "Node '{name}' is not a backing image of '{}'",
                    top.name()
                ))),
            };
        }
        let Some(name) = &self.bottom else {
            return Ok(None);
        };
        let node = Node::find_by_node_name(name)?;
        let mut whole = [top].into_iter().chain(&chain);
        match whole.any(|known| known.id() == node.id()) {
            true => Ok(node.child_of("backing")),
            false => Err(invalid(format!(
                "Node '{name}' is not in a chain starting from '{}'",
                top.name()
            ))),
        }
    }
}

/// The images behind an image, the next one first.
fn backing_chain(top: &Arc<Node>) -> Vec<Arc<Node>> {
    let next = |node: &Arc<Node>| node.child_of("backing");
    std::iter::successors(next(top), next).collect()
}

/// What is to be done; nothing if no file goes.
fn plan(
    top: &Arc<Node>,
    base: Option<Arc<Node>>,
    name: Option<String>,
) -> Result<Option<StreamPlan>> {
    let chain = backing_chain(top);
    let kept = |node: &Arc<Node>| base.as_ref().is_some_and(|base| base.id() == node.id());
    let going = chain.iter().position(kept).unwrap_or(chain.len());
    if going == 0 {
        return Ok(None);
    }
    if top.is_read_only() || top.driver() != Driver::Qcow2 {
        return Err(invalid("Block node is read-only"));
    }
    // Refused now rather than at the end.
    GraphChange::new().set_child(top, "backing", base.as_ref())?;
    let depth = match base {
        // Everything, also what is behind a filter, where the chain seems to end.
        None => u32::MAX,
        Some(_) => u32::try_from(going).unwrap_or(u32::MAX).saturating_add(2),
    };
    let base = base.map(|base| {
        let file = name.or_else(|| base.filename()).ok_or_else(|| {
            let message = format!(
                "node '{}' has no file name: give 'backing-file'",
                base.name()
            );
            invalid(message)
        })?;
        let format = base.driver().name().to_owned();
        Ok((base, BackingName { file, format }))
    });
    Ok(Some(StreamPlan {
        base: base.transpose()?,
        depth,
    }))
}

/// Takes the images that are to go, and freezes the links to them and to the base.
fn freeze(top: &Arc<Node>, plan: &StreamPlan, parent: &Parent) -> Result<FrozenLinks> {
    let access = Access {
        needs: Permissions::NONE,
        shares: Permissions::CONSISTENT_READ.and(Permissions::WRITE_UNCHANGED),
    };
    let chain = chain_of(top);
    let is_base = |node: &Arc<Node>| match &plan.base {
        Some((base, _)) => base.id() == node.id(),
        None => false,
    };
    let base = chain.iter().position(is_base).unwrap_or(chain.len());
    let whole = &chain[..chain.len().min(base + 1)];
    let mut links = FrozenLinks::freeze(&links(whole), false)?;
    for node in &chain[1..base] {
        links.attach(node, parent.clone().with_role("intermediate node"), access)?;
    }
    Ok(links)
}

impl JobWork for StreamWork {
    fn run(self: Arc<Self>, job: Arc<RunningJob>) -> WorkFuture {
        Box::pin(async move {
            match &self.plan {
                Some(plan) => self.copy(plan, &job).await,
                None => Ok(()),
            }
        })
    }

    fn step(self: Arc<Self>, step: JobStep, job: Arc<RunningJob>) -> Option<WorkFuture> {
        let is_due = step == JobStep::Prepare && self.plan.is_some();
        is_due.then(|| -> WorkFuture { Box::pin(async move { self.change_backing(&job).await }) })
    }
}

impl StreamWork {
    async fn copy(&self, plan: &StreamPlan, job: &RunningJob) -> Result<()> {
        let backend = BlockBackend::open(&self.edge, job.aio());
        let length = self.edge.node().length();
        job.add_total(length);
        let mut policy = ErrorPolicy::new(self.on_error);
        let mut offset = 0;
        while offset < length && !job.is_cancelled() {
            job.pause_point().await;
            let (count, is_copied) = match copy_next(&backend, plan, offset, length).await {
                Ok(done) => done,
                Err((count, error)) => match policy.apply(job, JobIo::Read, error)? {
                    true => continue,
                    false => (count, false),
                },
            };
            offset += count;
            job.add_done(count);
            match is_copied {
                true => job.keep_speed(count).await,
                // Neighbours on the same home get their turn.
                false => job.yield_now().await,
            }
        }
        if !job.is_cancelled() {
            backend.flush().await.map_err(os)?;
        }
        policy.finish()
    }

    /// Lets the image have the base behind it, or nothing.
    async fn change_backing(&self, job: &RunningJob) -> Result<()> {
        let Some(plan) = &self.plan else {
            return Ok(());
        };
        let top = self.edge.node();
        let (base, name) = plan.base.clone().unzip();
        let mut change = GraphChange::new();
        change.set_child(&top, "backing", base.as_ref())?;
        change.thaw(self.links.number());
        let drained = drain(&change.nodes()).await;
        let made = job.aio().run_in_pool(move || {
            // A name that is there without the rest does no harm: the image has all data.
            rewrite_backing(&top, name.as_ref())?;
            change.make(&drained)
        });
        made.await?
    }
}

/// Copies from the files that go, or finds out that there is nothing to copy. Returns how far that holds, and whether it copied; or
/// how far the error does.
async fn copy_next(
    backend: &BlockBackend,
    plan: &StreamPlan,
    offset: u64,
    length: u64,
) -> std::result::Result<(u64, bool), (u64, io::Error)> {
    let left = length - offset;
    let chunk = left.min(COPIED_MAX);
    let status = backend.block_status(offset, left).await;
    let status = status.map_err(|error| (chunk, error))?;
    if status.depth < 2 || status.depth >= plan.depth {
        return Ok((status.length.min(left), false));
    }
    let count = status.length.min(chunk);
    let mut request = backend.request(Op::Populate, offset);
    request.set_length(count);
    let finished = backend.submit(request).await;
    backend.recycle(finished.request);
    match finished.result {
        0 => Ok((count, true)),
        result => Err((count, io::Error::from_raw_os_error(-result))),
    }
}

fn os(error: io::Error) -> Error {
    Error::os("Could not flush the image", error)
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
