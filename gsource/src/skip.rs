//! A unit test that cannot run here says so. (The tests outside have the same in their support crate.)
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::Write;

/// Reports the calling test, or a case of it, as skipped: past the capture of the test harness, as one line that starts with
/// `SKIP: `.
pub(crate) fn skip(reason: impl Display) {
    let thread = std::thread::current();
    let line = format!("\nSKIP: {}: {reason}\n", thread.name().unwrap_or("?"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
