//! Nice value and scheduling policy of a thread, by setpriority(2) and sched_setscheduler(2).
#![allow(unsafe_code)] // these system calls

use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// How the kernel chooses when a context's thread runs; see sched(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedPolicy {
    /// As most threads.
    Other,
    /// As a thread that computes, which wakes up a little later.
    Batch,
    /// When there is nothing else to run.
    Idle,
    /// Real time with this priority, until it sleeps.
    Fifo(u8),
    /// Real time with this priority, in turns with others of the same.
    Rr(u8),
}

impl SchedPolicy {
    /// The name without the priority.
    fn name(self) -> &'static str {
        match self {
            SchedPolicy::Other => "other",
            SchedPolicy::Batch => "batch",
            SchedPolicy::Idle => "idle",
            SchedPolicy::Fifo(_) => "fifo",
            SchedPolicy::Rr(_) => "rr",
        }
    }

    fn number(self) -> libc::c_int {
        match self {
            SchedPolicy::Other => libc::SCHED_OTHER,
            SchedPolicy::Batch => libc::SCHED_BATCH,
            SchedPolicy::Idle => libc::SCHED_IDLE,
            SchedPolicy::Fifo(_) => libc::SCHED_FIFO,
            SchedPolicy::Rr(_) => libc::SCHED_RR,
        }
    }

    /// The real-time priority; 0 for the others.
    fn priority(self) -> u8 {
        match self {
            SchedPolicy::Fifo(priority) | SchedPolicy::Rr(priority) => priority,
            _ => 0,
        }
    }
}

impl fmt::Display for SchedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.priority() {
            0 => f.write_str(self.name()),
            priority => write!(f, "{}:{priority}", self.name()),
        }
    }
}

impl FromStr for SchedPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<SchedPolicy> {
        let (name, priority) = match text.split_once(':') {
            Some((name, priority)) => (name, priority.parse().ok()),
            None => (text, None),
        };
        let is_real_time = priority.is_some_and(|priority| REAL_TIME.contains(&priority));
        match (name, priority) {
            ("other", None) if name == text => Ok(SchedPolicy::Other),
            ("batch", None) if name == text => Ok(SchedPolicy::Batch),
            ("idle", None) if name == text => Ok(SchedPolicy::Idle),
            ("fifo", Some(priority)) if is_real_time => Ok(SchedPolicy::Fifo(priority)),
            ("rr", Some(priority)) if is_real_time => Ok(SchedPolicy::Rr(priority)),
            _ => {
                let message = format!(
                    "a policy is 'other', 'batch', 'idle', 'fifo:N' or 'rr:N' with N from 1 to 99, not '{text}'"
                );
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }
}

/// Linux's real-time priorities.
const REAL_TIME: RangeInclusive<u8> = 1..=99;

const NICE: RangeInclusive<i64> = -20..=19;

pub(super) fn nice(thread_id: i64) -> Result<i64> {
    let id = id(thread_id)?;
    // The call itself answers 20 - nice, so -1 is a failure.
    // SAFETY: takes numbers.
    match unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, id) } {
        -1 => Err(Error::last_os("cannot read the nice value")),
        answer => Ok(20 - answer),
    }
}

pub(super) fn set_nice(thread_id: i64, nice: i64) -> Result<()> {
    let Some(wanted) = libc::c_int::try_from(nice)
        .ok()
        .filter(|_| NICE.contains(&nice))
    else {
        let message = format!("a nice value is from -20 to 19, not {nice}");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    };
    // SAFETY: takes numbers.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, id(thread_id)?, wanted) } == 0 {
        return Ok(());
    }
    let needed = Needed {
        what: nice.to_string(),
        limit: (libc::RLIMIT_NICE, "RLIMIT_NICE"),
        value: 20 - nice,
        how: "ulimit -e, LimitNICE=",
    };
    Err(needed.explain(io::Error::last_os_error()))
}

