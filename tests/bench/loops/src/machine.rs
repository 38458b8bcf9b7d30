//! The machine: what it is, how busy it is, and how a thread gets a processor for itself.
#![allow(unsafe_code)] // sched_setaffinity(2), sched_setscheduler(2), setrlimit(2)

use std::{fs, io, thread};

use super::Result;

/// Enough fds for 10000 idle ones and those of all the loops.
const FILES: u64 = 65_536;

fn word(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().into()
}

/// The line of a report that says what the figures were measured on.
pub(crate) fn line() -> String {
    let load = word("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let cpus = cpus();
    let kernel = word("/proc/sys/kernel/osrelease");
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "))
        .unwrap_or("unknown processor");
    format!("{cpus} x {model}, Linux {kernel}, load {}", load.join(" "))
}

pub(crate) fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// # Errors
/// When there are fewer processors.
pub(crate) fn require_cpus(count: usize) -> Result<()> {
    let there = cpus();
    if there < count {
        return Err(format!("needs {count} processors, there are {there}").into());
    }
    Ok(())
}

/// Keeps the calling thread on one processor, if that exists.
pub(crate) fn pin(cpu: usize) {
    // SAFETY: an all-zero set is an empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is far below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is valid for the call.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// Puts the calling thread before everything that is not real-time, or takes it back. False when that is not allowed.
pub(crate) fn real_time(policy: RealTime) -> bool {
    let (policy, priority) = match policy {
        RealTime::On => (libc::SCHED_FIFO, 1),
        RealTime::Off => (libc::SCHED_OTHER, 0),
    };
    let param = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameter is valid for the call.
    unsafe { libc::sched_setscheduler(0, policy, &raw const param) == 0 }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RealTime {
    On,
    Off,
}

/// Allows as many fds as the workloads need, or as many as it can.
pub(crate) fn allow_files() -> Result<()> {
    let wanted = libc::rlimit {
        rlim_cur: FILES,
        rlim_max: FILES,
    };
    // SAFETY: the limit is valid for the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) } == 0 {
        return Ok(());
    }
    let mut limit = wanted;
    // SAFETY: the buffer is an rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the limit is valid for the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}
