//! `block-commit`: what an image and those behind it have goes into a base further down, as a job, and they are not needed any more.
//!
//! 1. [`commit`] finds the images. The nodes that it names are drained, and [`CommitStart::start`] makes the base writable and takes
//!    the chain: its links are frozen, and only the job writes to the base ([`super::graph::frozen`]).
//! 2. The job asks for each range which image decides what it is. It copies what is above the base (`copy`). Whoever reads through
//!    the images above sees no difference, because these still have what is copied.
//! 3. At the end the images above get the base as their backing file, in their headers and in the graph, under a drain (`finish`).
//!
//! If the top is the disk itself, the job is a mirror into the base ([`super::mirror`]).
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chain::{chain_of, is_filter, links, overlays, position, users};
use super::change::GraphChange;
use super::common::duplicate_node;
use super::drain::DrainedNodes;
use super::driver::Driver;
use super::drivers::qcow2::BackingName;
use super::graph::frozen::FrozenLinks;
use super::graph::{Parent, edges};
use super::job_options::take_job_options;
use super::job_use::check_unused;
use super::mirror::start_active_commit;
use super::node::Node;
use super::on_error::{ON_ERROR, OnError};
use super::permission::{Access, Permissions};
use crate::job::{self, JobOptions, JobStep, JobType, JobWork, RunningJob, WorkFuture};
use crate::object::Options;
use crate::schema::{Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, QContext, Result};

mod copy;
mod finish;
pub(super) mod plan;

use plan::CommitPlan;

/// What `block-commit` takes.
pub static BLOCK_COMMIT_OPTIONS: ObjectType = ObjectType::new(
    "q_obj_block-commit-arg",
    &[
        Member::optional("job-id", ValueType::Str),
        Member::new("device", ValueType::Str),
        Member::optional("base-node", ValueType::Str),
        Member::optional("base", ValueType::Str),
        Member::optional("top-node", ValueType::Str),
        Member::optional("top", ValueType::Str),
        Member::optional("backing-file", ValueType::Str),
        Member::optional("backing-mask-protocol", ValueType::Bool),
        Member::optional("speed", ValueType::Int),
        Member::optional("on-error", ValueType::Enum(ON_ERROR)),
        Member::optional("filter-node-name", ValueType::Str),
        Member::optional("auto-finalize", ValueType::Bool),
        Member::optional("auto-dismiss", ValueType::Bool),
    ],
);

/// A commit that can begin when its nodes are drained.
#[derive(Debug)]
pub struct CommitStart {
    device: Arc<Node>,
    /// From the top down to the base.
    chain: Vec<Arc<Node>>,
    /// How the images above are to name the base; `None` if the top is the disk itself.
    name: Option<BackingName>,
    on_error: OnError,
    options: JobOptions,
    /// Makes the base writable.
    change: Option<GraphChange>,
}

/// The job's work.
#[derive(Debug)]
struct CommitWork {
    plan: CommitPlan,
    name: BackingName,
    /// `None` when the chain is free again.
    links: Mutex<Option<FrozenLinks>>,
}

/// Finds what the arguments of `block-commit` name.
///
/// # Errors
/// There is no such image in the chain; a job uses one; the top is the disk itself; the options of a node that is to change are not
/// known.
pub fn commit(mut arguments: Options) -> Result<CommitStart> {
    let device = find_device(&arguments.need_str("device")?)?;
    let whole = chain_of(&device);
    let first = Wanted::take(&mut arguments, "top")?.find_top(&whole)?;
    let last = Wanted::take(&mut arguments, "base")?.find_base(&whole[first..])?;
    let chain = whole[first..=first + last].to_vec();
    chain.iter().try_for_each(|node| check_unused(node))?;
    let [top, .., base] = &chain[..] else {
        return Err(invalid("cannot commit an image into itself"));
    };
    let file = arguments.take_str("backing-file")?;
    let is_active = is_active(&whole, top, file.is_some())?;
    if let Some(name) = arguments.take_str("filter-node-name")? {
        Node::check_unused(&name, duplicate_node)?;
    }
    let hides = arguments.take_bool("backing-mask-protocol")?;
    let name = match is_active {
        true => None,
        false => Some(backing_name(base, file, hides.unwrap_or(false))?),
    };
    let on_error = OnError::take(&mut arguments, "on-error")?;
    let options = take_job_options(&mut arguments, &device, JobType::Commit)?;
    if !is_active {
        // Refused now rather than at the end.
        finish::end_of_chain(top, base)?;
    }
    let mut change = GraphChange::new();
    let is_read_only = base.is_read_only();
    if is_read_only {
        change.set_read_only(base, false)?;
    }
    Ok(CommitStart {
        device,
        name,
        on_error,
        options,
        change: is_read_only.then_some(change),
        chain,
    })
}