pub(super) fn policy(thread_id: i64) -> Result<SchedPolicy> {
    let failed = || Error::last_os("cannot read the scheduling policy");
    let id = pid(thread_id)?;
    // SAFETY: takes a number.
    let number = unsafe { libc::sched_getscheduler(id) };
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: a valid place for the parameters.
    if number < 0 || unsafe { libc::sched_getparam(id, &raw mut param) } != 0 {
        return Err(failed());
    }
    let priority = u8::try_from(param.sched_priority).unwrap_or(0);
    match number & !libc::SCHED_RESET_ON_FORK {
        libc::SCHED_OTHER => Ok(SchedPolicy::Other),
        libc::SCHED_BATCH => Ok(SchedPolicy::Batch),
        libc::SCHED_IDLE => Ok(SchedPolicy::Idle),
        libc::SCHED_FIFO => Ok(SchedPolicy::Fifo(priority)),
        libc::SCHED_RR => Ok(SchedPolicy::Rr(priority)),
        other => {
            let message = format!("the thread has the policy {other}, which has no name here");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

pub(super) fn set_policy(thread_id: i64, policy: SchedPolicy) -> Result<()> {
    let priority = policy.priority();
    if matches!(policy, SchedPolicy::Fifo(_) | SchedPolicy::Rr(_)) && !REAL_TIME.contains(&priority)
    {
        let message = format!("a real-time priority is from 1 to 99, not {priority}");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let param = libc::sched_param {
        sched_priority: priority.into(),
    };
    // SAFETY: the parameters are valid for the call.
    if unsafe { libc::sched_setscheduler(pid(thread_id)?, policy.number(), &raw const param) } == 0
    {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let what = policy.to_string();
    let needed = match policy {
        SchedPolicy::Fifo(_) | SchedPolicy::Rr(_) => Needed {
            what,
            limit: (libc::RLIMIT_RTPRIO, "RLIMIT_RTPRIO"),
            value: priority.into(),
            how: "ulimit -r, LimitRTPRIO=",
        },
        // For the kernel, a thread that leaves `idle` becomes nicer to itself.
        _ => Needed {
            what,
            limit: (libc::RLIMIT_NICE, "RLIMIT_NICE"),
            value: 20 - nice(thread_id)?,
            how: "ulimit -e, LimitNICE=",
        },
    };
    Err(needed.explain(error))
}

/// What the kernel wants to see before it runs a thread earlier than others.
struct Needed {
    what: String,
    limit: (libc::__rlimit_resource_t, &'static str),
    value: i64,
    how: &'static str,
}

impl Needed {
    fn explain(&self, error: io::Error) -> Error {
        let Needed {
            what, value, how, ..
        } = self;
        if !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
            return Error::os(format!("cannot set {what}"), error);
        }
        let (limit, name) = self.limit;
        let now = soft(limit);
        let message = format!(
            "{what} needs the capability CAP_SYS_NICE, or the limit {name} at {value}, which is {now} ({how})"
        );
        Error::os(message, error)
    }
}

fn soft(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid place.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    limit.rlim_cur
}

fn pid(thread_id: i64) -> Result<libc::pid_t> {
    // 0 would be the calling thread.
    let id = libc::pid_t::try_from(thread_id).ok().filter(|id| *id > 0);
    id.ok_or_else(|| Error::new(ErrorKind::Closed, "the thread has ended"))
}

fn id(thread_id: i64) -> Result<libc::id_t> {
    Ok(pid(thread_id)?.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_written_as_they_are_read() {
        for text in ["other", "batch", "idle", "fifo:1", "rr:99"] {
            assert_eq!(text.parse::<SchedPolicy>().unwrap().to_string(), text);
        }
        for wrong in [
            "", "fifo", "fifo:", "fifo:0", "rr:100", "other:1", "idle:", "FIFO:1", "rr:-1",
        ] {
            let error = wrong.parse::<SchedPolicy>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{wrong}");
        }
    }
}
