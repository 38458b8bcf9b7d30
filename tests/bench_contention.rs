//! The contention benchmark, in short: every table and plot is complete, every request is answered, and the big lock does
//! what it is there for. No claim about time is made here.
#![deny(unsafe_code)] // the benchmark's lock and clock need some
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

#[path = "bench/contention/main.rs"]
#[allow(dead_code)] // its main function
mod contention;

use contention::{Arguments, run};

const ARRANGEMENTS: [&str; 4] = [
    "one context",
    "a context each",
    "each, big lock",
    "each, lock left out",
];

fn arguments(words: &[&str]) -> contention::Result<Arguments> {
    Arguments::parse(words.iter().map(|word| (*word).to_owned()))
}

/// The cells of the tables' rows that begin with these words.
fn rows<'a>(report: &'a str, first: &[&str]) -> Vec<Vec<&'a str>> {
    let lines = report.lines().filter_map(|line| line.strip_prefix("| "));
    let rows = lines.map(|line| {
        line.trim_end_matches('|')
            .split('|')
            .map(str::trim)
            .collect()
    });
    rows.filter(|row: &Vec<&str>| row.starts_with(first))
        .collect()
}

fn number(cell: &str) -> f64 {
    let number: f64 = cell.parse().unwrap();
    assert!(number.is_finite() && number >= 0.0, "{number}");
    number
}

/// The one row that begins with these words: whether it has `columns` cells, numbers up to those of the lock, and latencies
/// above 0 in those named.
fn row<'a>(report: &'a str, first: &[&str], columns: usize, latencies: &[usize]) -> Vec<&'a str> {
    let mut found = rows(report, first);
    assert_eq!(found.len(), 1, "{first:?} in\n{report}");
    let row = found.remove(0);
    assert_eq!(row.len(), columns, "{row:?}");
    for (column, cell) in row.iter().enumerate().take(columns - 4).skip(first.len()) {
        assert!(
            number(cell) > 0.0 || !latencies.contains(&column),
            "{row:?}"
        );
    }
    row
}

/// What a row says of the lock: the waits, and the most devices that were at work at once.
fn check_lock(row: &[&str], arrangement: &str, devices: usize) {
    let [.., waits, wait, at_once, _] = row else {
        panic!("{row:?}");
    };
    let at_once: usize = at_once.parse().unwrap();
    let (takes_lock, most) = match arrangement {
        "each, big lock" => (true, 1),
        "one context" => (false, 1),
        _ => (false, devices),
    };
    assert_eq!(waits.ends_with('%'), takes_lock, "{row:?}");
    assert_eq!(*wait != "-", takes_lock, "{row:?}");
    assert!((1..=most).contains(&at_once), "{row:?}");
}

#[test]
fn every_case_is_measured_in_every_arrangement_or_skipped() {
    let outcome = run(&arguments(&["--bench", "--quick"]).unwrap(), 4).unwrap();
    let report = &outcome.text;
    assert!(outcome.requests > 0);
    for arrangement in ARRANGEMENTS {
        for kind in ["null", "busy"] {
            for devices in [1, 2, 4] {
                let case = format!("{kind} {devices}");
                let row = row(report, &[&case, arrangement], 12, &[4, 5]);
                check_lock(&row, arrangement, devices);
            }
        }
        let row = row(report, &[arrangement], 9, &[1, 2, 4]);
        check_lock(&row, arrangement, 2);
    }
    for skipped in [
        "null 8: needs 8",
        "busy 8: needs 8",
        "scaling of busy 4: needs 8",
    ] {
        assert!(
            report.contains(&format!("\nSKIP: {skipped} processors, ")),
            "{report}"
        );
    }
    assert!(rows(report, &["busy 8"]).is_empty(), "{report}");
    assert!(
        report.contains("\nscaling of busy 2, to one device: "),
        "{report}"
    );
    assert!(
        report.contains("\nneighbours 2: beside a device whose"),
        "{report}"
    );
    // A panel for each case with a bar for each arrangement, and the background.
    assert_eq!(outcome.plot.matches("<rect ").count(), 7 * 4 + 1);
    assert_eq!(outcome.plot.matches("<circle ").count(), 4);
    assert!(!outcome.plot.contains("NaN"), "{}", outcome.plot);
}

#[test]
fn words_choose_cases_and_wrong_options_are_refused() {
    let arguments_of_two = arguments(&["busy", "2", "--out", "somewhere"]).unwrap();
    let chosen = contention::cases(&arguments_of_two.words).unwrap();
    assert_eq!(chosen.len(), 1);
    assert_eq!(chosen[0].to_string(), "busy 2");
    assert_eq!(contention::cases(&[]).unwrap().len(), 9);
    let nothing = arguments(&["busy", "3"]).unwrap();
    let error = contention::cases(&nothing.words).unwrap_err().to_string();
    assert!(
        error.starts_with("no case is 'busy 3', expected "),
        "{error}"
    );
    for (words, complaint) in [
        (&["--quik"][..], "unknown option --quik"),
        (&["--out"], "--out needs a directory"),
    ] {
        assert_eq!(arguments(words).unwrap_err().to_string(), complaint);
    }
}
