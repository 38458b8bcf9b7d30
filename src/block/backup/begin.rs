//! How a backup begins: its filter takes the node's place, under a drain.
//!
//! A [`NewBackup`] is checked and made first, its filter without users. Its change of the graph is collected with those of others,
//! made under one drain, and then the job starts. So the backups of a `transaction` are of one moment.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use super::options::BackupOptions;
use super::{BackupUses, BackupWork, tell_stays};
use crate::block::change::GraphChange;
use crate::block::common::{CommonOptions, check_name, duplicate_node};
use crate::block::drain::DrainedNodes;
use crate::block::drivers::copy_before_write::{self, CopySettings, CopyState};
use crate::block::graph::Parent;
use crate::block::node::Node;
use crate::block::permission::{Access, Permissions};
use crate::job;
use crate::object::Options;
use crate::{Error, ErrorKind, QContext, Result};

/// See the head of this file.
#[derive(Debug)]
pub struct NewBackup {
    options: BackupOptions,
    filter: Arc<Node>,
    state: Arc<CopyState>,
}

impl NewBackup {
    /// The backup that the arguments of `blockdev-backup` describe.
    ///
    /// # Errors
    /// A node does not exist, or the nodes do not fit; a job uses one of them, or others write the target; an option has a value that
    /// is not possible.
    pub fn new(arguments: Options) -> Result<NewBackup> {
        NewBackup::with(BackupOptions::take(arguments)?)
    }

    pub(super) fn with(options: BackupOptions) -> Result<NewBackup> {
        let failed = |error: Error| {
            let message = format!("Could not create node: {error}");
            Error::new(error.kind(), message)
        };
        let (filter, state) = open_filter(&options).map_err(failed)?;
        options.check_chunk(state.cluster_size())?;
        Ok(NewBackup {
            options,
            filter,
            state,
        })
    }

    /// Adds to `change` that the filter takes the node's place.
    ///
    /// # Errors
    /// A node above cannot change.
    pub fn add_to(&self, change: &mut GraphChange) -> Result<()> {
        change.replace(&self.options.source, &self.filter)
    }

    /// Starts the job. The change has been made, and the nodes are still drained.
    ///
    /// # Errors
    /// The node has another length than before; the job's id is taken or not well-formed. Then the node has its users back.
    pub fn start(self, drained: &DrainedNodes) -> Result<()> {
        let filter = Arc::clone(&self.filter);
        let source = Arc::clone(&self.options.source);
        self.start_job().inspect_err(|_| {
            let mut change = GraphChange::new();
            let undone = change.replace(&filter, &source);
            match undone.and_then(|()| change.make(drained)) {
                Ok(()) => filter.withdraw(),
                Err(error) => tell_stays(&source, &error),
            }
        })
    }

    fn start_job(self) -> Result<()> {
        let BackupOptions {
            source,
            target,
            settings,
            job,
            ..
        } = self.options;
        if source.length() != self.state.length() {
            let message = format!("node '{}' was resized meanwhile", source.name());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        if settings.sync == super::BackupSync::Top {
            self.state.copy_what_is_allocated();
        }
        let parent = || Parent::new("job", job.id.clone());
        let copies = Access {
            needs: Permissions::CONSISTENT_READ.and(Permissions::WRITE_UNCHANGED),
            shares: Permissions::ALL.without(Permissions::RESIZE),
        };
        let work = BackupWork {
            uses: BackupUses {
                filter: Mutex::new(Some(self.filter.attach(parent(), copies)?)),
                target: target.attach(parent(), Access::NEUTRAL)?,
                _source: source.attach(parent(), Access::NEUTRAL)?,
            },
            source,
            filter: self.filter,
            state: self.state,
            settings,
        };
        job::start(job, &QContext::main(), Arc::new(work))
    }
}

/// The filter, which nobody uses yet.
fn open_filter(options: &BackupOptions) -> Result<(Arc<Node>, Arc<CopyState>)> {
    let settings = CopySettings::with_clusters_of(options.min_cluster_size);
    if let Some(name) = &options.filter_name {
        check_name(name)?;
        Node::check_unused(name, duplicate_node)?;
    }
    let mut state = None;
    let filter = Node::child(
        options.filter_name.clone(),
        CommonOptions::default(),
        |node| {
            let opened = copy_before_write::over(&options.source, &options.target, settings, node)?;
            state = Some(opened.1);
            Ok(opened.0)
        },
    )?;
    filter.enter(duplicate_node)?;
    let state = state.ok_or_else(|| Error::new(ErrorKind::Closed, "the filter has no state"))?;
    Ok((filter, state))
}