fn find_device(name: &str) -> Result<Arc<Node>> {
    let device = Node::find(name).map_err(|_| {
        let message = format!("Device '{name}' not found");
        Error::new(ErrorKind::DeviceNotFound, message)
    })?;
    let parents = device.parents();
    let is_inner = |parent: &Parent| parent.node_id().is_some() || parent.kind() == "job";
    match parents.iter().any(is_inner) {
        true => Err(invalid("Need a root block node")),
        false => Ok(device),
    }
}

/// One end of what is committed, as the arguments name it.
#[derive(Debug)]
struct Wanted {
    file: Option<String>,
    node: Option<String>,
}

impl Wanted {
    fn take(arguments: &mut Options, end: &str) -> Result<Wanted> {
        let by_node = format!("{end}-node");
        let wanted = Wanted {
            file: arguments.take_str(end)?,
            node: arguments.take_str(&by_node)?,
        };
        match (&wanted.file, &wanted.node) {
            (Some(_), Some(_)) => Err(invalid(format!(
                "'{by_node}' and '{end}' are mutually exclusive"
            ))),
            _ => Ok(wanted),
        }
    }

    /// The place of the top in the chain of the device.
    fn find_top(&self, chain: &[Arc<Node>]) -> Result<usize> {
        match (&self.node, &self.file) {
            (Some(name), _) => find_in(chain, name),
            (None, Some(file)) => {
                let missing = || invalid(format!("Top image file {file} not found"));
                find_file(chain, file).ok_or_else(missing)
            }
            (None, None) => Ok(0),
        }
    }

    /// The place of the base in the chain from the top on.
    fn find_base(&self, chain: &[Arc<Node>]) -> Result<usize> {
        match (&self.node, &self.file) {
            (Some(name), _) => find_in(chain, name),
            (None, Some(file)) => {
                let found = chain.get(1..).and_then(|below| find_file(below, file));
                let missing = || invalid(format!("Can't find '{file}' in the backing chain"));
                found.map(|place| place + 1).ok_or_else(missing)
            }
            (None, None) => Ok(chain.len() - 1),
        }
    }
}

fn find_in(chain: &[Arc<Node>], name: &str) -> Result<usize> {
    let node = Node::find_by_node_name(name)?;
    let missing = || invalid(format!("'{name}' is not in this backing file chain"));
    position(chain, &node).ok_or_else(missing)
}

fn find_file(chain: &[Arc<Node>], file: &str) -> Option<usize> {
    let is_it = |node: &Arc<Node>| !is_filter(node) && node.filename().as_deref() == Some(file);
    chain.iter().position(is_it)
}

/// Whether the top is the disk itself, or somebody writes to it. Then nothing above it can have a name for the base.
fn is_active(whole: &[Arc<Node>], top: &Arc<Node>, has_name: bool) -> Result<bool> {
    let place = position(whole, top).unwrap_or(0);
    let is_disk = whole[..place].iter().all(|above| is_filter(above));
    let writes = |edge: &super::EdgeInfo| {
        edge.child == top.id() && edge.access.needs.contains(Permissions::WRITE)
    };
    let what = match (is_disk, edges().iter().any(writes)) {
        (false, false) => return Ok(false),
        (true, _) => "'top' is the active layer",
        (false, true) => "'top' has a writer on it",
    };
    match has_name {
        true => Err(invalid(format!("'backing-file' specified, but {what}"))),
        false => Ok(true),
    }
}

/// How images name the base. If it `hides_protocol`, a file without a format of its own is `raw`.
fn backing_name(
    base: &Arc<Node>,
    file: Option<String>,
    hides_protocol: bool,
) -> Result<BackingName> {
    let file = file.or_else(|| base.filename()).ok_or_else(|| {
        let message = format!(
            "node '{}' has no file name: give 'backing-file'",
            base.name()
        );
        invalid(message)
    })?;
    let chain = chain_of(base);
    let image = chain.iter().find(|node| !is_filter(node)).unwrap_or(base);
    let is_protocol = matches!(
        image.driver(),
        Driver::File | Driver::HostDevice | Driver::Nbd | Driver::NullCo
    );
    let format = match hides_protocol && is_protocol {
        true => Driver::Raw.name(),
        false => image.driver().name(),
    };
    Ok(BackingName {
        file,
        format: format.to_owned(),
    })
}

