//! Processor time of processes, threads and the machine, from /proc.
#![forbid(unsafe_code)]

use std::{fs, io};

fn first_number(text: &str) -> io::Result<u64> {
    let word = text.split_whitespace().next().unwrap_or("");
    word.parse().map_err(io::Error::other)
}

/// Nanoseconds that all the threads of a process have run, its io_uring workers included.
pub fn of_process(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        sum += first_number(&text)?;
    }
    Ok(sum)
}

/// Nanoseconds that a thread of this process has run.
pub fn of_thread(id: i64) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/task/{id}/schedstat"))?;
    first_number(&text)
}

/// How often a thread of this process has left its processor, of its own will or not.
pub fn switches_of_thread(id: i64) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/task/{id}/status"))?;
    let mut sum = 0;
    for line in text.lines() {
        if let Some((name, number)) = line.split_once(':')
            && name.ends_with("voluntary_ctxt_switches")
        {
            sum += first_number(number)?;
        }
    }
    Ok(sum)
}

/// Nanoseconds that all the processors were busy, in steps of 10 ms.
pub fn of_machine() -> io::Result<u64> {
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
