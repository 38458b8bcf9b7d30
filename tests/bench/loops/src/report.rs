//! The tables.
#![forbid(unsafe_code)]

use crate::catalogue::Workload;
use crate::event_loop::Kind;
use crate::measure::{Figures, Measured};

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

pub(crate) fn print(workload: &Workload, measured: &Measured) {
    let limit = least(&measured.figures, Kind::Limit);
    let peer = least(&measured.figures, Kind::Peer);
    println!(
        "\n| {:24} | best ns | median ns | / limit | / best peer |",
        workload.title()
    );
    println!("|--------------------------|--------:|----------:|--------:|------------:|");
    for figures in &measured.figures {
        println!(
            "| {:24} | {:>7} | {:>9} | {:>7} | {:>11} |",
            figures.name,
            ns(figures.best),
            ns(figures.median),
            ratio(figures.decisive, limit),
            ratio(figures.decisive, peer),
        );
    }
    for (name, reason) in &measured.skipped {
        println!("SKIP: {} on {name}: {reason}", workload.title());
    }
}
