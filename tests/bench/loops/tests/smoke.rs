//! Every workload of ours yields results, with as many events as were due: the program checks that for each slice. No
//! claim about time is made here.
#![forbid(unsafe_code)]

use std::process::Command;

/// The rows of a table that belong to loops of ours, under the workload's name.
fn ours(report: &str) -> Vec<(&str, &str)> {
    let mut workload = "";
    let mut rows = Vec::new();
    for line in report.lines().filter(|line| line.starts_with("| ")) {
        let name = line.split('|').nth(1).unwrap_or("").trim();
        if line.contains("| best ns |") {
            workload = name;
        } else if ["reactor", "qcontext", "g_source"]
            .iter()
            .any(|own| name.starts_with(own))
        {
            rows.push((workload, name));
        }
    }
    rows
}

#[test]
fn every_workload_of_ours_runs_with_the_right_number_of_events() {
    let output = Command::new(env!("CARGO_BIN_EXE_loops"))
        .arg("--quick")
        .output()
        .unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}\n{report}");
    for line in report.lines().filter(|line| line.starts_with("SKIP: ")) {
        println!("{line}");
    }
    let rows = ours(&report);
    for workload in [
        "fd-dispatch 10000",
        "fd-burst 64",
        "fdtimer-dispatch 100",
        "readd-fd 1000",
        "empty-iter 1",
        "bh-local 1000",
        "timer-arm 100000",
        "timer-mod 100000",
        "timer-fire 100000",
        "timer-lateness 200",
    ] {
        for own in ["reactor", "g_source"] {
            assert!(
                rows.contains(&(workload, own)),
                "no {workload} on {own}\n{report}"
            );
        }
    }
    let processors = std::thread::available_parallelism().unwrap().get();
    if processors >= 2 {
        for workload in ["pingpong 2", "post 2"] {
            assert!(
                rows.contains(&(workload, "qcontext thread")),
                "no {workload}\n{report}"
            );
        }
    }
}
