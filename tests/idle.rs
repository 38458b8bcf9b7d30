//! A `qctx` that has nothing to do does nothing: it is not woken up, it does not poll.
#![deny(unsafe_code)] // writer.rs allows itself one mapping
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

#[path = "support/server.rs"]
mod server;
#[path = "support/writer.rs"]
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use server::{Server, WorkDir, wait_for};
use writer::Writer;

/// How long the program is watched.
const WATCHED: Duration = Duration::from_secs(2);

/// What each thread of a process has done so far: how often it was woken up or interrupted, and the processor time it used.
fn activity(server: &Server) -> BTreeMap<String, (u64, u64)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    tasks
        .map(|task| {
            let task = task.unwrap().path();
            (name(&task), (switches(&task), ticks(&task)))
        })
        // io_uring's workers are the kernel's, which ends them after a while.
        .filter(|(name, _)| !name.starts_with("iou-"))
        .collect()
}

fn name(task: &Path) -> String {
    let name = fs::read_to_string(task.join("comm")).unwrap();
    format!("{} {}", name.trim(), task.display())
}

/// A thread that is woken up goes to sleep again, which is a voluntary switch.
fn switches(task: &Path) -> u64 {
    let status = fs::read_to_string(task.join("status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

/// User and system time in clock ticks.
fn ticks(task: &Path) -> u64 {
    let stat = fs::read_to_string(task.join("stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let number = |index: usize| fields[index].parse::<u64>().unwrap();
    number(11) + number(12)
}

/// Waits until the program has come to rest, and then makes sure that it stays there.
fn stays_asleep(server: &Server) {
    let mut before = activity(server);
    wait_for("the program to come to rest", || {
        thread::sleep(Duration::from_millis(100));
        let now = activity(server);
        let rested = now == before;
        before = now;
        rested.then_some(())
    });
    thread::sleep(WATCHED);
    assert_eq!(
        activity(server),
        before,
        "wake-ups and clock ticks by thread"
    );
}

/// Twenty disks on two contexts, as words of a command line.
fn twenty_disks() -> Vec<String> {
    let mut words = vec![];
    for context in 0..2 {
        words.push("-object".to_owned());
        words.push(format!("qcontext,id=ctx{context},threaded=yes"));
    }
    for number in 0..20 {
        let context = number % 2;
        words.push("-drive".to_owned());
        words.push(format!(
            "if=none,id=d{number},file=disk{number}.raw,format=raw"
        ));
        words.push("-device".to_owned());
        words.push(format!(
            "virtio-blk,id=disk{number},drive=d{number},num-queues=4,x-data-plane=on,context=ctx{context},vhost-user=disk{number}.sock"
        ));
    }
    words
}

fn start(directory: &WorkDir) -> Server {
    for number in 0..20 {
        directory.image(&format!("disk{number}.raw"), 8);
    }
    let words = twenty_disks();
    Server::start(
        directory,
        &words.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

#[test]
fn twenty_disks_that_nobody_uses_wake_nobody() {
    let directory = WorkDir::new();
    let mut server = start(&directory);
    stays_asleep(&server);
    server.stop();
}

#[test]
fn connected_drivers_that_rest_wake_nobody() {
    let directory = WorkDir::new();
    let mut server = start(&directory);
    let mut writers: Vec<Writer> = (0..20)
        .map(|number| Writer::connect(&directory.socket(&format!("disk{number}.sock"))))
        .collect();
    for writer in &mut writers {
        writer.write_until(100);
        writer.finish();
    }
    stays_asleep(&server);
    server.stop();
}
