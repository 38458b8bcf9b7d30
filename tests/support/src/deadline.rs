//! A test that hangs ends its process, with its name, instead of the patience of the one who waits.
#![forbid(unsafe_code)]

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// No test takes this long. Never what orders events.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Aborts the process unless it is dropped in time.
#[derive(Debug)]
#[must_use]
pub struct Deadline(#[allow(dead_code)] Sender<()>);

/// The deadline of the test of this name.
pub fn deadline(test: &str) -> Deadline {
    let (alive, ended) = channel::<()>();
    let test = test.to_owned();
    std::thread::spawn(move || {
        if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{test} hangs");
            std::process::abort();
        }
    });
    Deadline(alive)
}

/// Asks until there is an answer; the pause only saves processor time.
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
