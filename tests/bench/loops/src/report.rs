//! The tables, as text and as JSON.
#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::catalogue::Figure;
use crate::event_loop::Kind;
use crate::measure::{Figures, Measured};
use crate::target;

/// What the loops of ours are, for the reader.
pub(crate) const LEGEND: &str = "\
reactor: an AioContext under Reactor::iterate. qcontext: QContext::iterate of an unthreaded context; +foreign: with a GSource
of somebody else's; by GLib: g_main_context_iteration of its GMainContext. qcontext thread: a context with a thread of its own,
events follow each other there. g_source: an AioContext as a GSource of a plain GMainContext. raw: the bare calls and
structures. One operation of each workload is described in src/workload/. The loops of a table take turns in one process; best
and median are over all slices.
";

/// The least decisive figure of a kind.
fn least(figures: &[Figures], kind: Kind) -> Option<&Figures> {
    figures
        .iter()
        .filter(|figures| figures.kind == kind)
        .min_by(|a, b| a.decisive.total_cmp(&b.decisive))
}

fn ratio(value: f64, base: Option<&Figures>) -> String {
    base.map_or_else(
        || "-".into(),
        |base| format!("{:.2}", value / base.decisive),
    )
}

/// Nanoseconds with three digits or more.
pub(crate) fn ns(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn verdict(measured: &Measured, figures: &Figures) -> String {
    let Some(target) = target::of(measured.name, measured.size, figures.name) else {
        return String::new();
    };
    match target.bound(&measured.figures) {
        None => format!("{target}: not measured"),
        Some(bound) if figures.decisive <= bound => format!("{target}: met"),
        Some(bound) => {
            let over = figures.decisive / bound;
            format!("{target} = {}: MISSED by {over:.2} x", ns(bound))
        }
    }
}

/// The table of a workload.
pub(crate) fn table(measured: &Measured) -> String {
    let limit = least(&measured.figures, Kind::Limit);
    let peer = least(&measured.figures, Kind::Peer);
    let decisive = if measured.figure == Figure::Best {
        "best"
    } else {
        "median"
    };
    let mut text = format!(
        "| {:22} | best ns | median ns | / limit | / best peer | target ({decisive}) |\n",
        measured.title()
    );
    text += "|------------------------|--------:|----------:|--------:|------------:|---|\n";
    for figures in &measured.figures {
        let _ = writeln!(
            text,
            "| {:22} | {:>7} | {:>9} | {:>7} | {:>11} | {} |",
            figures.name,
            ns(figures.best),
            ns(figures.median),
            ratio(figures.decisive, limit),
            ratio(figures.decisive, peer),
            verdict(measured, figures),
        );
    }
    for (name, reason) in &measured.skipped {
        let _ = writeln!(text, "SKIP: {} on {name}: {reason}", measured.title());
    }
    text
}

/// How flat dispatch is over the numbers of idle handlers, for each loop of ours.
pub(crate) fn flatness(all: &[Measured]) -> String {
    let rows: Vec<&Measured> = all.iter().filter(|row| row.name == "fd-dispatch").collect();
    let mut text = String::new();
    let names = rows.first().map_or(&[][..], |row| &row.figures[..]);
    for name in names.iter().filter(|own| own.kind == Kind::Ours) {
        let all_sizes = rows.iter().flat_map(|row| &row.figures);
        let values = all_sizes
            .filter(|other| other.name == name.name)
            .map(|own| own.best);
        let (least, most) = values.fold((f64::MAX, 0_f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        let word = if most / least <= target::FLAT_WITHIN {
            "met"
        } else {
            "MISSED"
        };
        let _ = writeln!(
            text,
            "fd-dispatch on {} at all sizes: most / least = {:.2}, target {}: {word}",
            name.name,
            most / least,
            target::FLAT_WITHIN,
        );
    }
    text
}

/// Everything for programs to read.
pub(crate) fn json(machine: &str, all: &[Measured]) -> String {
    let rows: Vec<String> = all.iter().map(json_row).collect();
    format!(
        "{{\"machine\":{},\"workloads\":[\n{}\n]}}\n",
        quoted(machine),
        rows.join(",\n")
    )
}

fn json_row(measured: &Measured) -> String {
    let cells: Vec<String> = measured
        .figures
        .iter()
        .map(|figures| {
            let target = target::of(measured.name, measured.size, figures.name);
            let bound = target.and_then(|target| target.bound(&measured.figures));
            let bound = bound.map_or_else(|| "null".into(), |bound| format!("{bound:.2}"));
            let kind = format!("{:?}", figures.kind).to_lowercase();
            format!(
                "{{\"loop\":{},\"kind\":\"{kind}\",\"best_ns\":{:.2},\"median_ns\":{:.2},\"target_ns\":{bound}}}",
                quoted(figures.name),
                figures.best,
                figures.median,
            )
        })
        .collect();
    format!(
        "{{\"workload\":{},\"size\":{},\"loops\":[{}]}}",
        quoted(measured.name),
        measured.size,
        cells.join(",")
    )
}

/// A JSON string; our texts hold no control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
