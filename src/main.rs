//! The `qctx` program: serves virtual devices on named event loops, and manages a running instance.
#![deny(unsafe_code)] // modules that need it say why
#![deny(missing_docs)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os().skip(1))
}
