//! A test that cannot run here says so, visibly, and passes; `make test` counts it as skipped.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::Write;

/// Reports the calling test as skipped.
pub fn skip(reason: impl Display) {
    skip_case(std::thread::current().name().unwrap_or("?"), reason);
}

/// Reports a test, or a case of one, as skipped. Written past the capture of the test harness, as one line that starts with
/// `SKIP: `.
pub fn skip_case(name: &str, reason: impl Display) {
    let line = format!("\nSKIP: {name}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
