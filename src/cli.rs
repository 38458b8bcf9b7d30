//! The command line of `qctx`.
//!
//! With options, the program serves the devices that they describe. With a subcommand, it queries a running `qctx` over its QMP
//! socket. Without arguments, it runs a demonstration. Each error is a message in QEMU's form,
//! `qctx: -object ...: what is wrong`, and exit status 1.
#![deny(unsafe_code)] // modules that need it say why

mod client;
mod commands;
mod daemon;
mod demo;
mod devices;
mod ending;
mod failure;
mod fd_limit;
mod guest;
mod help;
mod job_control;
mod main_loop;
mod output;
mod pidfile;
mod plan;
mod qom;
mod run;
mod signal;

use std::ffi::OsString;
use std::process::ExitCode;

use failure::Failure;
use output::print;

/// Runs the program with these arguments, without its own name.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match decode(arguments).and_then(|arguments| dispatch(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::FAILURE
        }
    }
}

fn decode(arguments: impl Iterator<Item = OsString>) -> Result<Vec<String>, Failure> {
    let text = |argument: OsString| {
        argument.into_string().map_err(|argument| {
            let shown = argument.to_string_lossy().into_owned();
            Failure::new(shown, "the argument is not valid UTF-8")
        })
    };
    arguments.map(text).collect()
}

fn dispatch(arguments: &[String]) -> Result<(), Failure> {
    devices::register_models();
    qcontext::kvm::microvm::register_type();
    if let Some(request) = qom::parse(arguments)? {
        return request.run();
    }
    match plan::parse(arguments)? {
        plan::Invocation::Print(text) => {
            print(&text);
            Ok(())
        }
        plan::Invocation::Run(plan) => run::run(*plan),
        plan::Invocation::Demonstrate => demo::run(),
    }
}
