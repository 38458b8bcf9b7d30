//! Jobs: long-running work with QEMU's states, which users pause, cancel, finalize and dismiss.
//!
//! Used by the block layer, whose jobs make, copy and merge images, and by the monitor.
//!
//! * `state`: the states, and which verbs each allows
//! * `table`: jobs and transactions as a state machine without I/O
//! * `registry`: the jobs of the process; carries out what follows from each change
//! * `work`: what a job does; `running`: how its work hears of users and tells its progress
//! * `runner`: the job's task; `limit`: its speed
//! * `event`: what clients hear
//!
//! # Threads
//! A job's work runs on an AioContext of its own, on a context, and never blocks its thread. Everything else may be called from any
//! thread.
#![forbid(unsafe_code)]

mod event;
mod limit;
mod registry;
mod runner;
mod running;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod work;

pub use event::{JOB_EVENTS, JOB_STATUS, JOB_TYPE, JOB_TYPES, JobEvent, on_event};
pub use registry::{
    JobInfo, JobName, apply, cancel_all, cancel_block_job, change_options, check_new_id, list,
    set_speed, start,
};
pub use running::{JobOptions, RunningJob};
pub use state::{JobStatus, JobType, JobVerb};
pub use table::{JobErrorAction, JobIo, JobStep};
pub use work::{JobWork, WorkFuture};
