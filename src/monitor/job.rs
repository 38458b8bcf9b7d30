//! The commands of jobs. Names, arguments, answers and events are QEMU's (qapi/job.json, qapi/block-core.json).
//!
//! `job-*` and `query-jobs` are for all jobs, `block-job-*` and `query-block-jobs` for those of the block layer.
#![forbid(unsafe_code)]

use super::command::Commands;
use super::event::emit;
use crate::Result;
use crate::block::{COPY_MODE, IO_STATUS};
use crate::job::{self, JOB_EVENTS, JOB_STATUS, JOB_TYPE, JOB_TYPES, JobInfo, JobName, JobVerb};
use crate::object::{Options, Value};
use crate::schema::{Case, CommandType, Member, NOTHING, ObjectType, ValueType, Variants};

pub(super) fn add(commands: &mut Commands) {
    for (command, verb) in &VERBS {
        commands.add(command, |arguments| user_wants(arguments, *verb));
    }
    for (command, verb) in &BLOCK_JOB_VERBS {
        commands.add(command, |arguments| {
            user_wants_of_block_job(arguments, *verb)
        });
    }
    commands.add(&BLOCK_JOB_CANCEL, cancel);
    commands.add(&BLOCK_JOB_SET_SPEED, set_speed);
    commands.add(&BLOCK_JOB_CHANGE, change);
    commands.add(&QUERY_JOBS, query_jobs);
    commands.add(&QUERY_BLOCK_JOBS, query_block_jobs);
    for event in JOB_EVENTS {
        commands.add_event(event);
    }
    job::on_event(|event| emit(event.event, event.data));
}

static ID: ObjectType = ObjectType::new("q_obj_job-id-arg", &[Member::new("id", ValueType::Str)]);
static DEVICE: ObjectType = ObjectType::new(
    "q_obj_block-job-device-arg",
    &[Member::new("device", ValueType::Str)],
);

static VERBS: [(CommandType, JobVerb); 6] = [
    (CommandType::new("job-cancel", &ID), JobVerb::Cancel),
    (CommandType::new("job-complete", &ID), JobVerb::Complete),
    (CommandType::new("job-dismiss", &ID), JobVerb::Dismiss),
    (CommandType::new("job-finalize", &ID), JobVerb::Finalize),
    (CommandType::new("job-pause", &ID), JobVerb::Pause),
    (CommandType::new("job-resume", &ID), JobVerb::Resume),
];

static BLOCK_JOB_VERBS: [(CommandType, JobVerb); 5] = [
    (
        CommandType::new("block-job-complete", &DEVICE),
        JobVerb::Complete,
    ),
    (CommandType::new("block-job-dismiss", &ID), JobVerb::Dismiss),
    (
        CommandType::new("block-job-finalize", &ID),
        JobVerb::Finalize,
    ),
    (CommandType::new("block-job-pause", &DEVICE), JobVerb::Pause),
    (
        CommandType::new("block-job-resume", &DEVICE),
        JobVerb::Resume,
    ),
];

fn user_wants(mut arguments: Options, verb: JobVerb) -> Result<Value> {
    job::apply(JobName::Any(&arguments.need_str("id")?), verb)?;
    Ok(Value::empty())
}

fn user_wants_of_block_job(mut arguments: Options, verb: JobVerb) -> Result<Value> {
    let id = match arguments.take_str("device")? {
        Some(device) => device,
        None => arguments.need_str("id")?,
    };
    job::apply(JobName::Block(&id), verb)?;
    Ok(Value::empty())
}

static BLOCK_JOB_CANCEL: CommandType = CommandType::new(
    "block-job-cancel",
    &ObjectType::new(
        "q_obj_block-job-cancel-arg",
        &[
            Member::new("device", ValueType::Str),
            Member::optional("force", ValueType::Bool),
        ],
    ),
);

fn cancel(mut arguments: Options) -> Result<Value> {
    let id = arguments.need_str("device")?;
    let force = arguments.take_bool("force")?.unwrap_or(false);
    job::cancel_block_job(&id, force)?;
    Ok(Value::empty())
}

static BLOCK_JOB_SET_SPEED: CommandType = CommandType::new(
    "block-job-set-speed",
    &ObjectType::new(
        "q_obj_block-job-set-speed-arg",
        &[
            Member::new("device", ValueType::Str),
            Member::new("speed", ValueType::Int),
        ],
    ),
);

