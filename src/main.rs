//! The `qctx` program.
#![forbid(unsafe_code)]

fn main() {}
