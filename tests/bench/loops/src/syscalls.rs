//! System calls per operation, counted by strace from outside: this program runs one cell, once with more slices.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::process::Command;

use crate::Result;
use crate::catalogue::{self, Workload};

/// The workloads that are counted, by name and size.
const COUNTED: &[(&str, usize)] = &[
    ("fd-dispatch", 10),
    ("fdtimer-dispatch", 100),
    ("readd-fd", 1000),
    ("empty-iter", 1),
    ("pingpong", 1),
    ("post", 1),
    ("bh-local", 1),
    ("bh-local", 1000),
];
const OPS: u64 = 1000;
const SLICES: u64 = 3;

/// What the counted program does: `slices` slices of one cell. Prints the number of operations.
pub(crate) fn run_cell(words: &[String]) -> Result<()> {
    let [name, size, looped, slices] = words else {
        return Err("--cell needs a workload, a size, a loop and a number of slices".into());
    };
    let size: usize = size.parse()?;
    let all = catalogue::all();
    let workload = all.iter().find(|own| own.name == name && own.size == size);
    let cells = workload.map_or(&[][..], |own| &own.cells[..]);
    let cell = cells.iter().find(|cell| cell.name == looped);
    let mut run = (cell.ok_or("no such cell")?.make)(size)?;
    let mut done = 0;
    for _ in 0..slices.parse::<u64>()? {
        done += run(OPS)?.ops;
    }
    println!("{done}");
    Ok(())
}

/// A table of the chosen workloads; the reason instead, where there is no strace.
pub(crate) fn table(words: &[String]) -> String {
    let mut text = String::from("| system calls per operation | loop | calls |\n|---|---|--:|\n");
    let all = catalogue::all();
    let counted = all
        .iter()
        .filter(|own| own.is_chosen(words) && COUNTED.contains(&(own.name, own.size)));
    for workload in counted {
        for cell in &workload.cells {
            match per_operation(workload, cell.name) {
                Ok(calls) => {
                    let title = workload.title();
                    let _ = writeln!(text, "| {title} | {} | {calls:.2} |", cell.name);
                }
                Err(reason) => return format!("SKIP: system calls: {reason}\n"),
            }
        }
    }
    text
}

fn per_operation(workload: &Workload, name: &str) -> Result<f64> {
    let (calls_one, ops_one) = count(workload, name, 1)?;
    let (calls_more, ops_more) = count(workload, name, 1 + SLICES)?;
    Ok((calls_more - calls_one) / (ops_more - ops_one).max(1.0))
}

/// System calls and operations of a run of `slices` slices.
fn count(workload: &Workload, name: &str, slices: u64) -> Result<(f64, f64)> {
    let report = std::env::temp_dir().join(format!("loops-{}.strace", std::process::id()));
    let output = Command::new("strace")
        .args(["-c", "-f", "-o"])
        .arg(&report)
        .arg(std::env::current_exe()?)
        .args(["--cell", workload.name, &workload.size.to_string(), name])
        .arg(slices.to_string())
        .output()
        .map_err(|error| format!("strace: {error}"))?;
    let summary = std::fs::read_to_string(&report)?;
    std::fs::remove_file(&report)?;
    let ops = String::from_utf8(output.stdout)?
        .trim()
        .parse()
        .map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("{} on {name}: {}", workload.title(), said.trim())
        })?;
    let total = summary.lines().find(|line| line.ends_with(" total"));
    let calls = total.and_then(|line| line.split_whitespace().nth(3));
    Ok((calls.ok_or("no sum in strace's report")?.parse()?, ops))
}
