//! What a global lock costs: several disks on one context, on a context each, and on a context each with one big lock
//! taken around every dispatch, as virtual machines had it before their devices had threads of their own.
//!
//! `contention [--quick] [--out DIRECTORY] [WORD...]`: words choose cases by kind or number of devices; the directory gets
//! the report and the plot. The arrangements take turns, slice by slice, so that whatever else the machine does hits all of
//! them; the figures are medians of the slices.
#![deny(unsafe_code)] // each file that needs it says so

mod case;
mod driver;
mod figures;
mod lock;
mod plot;
mod priority;
mod report;
mod rig;
mod work;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use case::{Arrangement, Case, Effort};
use figures::Measured;
use rig::Rig;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What is asked for on the command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) effort: Effort,
    pub(crate) out: Option<PathBuf>,
    pub(crate) words: Vec<String>,
}

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) plot: String,
    /// How many requests were made, each of which was answered.
    pub(crate) requests: u64,
}

impl Arguments {
    pub(crate) fn parse(mut all: impl Iterator<Item = String>) -> Result<Arguments> {
        let mut arguments = Arguments {
            effort: Effort::FULL,
            out: None,
            words: Vec::new(),
        };
        while let Some(word) = all.next() {
            match word.as_str() {
                // Said by cargo bench.
                "--bench" => {}
                "--quick" => arguments.effort = Effort::QUICK,
                "--out" => {
                    let directory = all.next().ok_or("--out needs a directory")?;
                    arguments.out = Some(directory.into());
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

/// Measures a case in all arrangements, the one that begins changing with the round; also how many requests that took.
fn measure(case: Case, effort: &Effort) -> Result<(Measured, u64)> {
    let mut rigs = Vec::new();
    for arrangement in Arrangement::ALL {
        rigs.push(Rig::new(case, arrangement)?);
    }
    let mut slices = vec![Vec::new(); rigs.len()];
    for round in 0..effort.rounds {
        for turn in 0..rigs.len() {
            let index = (round + turn) % rigs.len();
            slices[index].push(rigs[index].slice(effort)?);
        }
    }
    let mut requests = 0;
    for rig in rigs {
        requests += rig.close()?;
    }
    Ok((Measured::new(case, &slices), requests))
}

/// The cases that the words choose; an error if there are none.
pub(crate) fn cases(words: &[String]) -> Result<Vec<Case>> {
    let mut all = Case::all();
    all.retain(|case| case.is_chosen(words));
    if all.is_empty() {
        let words = words.join(" ");
        return Err(format!(
            "no case is '{words}', expected null, busy or neighbours, and 1, 2, 4 or 8"
        )
        .into());
    }
    Ok(all)
}

/// Measures the chosen cases that `processors` are enough for.
pub(crate) fn run(arguments: &Arguments, processors: usize) -> Result<Outcome> {
    let (mut all, mut skipped, mut requests) = (Vec::new(), Vec::new(), 0);
    let real_time = arguments.effort.real_time && priority::raise();
    let before = report::machine(processors, real_time);
    for case in cases(&arguments.words)? {
        if case.devices > processors {
            skipped.push(case);
            continue;
        }
        let (measured, made) =
            measure(case, &arguments.effort).map_err(|error| format!("{case}: {error}"))?;
        all.push(measured);
        requests += made;
    }
    priority::lower();
    let after = report::machine(processors, real_time);
    Ok(Outcome {
        text: report::text(&[before, after], &all, &skipped, processors),
        plot: plot::svg(&all),
        requests,
    })
}

fn run_and_write() -> Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let outcome = run(&arguments, processors)?;
    println!(
        "{}\n{} requests, all answered",
        outcome.text, outcome.requests
    );
    if let Some(out) = &arguments.out {
        fs::create_dir_all(out)?;
        fs::write(out.join("contention.md"), &outcome.text)?;
        fs::write(out.join("contention.svg"), &outcome.plot)?;
        println!("written to {}", out.display());
    }
    Ok(())
}

pub(crate) fn main() -> ExitCode {
    match run_and_write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("contention: {error}");
            ExitCode::FAILURE
        }
    }
}
