//! A `qctx` that has nothing to do does nothing: it is not woken up, it does not poll.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use support::deadline::wait_for;
use support::directory::TestDir;
use support::server::Server;
use support::skip::skip;
use support::writer::Writer;

/// How long the program is watched.
const WATCHED: Duration = Duration::from_secs(2);

/// For each thread of a process how often it was woken up or interrupted, and its processor time; nothing for a thread that
/// does not sleep.
fn activity(server: &Server) -> BTreeMap<String, Option<(u64, u64)>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    tasks
        .map(|task| {
            let task = task.unwrap().path();
            let done = (switches(&task), ticks(&task));
            (name(&task), is_asleep(&task).then_some(done))
        })
        // io_uring's workers are threads of the kernel, which ends them after a while.
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

/// The fields of a thread's `stat` behind its name.
fn stat(task: &Path) -> Vec<String> {
    let stat = fs::read_to_string(task.join("stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    after_name.split(' ').map(str::to_owned).collect()
}

/// On a busy machine a thread may wait for a processor for long; then it does not sleep.
fn is_asleep(task: &Path) -> bool {
    stat(task)[0] == "S"
}

/// User and system time in clock ticks.
fn ticks(task: &Path) -> u64 {
    let fields = stat(task);
    let number = |index: usize| fields[index].parse::<u64>().unwrap();
    number(11) + number(12)
}

/// Waits until the program has come to rest, and then makes sure that it stays there.
fn stays_asleep(server: &Server) {
    let mut before = activity(server);
    wait_for("the program to come to rest", || {
        thread::sleep(Duration::from_millis(100));
        let now = activity(server);
        let rested = now == before && now.values().all(Option::is_some);
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

/// The waits of a context.
const WAITS: [libc::c_long; 5] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_io_uring_enter,
];

/// A wait with this flag of io_uring_enter(2) is not one for I/O (`IORING_ENTER_NO_IOWAIT`).
const NO_IOWAIT: u64 = 1 << 7;

/// Makes sure that the thread `context` waits, and no thread of the program for I/O: then its processor would count as
/// waiting, not as idle. The kernel says which system call each one is in; only a wait in an io_uring can be such a wait
/// here, and there its flags tell. False where the kernel does not let us ask.
fn waits_for_no_io(server: &Server, context: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let mut found = false;
    for task in tasks {
        let task = task.unwrap().path();
        let Ok(call) = fs::read_to_string(task.join("syscall")) else {
            return false;
        };
        let name = name(&task);
        if name.starts_with("iou-") {
            continue;
        }
        let words: Vec<&str> = call.split_whitespace().collect();
        let number: libc::c_long = words[0].parse().unwrap_or(-1);
        if number == libc::SYS_io_uring_enter {
            let flags = u64::from_str_radix(words[4].trim_start_matches("0x"), 16).unwrap();
            assert!(flags & NO_IOWAIT != 0, "{name} waits for I/O: {call}");
        }
        if name.starts_with(&format!("{context} ")) {
            assert!(WAITS.contains(&number), "{name} does not wait: {call}");
            found = true;
        }
    }
    assert!(found, "no thread {context}");
    true
}

/// Disks spread over contexts.
struct Fleet {
    contexts: usize,
    disks: usize,
    queues: usize,
    poller: &'static str,
}

/// Twenty disks of four queues on two contexts.
const TWENTY: Fleet = Fleet {
    contexts: 2,
    disks: 20,
    queues: 4,
    poller: "epoll",
};

impl Fleet {
    /// As words of a command line.
    fn words(&self) -> Vec<String> {
        let Fleet { queues, poller, .. } = self;
        let mut words = vec![];
        for context in 0..self.contexts {
            words.push("-object".to_owned());
            words.push(format!(
                "qcontext,id=ctx{context},threaded=yes,poller={poller}"
            ));
        }
        for number in 0..self.disks {
            let context = number % self.contexts;
            words.push("-drive".to_owned());
            words.push(format!(
                "if=none,id=d{number},file=disk{number}.raw,format=raw"
            ));
            words.push("-device".to_owned());
            words.push(format!(
                "virtio-blk,id=disk{number},drive=d{number},num-queues={queues},x-data-plane=on,context=ctx{context},vhost-user=disk{number}.sock"
            ));
        }
        words
    }

    fn start(&self, directory: &TestDir) -> Server {
        for number in 0..self.disks {
            directory.image(&format!("disk{number}.raw"), 8);
        }
        let words = self.words();
        Server::start(
            directory,
            &words.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    }

    /// A driver for each disk, which has written something and rests.
    fn drive(&self, directory: &TestDir) -> Vec<Writer> {
        let mut writers: Vec<Writer> = (0..self.disks)
            .map(|number| Writer::connect(&directory.socket(&format!("disk{number}.sock"))))
            .collect();
        for writer in &mut writers {
            writer.write_until(100);
            writer.finish();
        }
        writers
    }
}

#[test]
fn twenty_disks_that_nobody_uses_wake_nobody() {
    let directory = TestDir::new();
    let mut server = TWENTY.start(&directory);
    stays_asleep(&server);
    server.stop();
}

#[test]
fn connected_drivers_that_rest_wake_nobody() {
    let directory = TestDir::new();
    let mut server = TWENTY.start(&directory);
    let writers = TWENTY.drive(&directory);
    stays_asleep(&server);
    drop(writers);
    server.stop();
}

fn a_hundred_disks_rest(poller: &'static str) {
    let fleet = Fleet {
        contexts: 1,
        disks: 100,
        queues: 1,
        poller,
    };
    let directory = TestDir::new();
    let mut server = fleet.start(&directory);
    let writers = fleet.drive(&directory);
    stays_asleep(&server);
    if !waits_for_no_io(&server, "ctx0") {
        skip(
            "/proc/<pid>/task/<tid>/syscall may not be read: nobody knows in which wait a thread is",
        );
    }
    drop(writers);
    server.stop();
}

#[test]
fn a_context_with_a_hundred_disks_rests_in_epoll() {
    a_hundred_disks_rest("epoll");
}

#[test]
fn a_context_with_a_hundred_disks_rests_with_io_uring_and_does_not_count_as_waiting_for_io() {
    a_hundred_disks_rest("io_uring");
}
