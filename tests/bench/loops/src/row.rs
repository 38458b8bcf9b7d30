//! Each row of cells is measured in a process of its own: a heap that other workloads have been through makes timers up to
//! ten times slower. The processes tell their figures in lines of words with tabs between them.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};

use crate::Result;
use crate::catalogue::{self, Workload};
use crate::measure::{self, Effort, Figures, Measured};

/// Measures a row in a child.
pub(crate) fn measure(workload: &Workload, effort: Effort) -> Result<Measured> {
    let output = Command::new(std::env::current_exe()?)
        .args([
            "--row",
            workload.name,
            &workload.size.to_string(),
            effort.option(),
        ])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("its process ended with {}", output.status).into());
    }
    let (mut figures, mut skipped) = (Vec::new(), Vec::new());
    for line in String::from_utf8(output.stdout)?.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let cell = workload.cells.iter().find(|cell| cell.name == words[0]);
        let cell = cell.ok_or_else(|| format!("no figures: {line}"))?;
        match words[1..] {
            [best, median] => figures.push(Figures::new(
                cell,
                workload.figure,
                best.parse()?,
                median.parse()?,
            )),
            [reason] => skipped.push((cell.name, reason.to_owned())),
            _ => return Err(format!("no figures: {line}").into()),
        }
    }
    Ok(Measured {
        name: workload.name,
        size: workload.size,
        figure: workload.figure,
        figures,
        skipped,
    })
}

/// What the child does.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let [wanted, size, option] = words else {
        return Err("--row needs a workload, a size and an effort".into());
    };
    let size: usize = size.parse()?;
    let all = catalogue::all();
    let workload = all
        .iter()
        .find(|own| own.name == wanted && own.size == size);
    let measured = measure::measure(workload.ok_or("no such row")?, Effort::of_option(option))?;
    for figures in &measured.figures {
        println!("{}\t{}\t{}", figures.name, figures.best, figures.median);
    }
    for (name, reason) in &measured.skipped {
        println!("{name}\t{}", reason.replace(['\t', '\n'], " "));
    }
    Ok(())
}