impl CommitStart {
    /// The nodes to be drained.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.change.as_ref().map_or(Vec::new(), GraphChange::nodes)
    }

    /// Starts the job, on a thread that may wait for I/O.
    ///
    /// # Errors
    /// The base cannot be written; others use the images in a way that contradicts the job; the job's id is taken or not
    /// well-formed. Then nothing has changed.
    pub fn start(self, drained: &DrainedNodes) -> Result<()> {
        let was_read_only = self.change.is_some();
        let mut links = take_chain(&self.chain, self.name.is_some())?;
        self.take_nodes(&mut links)?;
        let CommitStart {
            chain,
            name,
            on_error,
            options,
            change,
            ..
        } = self;
        let [top, .., base] = &chain[..] else {
            return Err(invalid("cannot commit an image into itself"));
        };
        if name.is_some() {
            // Their headers are written at the end. What is in the way of that should not be found out then.
            let overlays = overlays(top).into_iter();
            let mut only_read = overlays.filter(|overlay| overlay.is_read_only());
            only_read.try_for_each(|overlay| overlay.check_access_can_change())?;
        }
        change.map_or(Ok(()), |change| change.make(drained))?;
        let plan = CommitPlan {
            top: Arc::clone(top),
            base: Arc::clone(base),
            depth: depth_of_base(&chain),
            on_error,
            was_read_only,
        };
        let started = match name {
            Some(name) => start_commit(plan, name, links, options),
            None => start_active_commit(plan, links, options),
        };
        started.or_else(|error| {
            if was_read_only {
                let mut back = GraphChange::new();
                back.set_read_only(base, true)?;
                back.make(drained)?;
            }
            Err(error)
        })
    }

    /// Takes the nodes above the base. A disk that is the top itself is taken by its mirror.
    fn take_nodes(&self, links: &mut FrozenLinks) -> Result<()> {
        let job = Parent::new("job", self.options.id.clone());
        let mut going = &self.chain[..self.chain.len() - 1];
        match &self.name {
            Some(_) => {
                let main = job.clone().with_role("main node");
                links.attach(&self.device, main, Access::NEUTRAL)?;
            }
            None => going = &going[1..],
        }
        for node in going {
            links.attach(node, job.clone().with_role("intermediate node"), PASSAGE)?;
        }
        Ok(())
    }
}

/// How many images there are above the base.
fn depth_of_base(chain: &[Arc<Node>]) -> u32 {
    let images = chain[..chain.len() - 1].iter();
    u32::try_from(images.filter(|node| !is_filter(node)).count()).unwrap_or(0)
}

/// Starts the job, whose top is behind a disk.
fn start_commit(
    plan: CommitPlan,
    name: BackingName,
    mut links: FrozenLinks,
    options: JobOptions,
) -> Result<()> {
    let job = Parent::new("job", options.id.clone());
    links.attach(&plan.base, job, plan.writer())?;
    let work = Arc::new(CommitWork {
        plan,
        name,
        links: Mutex::new(Some(links)),
    });
    let same: Arc<CommitWork> = Arc::clone(&work);
    let started = job::start(options, &QContext::main(), work);
    started.inspect_err(|_| drop(same.links().take()))
}

/// Nobody may read an image whose base is being written, and nobody may write to it.
const PASSAGE: Access = Access {
    needs: Permissions::NONE,
    shares: Permissions::WRITE_UNCHANGED,
};

/// Freezes the links down to the base, with those to the top if that `is_behind` a disk.
fn take_chain(chain: &[Arc<Node>], is_behind: bool) -> Result<FrozenLinks> {
    let mut links = links(chain);
    if is_behind {
        let above = users(&chain[0]).into_iter();
        links.extend(above.map(|(user, _)| (user, Arc::clone(&chain[0]))));
    }
    FrozenLinks::freeze(&links, true)
}

impl CommitWork {
    /// The links are consistent after every single operation on them.
    fn links(&self) -> MutexGuard<'_, Option<FrozenLinks>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobWork for CommitWork {
    fn run(self: Arc<Self>, job: Arc<RunningJob>) -> WorkFuture {
        Box::pin(async move { self.copy(&job).await })
    }

    fn step(self: Arc<Self>, step: JobStep, job: Arc<RunningJob>) -> Option<WorkFuture> {
        match step {
            JobStep::Prepare => Some(Box::pin(async move { self.finish(&job).await })),
            JobStep::Abort => Some(Box::pin(async move { self.give_up(&job).await })),
            JobStep::Commit => None,
        }
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