fn set_speed(mut arguments: Options) -> Result<Value> {
    let id = arguments.need_str("device")?;
    let speed = arguments.take_int("speed")?.unwrap_or(0);
    job::set_speed(&id, speed)?;
    Ok(Value::empty())
}

static BLOCK_JOB_CHANGE: CommandType = CommandType::new(
    "block-job-change",
    &ObjectType::tagged(
        "BlockJobChangeOptions",
        &[Member::new("id", ValueType::Str)],
        Variants {
            tag: "type",
            tag_type: "JobType",
            cases: || {
                let case = |name: &&'static str| match *name {
                    "mirror" => Case::new(
                        "mirror",
                        &[Member::new("copy-mode", ValueType::Enum(COPY_MODE))],
                    ),
                    other => Case::new(other, &[]),
                };
                JOB_TYPES.iter().map(case).collect()
            },
        },
    ),
);

fn change(mut arguments: Options) -> Result<Value> {
    let id = arguments.need_str("id")?;
    job::change_options(&id, arguments)?;
    Ok(Value::empty())
}

static QUERY_JOBS: CommandType = CommandType::returning(
    "query-jobs",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&ObjectType::new(
        "JobInfo",
        &[
            Member::new("id", ValueType::Str),
            Member::new("type", ValueType::Enum(JOB_TYPE)),
            Member::new("status", ValueType::Enum(JOB_STATUS)),
            Member::new("current-progress", ValueType::Int),
            Member::new("total-progress", ValueType::Int),
            Member::optional("error", ValueType::Str),
        ],
    ))),
);

fn query_jobs(_: Options) -> Result<Value> {
    let describe = |job: &JobInfo| {
        let known = [
            ("current-progress", job.done.into()),
            ("status", job.status.name().into()),
            ("total-progress", job.total.into()),
            ("type", job.kind.name().into()),
            ("id", job.id.as_str().into()),
        ];
        with_error(&known, job)
    };
    Ok(job::list().iter().map(describe).collect())
}

static QUERY_BLOCK_JOBS: CommandType = CommandType::returning(
    "query-block-jobs",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&ObjectType::tagged(
        "BlockJobInfo",
        &[
            Member::new("device", ValueType::Str),
            Member::new("len", ValueType::Int),
            Member::new("offset", ValueType::Int),
            Member::new("busy", ValueType::Bool),
            Member::new("paused", ValueType::Bool),
            Member::new("speed", ValueType::Int),
            Member::new("io-status", ValueType::Enum(IO_STATUS)),
            Member::new("ready", ValueType::Bool),
            Member::new("status", ValueType::Enum(JOB_STATUS)),
            Member::new("auto-finalize", ValueType::Bool),
            Member::new("auto-dismiss", ValueType::Bool),
            Member::optional("error", ValueType::Str),
        ],
        Variants {
            tag: "type",
            tag_type: "JobType",
            cases: || {
                let case = |name: &&'static str| match *name {
                    "mirror" => {
                        Case::new("mirror", &[Member::new("actively-synced", ValueType::Bool)])
                    }
                    other => Case::new(other, &[]),
                };
                JOB_TYPES.iter().map(case).collect()
            },
        },
    ))),
);

fn query_block_jobs(_: Options) -> Result<Value> {
    let describe = |job: &JobInfo| {
        let io_status = if job.has_io_error { "failed" } else { "ok" };
        let known = [
            ("auto-finalize", job.auto_finalize.into()),
            ("io-status", io_status.into()),
            ("device", job.id.as_str().into()),
            ("auto-dismiss", job.auto_dismiss.into()),
            ("busy", job.is_busy.into()),
            ("len", job.total.into()),
            ("offset", job.done.into()),
            ("status", job.status.name().into()),
            ("paused", job.is_paused.into()),
            ("speed", job.speed.into()),
            ("ready", job.status.is_ready().into()),
            ("type", job.kind.name().into()),
        ];
        let is_synced = job.is_actively_synced;
        let is_synced = is_synced.map(|is_synced| ("actively-synced", is_synced.into()));
        let known: Vec<_> = known.into_iter().chain(is_synced).collect();
        with_error(&known, job)
    };
    let jobs = job::list();
    let block_jobs = jobs.iter().filter(|job| job.kind.is_block_job());
    Ok(block_jobs.map(describe).collect())
}

fn with_error(known: &[(&str, Value)], job: &JobInfo) -> Value {
    let error = job.error.iter();
    let error = error.map(|error| ("error", Value::from(error.as_str())));
    let members = known.iter().cloned().chain(error);
    Value::Dict(
        members
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}
