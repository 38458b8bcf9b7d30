//! Events of jobs, for the program that has them. They are QEMU's.
//!
//! The program sets one handler, which passes them on: `qctx` sends them to the clients of its monitors.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use super::running::RunningJob;
use super::state::JobStatus;
use super::table::{JobErrorAction, JobIo};
use crate::object::{Dict, Value};
use crate::schema::{EnumType, EventType, Member, ObjectType, ValueType};

/// Something that management wants to know of a job.
#[derive(Clone, Debug)]
pub struct JobEvent {
    /// What it is.
    pub event: &'static EventType,
    /// Its data.
    pub data: Dict,
}

/// The names of the types of jobs.
pub const JOB_TYPES: [&str; 5] = ["commit", "stream", "mirror", "backup", "create"];

/// The type of a job, in events and answers.
pub const JOB_TYPE: EnumType = EnumType::new("JobType", &JOB_TYPES);

/// The state of a job, in events and answers.
pub const JOB_STATUS: EnumType = EnumType::new(
    "JobStatus",
    &[
        "undefined",
        "created",
        "running",
        "paused",
        "ready",
        "standby",
        "waiting",
        "pending",
        "aborting",
        "concluded",
        "null",
    ],
);

static JOB_STATUS_CHANGE: EventType = EventType::new(
    "JOB_STATUS_CHANGE",
    &ObjectType::new(
        "q_obj_JOB_STATUS_CHANGE-arg",
        &[
            Member::new("id", ValueType::Str),
            Member::new("status", ValueType::Enum(JOB_STATUS)),
        ],
    ),
);

const PROGRESS: [Member; 5] = [
    Member::new("type", ValueType::Enum(JOB_TYPE)),
    Member::new("device", ValueType::Str),
    Member::new("len", ValueType::Int),
    Member::new("offset", ValueType::Int),
    Member::new("speed", ValueType::Int),
];

static BLOCK_JOB_READY: EventType = EventType::new(
    "BLOCK_JOB_READY",
    &ObjectType::new("q_obj_BLOCK_JOB_READY-arg", &PROGRESS),
);

static BLOCK_JOB_CANCELLED: EventType = EventType::new(
    "BLOCK_JOB_CANCELLED",
    &ObjectType::new("q_obj_BLOCK_JOB_CANCELLED-arg", &PROGRESS),
);

static BLOCK_JOB_COMPLETED: EventType = EventType::new(
    "BLOCK_JOB_COMPLETED",
    &ObjectType::new(
        "q_obj_BLOCK_JOB_COMPLETED-arg",
        &[
            PROGRESS[0],
            PROGRESS[1],
            PROGRESS[2],
            PROGRESS[3],
            PROGRESS[4],
            Member::optional("error", ValueType::Str),
        ],
    ),
);

static BLOCK_JOB_PENDING: EventType = EventType::new(
    "BLOCK_JOB_PENDING",
    &ObjectType::new(
        "q_obj_BLOCK_JOB_PENDING-arg",
        &[
            Member::new("type", ValueType::Enum(JOB_TYPE)),
            Member::new("id", ValueType::Str),
        ],
    ),
);

static BLOCK_JOB_ERROR: EventType = EventType::new(
    "BLOCK_JOB_ERROR",
    &ObjectType::new(
        "q_obj_BLOCK_JOB_ERROR-arg",
        &[
            Member::new("device", ValueType::Str),
            Member::new(
                "operation",
                ValueType::Enum(EnumType::new("IoOperationType", &["read", "write"])),
            ),
            Member::new(
                "action",
                ValueType::Enum(EnumType::new(
                    "BlockErrorAction",
                    &["ignore", "report", "stop"],
                )),
            ),
        ],
    ),
);

/// The events of jobs.
pub static JOB_EVENTS: [&EventType; 6] = [
    &BLOCK_JOB_ERROR,
    &JOB_STATUS_CHANGE,
    &BLOCK_JOB_READY,
    &BLOCK_JOB_CANCELLED,
    &BLOCK_JOB_COMPLETED,
    &BLOCK_JOB_PENDING,
];

type JobEventHandler = Arc<dyn Fn(JobEvent) + Send + Sync>;

static HANDLER: Mutex<Option<JobEventHandler>> = Mutex::new(None);

/// Calls `handler` with each event of a job, in place of an earlier handler. It runs on any thread, without a lock, and is called
/// for one event at a time.
pub fn on_event(handler: impl Fn(JobEvent) + Send + Sync + 'static) {
    let new: JobEventHandler = Arc::new(handler);
    let old = HANDLER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .replace(new);
    drop(old);
}

pub(super) fn status_changed(control: &RunningJob, status: JobStatus) {
    emit(
        &JOB_STATUS_CHANGE,
        [
            ("status", status.name().into()),
            ("id", control.id.as_str().into()),
        ],
    );
}

pub(super) fn ready(control: &RunningJob) {
    emit_of_block_job(&BLOCK_JOB_READY, control, progress(control));
}

pub(super) fn cancelled(control: &RunningJob) {
    emit_of_block_job(&BLOCK_JOB_CANCELLED, control, progress(control));
}

pub(super) fn completed(control: &RunningJob, error: Option<String>) {
    let error = error.map(|error| ("error", error.into()));
    let data = progress(control).into_iter().chain(error);
    emit_of_block_job(&BLOCK_JOB_COMPLETED, control, data);
}

pub(super) fn pending(control: &RunningJob) {
    let data = [
        ("type", control.kind.name().into()),
        ("id", control.id.as_str().into()),
    ];
    emit_of_block_job(&BLOCK_JOB_PENDING, control, data);
}

pub(super) fn request_failed(control: &RunningJob, io: JobIo, action: JobErrorAction) {
    let operation = match io {
        JobIo::Read => "read",
        JobIo::Write => "write",
    };
    let action = match action {
        JobErrorAction::Report => "report",
        JobErrorAction::Ignore => "ignore",
        JobErrorAction::Stop => "stop",
    };
    let data = [
        ("device", control.id.as_str().into()),
        ("operation", operation.into()),
        ("action", action.into()),
    ];
    emit_of_block_job(&BLOCK_JOB_ERROR, control, data);
}

fn progress(control: &RunningJob) -> [(&'static str, Value); 5] {
    let (done, total) = control.progress();
    [
        ("device", control.id.as_str().into()),
        ("len", total.into()),
        ("offset", done.into()),
        ("speed", control.speed().into()),
        ("type", control.kind.name().into()),
    ]
}

fn emit_of_block_job(
    event: &'static EventType,
    control: &RunningJob,
    data: impl IntoIterator<Item = (&'static str, Value)>,
) {
    if control.kind.is_block_job() {
        emit(event, data);
    }
}

fn emit(event: &'static EventType, data: impl IntoIterator<Item = (&'static str, Value)>) {
    let data = data.into_iter();
    let data = data.map(|(name, value)| (name.to_owned(), value)).collect();
    let handler = HANDLER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some(handler) = handler {
        handler(JobEvent { event, data });
    }
}
