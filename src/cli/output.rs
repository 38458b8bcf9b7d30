//! What the program writes for its user. A reader that left early is no error.
#![forbid(unsafe_code)]

use std::io::Write;

/// Writes to standard output.
pub(super) fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes());
    let _ = output.flush();
}

/// Writes a line to standard error.
pub(super) fn warn(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
