//! Event loops side by side: ours, the bare kernel calls, and others.
//!
//! `loops [--quick] [--no-syscalls] [--out DIRECTORY] [WORD...]`: words choose workloads by name or size; the directory
//! gets the report as text and JSON, and the plots.
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
mod plot;
mod report;
mod syscalls;
mod target;
mod workload;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use measure::{Effort, Measured};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Arguments {
    effort: Effort,
    count_syscalls: bool,
    out: Option<PathBuf>,
    words: Vec<String>,
}

impl Arguments {
    fn parse(mut all: impl Iterator<Item = String>) -> Result<Arguments> {
        let mut arguments = Arguments {
            effort: Effort::FULL,
            count_syscalls: true,
            out: None,
            words: Vec::new(),
        };
        while let Some(word) = all.next() {
            match word.as_str() {
                "--quick" => {
                    arguments.effort = Effort::QUICK;
                    arguments.count_syscalls = false;
                }
                "--no-syscalls" => arguments.count_syscalls = false,
                "--out" => {
                    arguments.out = Some(all.next().ok_or("--out needs a directory")?.into());
                }
                word if word.starts_with('-') => {
                    return Err(format!("unknown option {word}").into());
                }
                _ => arguments.words.push(word),
            }
        }
        Ok(arguments)
    }
}

fn measure_all(arguments: &Arguments) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for workload in catalogue::all() {
        if workload.is_chosen(&arguments.words) {
            let measured = measure::measure(&workload, arguments.effort)
                .map_err(|error| format!("{}: {error}", workload.title()))?;
            println!("{}", report::table(&measured));
            all.push(measured);
        }
    }
    Ok(all)
}

/// Writes the report and the plots.
fn write(out: &Path, text: &str, machine: &str, all: &[Measured]) -> Result<()> {
    fs::create_dir_all(out)?;
    fs::write(out.join("loops.md"), text)?;
    fs::write(out.join("loops.json"), report::json(machine, all))?;
    for rows in all.chunk_by(|a, b| a.name == b.name) {
        let plot = plot::svg(&rows.iter().collect::<Vec<_>>());
        fs::write(out.join(format!("{}.svg", rows[0].name)), plot)?;
    }
    Ok(())
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    machine::allow_files()?;
    if words.first().is_some_and(|word| word == "--cell") {
        return syscalls::run_cell(&words[1..]);
    }
    let arguments = Arguments::parse(words.into_iter())?;
    let before = machine::line();
    let before = format!("{before}{}\n\n{}", arguments.effort.note(), report::LEGEND);
    println!("{before}");
    let all = measure_all(&arguments)?;
    let mut end = report::flatness(&all);
    if arguments.count_syscalls {
        end += &format!("\n{}", syscalls::table(&arguments.words));
    }
    let after = machine::line();
    println!("{end}\n{after}");
    if let Some(out) = &arguments.out {
        let tables: Vec<String> = all.iter().map(report::table).collect();
        let text = format!("{before}\n{}\n{end}\n{after}\n", tables.join("\n"));
        write(out, &text, &after, &all)?;
        println!("written to {}", out.display());
    }
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
