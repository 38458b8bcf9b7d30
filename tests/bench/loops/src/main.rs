//! Event loops side by side: ours, the bare kernel calls, and others.
//!
//! `loops [--quick] [--json FILE] [--plots DIRECTORY] [WORD...]`: words choose workloads by name or size.
#![deny(unsafe_code)] // each file that needs it says so

mod catalogue;
mod cell;
mod clock;
mod epoll;
mod event_loop;
mod eventfd;
mod loops;
mod machine;
mod measure;
mod report;
mod workload;

use std::error::Error;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn run() -> Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let quick = words.iter().any(|word| word == "--quick");
    words.retain(|word| !word.starts_with('-'));
    let effort = if quick {
        measure::Effort::QUICK
    } else {
        measure::Effort::FULL
    };
    machine::allow_files()?;
    println!("{}", machine::line());
    for workload in catalogue::all() {
        if workload.is_chosen(&words) {
            let measured = measure::measure(&workload, effort)
                .map_err(|error| format!("{}: {error}", workload.title()))?;
            report::print(&workload, &measured);
        }
    }
    println!("\n{}", machine::line());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loops: {error}");
            ExitCode::FAILURE
        }
    }
}
