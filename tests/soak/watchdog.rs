//! Ends the process with a report when an actor makes no step for long, or when the books are wrong.
#![allow(unsafe_code)] // prctl(2), so that a debugger may look

use std::fmt::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No step takes so long, also not under a sanitizer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an actor does now.
#[derive(Clone, Debug)]
pub struct Step {
    what: &'static str,
    /// The place or context it does it to.
    with: String,
    number: u64,
    since: Instant,
}

/// The last step of an actor, for the watchdog to read.
pub struct Log(Mutex<Step>);

impl Log {
    pub fn new() -> Arc<Log> {
        let log = Arc::new(Log(Mutex::new(Step {
            what: "start",
            with: String::new(),
            number: 0,
            since: Instant::now(),
        })));
        SCENE.lock().unwrap().logs.push(Arc::clone(&log));
        log
    }

    pub fn step(&self, what: &'static str, with: impl FnOnce() -> String) {
        let mut step = self.0.lock().unwrap();
        step.what = what;
        step.with = with();
        step.number += 1;
        step.since = Instant::now();
    }

    fn read(&self) -> Step {
        self.0.lock().unwrap().clone()
    }
}

type State = Box<dyn Fn() -> String + Send>;

/// What is printed when the test hangs.
struct Scene {
    logs: Vec<Arc<Log>>,
    states: Vec<State>,
}

static SCENE: Mutex<Scene> = Mutex::new(Scene {
    logs: Vec::new(),
    states: Vec::new(),
});

/// Adds something to the report.
pub fn show(state: impl Fn() -> String + Send + 'static) {
    SCENE.lock().unwrap().states.push(Box::new(state));
}

/// Watches until it is dropped.
pub struct Watch {
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn begin() -> Watch {
        let (alive, gone) = channel();
        let watch = move || {
            while gone.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                let logs = SCENE.lock().unwrap().logs.clone();
                if logs.iter().any(|log| log.read().since.elapsed() > PATIENCE) {
                    fail("an actor hangs");
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(watch);
        Watch {
            alive: Some(alive),
            thread: thread.ok(),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.alive.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "the watchdog has watched");
        let mut scene = SCENE.lock().unwrap();
        let states = std::mem::take(&mut scene.states);
        scene.logs = Vec::new();
        drop(scene);
        drop(states);
    }
}

/// Prints where everybody is and ends the process.
pub fn fail(why: &str) -> ! {
    eprintln!("soak: {why}\n{}", report());
    print_backtraces();
    std::process::abort();
}

fn report() -> String {
    let mut text = String::new();
    let Ok(scene) = SCENE.try_lock() else {
        return "(the report is being written)".into();
    };
    for (index, log) in scene.logs.iter().enumerate() {
        let step = log.read();
        let (what, with, number) = (step.what, step.with, step.number);
        let age = step.since.elapsed();
        writeln!(
            text,
            "actor {index}: step {number}, {what} {with}, for {age:?}"
        )
        .expect("a string");
    }
    for state in &scene.states {
        writeln!(text, "{}", state()).expect("a string");
    }
    text + &threads()
}

/// What the kernel says of each thread.
fn threads() -> String {
    let mut text = String::new();
    for task in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (comm, wchan, syscall) = (read("comm"), read("wchan"), read("syscall"));
        let (comm, syscall) = (comm.trim(), syscall.trim());
        writeln!(text, "{:?} {comm}: {wchan} {syscall}", task.file_name()).expect("a string");
    }
    text
}

/// Lets a debugger write to our standard error; it stops us, so we could not read from it.
fn print_backtraces() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    let pid = std::process::id().to_string();
    let all = "thread apply all backtrace 48";
    let mut debugger = Command::new("timeout");
    debugger.args(["60", "gdb", "-p", &pid, "-batch", "-ex", all]);
    debugger.stdin(Stdio::null());
    if let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() {
        debugger.stdout(stderr);
    }
    if !debugger.status().is_ok_and(|status| status.success()) {
        eprintln!("(no backtraces: gdb is not installed, or was too slow)");
    }
}
