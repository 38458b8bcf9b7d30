//! Processor time of processes, threads and the machine, from /proc.
#![forbid(unsafe_code)]
#![allow(dead_code)] // each benchmark uses a part

use std::fs;

use super::Result;

/// Nanoseconds that all the threads of a process have run, its io_uring workers included.
pub(crate) fn of_process(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        sum += text.split(' ').next().unwrap_or("").parse::<u64>()?;
    }
    Ok(sum)
}

/// Nanoseconds that a thread of this process has run.
pub(crate) fn of_thread(id: i64) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/task/{id}/schedstat"))?;
    Ok(text.split(' ').next().unwrap_or("").parse()?)
}

/// How often a thread of this process has left its processor, of its own will or not.
pub(crate) fn switches_of_thread(id: i64) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/task/{id}/status"))?;
    let mut sum = 0;
    for line in text.lines() {
        if let Some((name, number)) = line.split_once(':')
            && name.ends_with("voluntary_ctxt_switches")
        {
            sum += number.trim().parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// Nanoseconds that all the processors were busy, in steps of 10 ms.
pub(crate) fn of_machine() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let first = text.lines().next().unwrap_or("");
    let ticks: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .flat_map(str::parse)
        .collect();
    // user nice system idle iowait irq softirq steal
    let busy = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|&index| ticks.get(index))
        .sum::<u64>();
    Ok(busy * 10_000_000)
}
