//! The plot: a panel for each case with a bar for each arrangement, in SVG.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::case::{Arrangement, FAST, Kind};
use super::figures::Measured;

const LABELS: f64 = 170.0;
const BARS: f64 = 480.0;
const NUMBERS: f64 = 190.0;
const ROW: f64 = 20.0;
const HEAD: f64 = 34.0;
const PANEL: f64 = HEAD + ROW * Arrangement::ALL.len() as f64 + 8.0;

/// A bar's length, a dot's place if there is one, and the words behind them.
struct Bar {
    value: f64,
    dot: Option<f64>,
    words: String,
}

/// The plot of all cases.
pub(crate) fn svg(all: &[Measured]) -> String {
    let (width, height) = (LABELS + BARS + NUMBERS, PANEL * all.len() as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (index, measured) in all.iter().enumerate() {
        panel(&mut svg, measured, PANEL * index as f64);
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, measured: &Measured, top: f64) {
    let what = match measured.case.kind {
        Kind::Neighbours => "latency of the fast device in us; bar: p50, dot: p99",
        _ => "requests per second; behind: p50 and p99 in us",
    };
    let _ = writeln!(
        svg,
        "<text x=\"8\" y=\"{}\" font-weight=\"bold\">{} <tspan font-weight=\"normal\">{what}</tspan></text>",
        top + 22.0,
        measured.case,
    );
    let bars = Arrangement::ALL.map(|arrangement| bar(measured, arrangement));
    let most = bars
        .iter()
        .map(|bar| bar.dot.unwrap_or(bar.value).max(bar.value))
        .fold(1e-9, f64::max);
    for (arrangement, bar) in Arrangement::ALL.into_iter().zip(&bars) {
        let y = top + HEAD + ROW * arrangement.index() as f64;
        draw(svg, arrangement, bar, most, y);
    }
}

fn bar(measured: &Measured, arrangement: Arrangement) -> Bar {
    let figures = measured.of(arrangement);
    match measured.case.kind {
        Kind::Neighbours => {
            let fast = figures.devices[FAST];
            Bar {
                value: fast.p50,
                dot: Some(fast.p99),
                words: format!("{:.0} ({:.0})", fast.p50, fast.p99),
            }
        }
        _ => {
            let all = figures.all;
            Bar {
                value: all.per_second,
                dot: None,
                words: format!("{:.0} ({:.0}, {:.0})", all.per_second, all.p50, all.p99),
            }
        }
    }
}

fn draw(svg: &mut String, arrangement: Arrangement, bar: &Bar, most: f64, y: f64) {
    let colour = match arrangement {
        Arrangement::One => "#888888",
        Arrangement::Each => "#2a6fb0",
        Arrangement::Locked => "#c03030",
        Arrangement::Unlocked => "#9dbfdf",
    };
    let middle = y + ROW / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{LABELS}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
         <text x=\"{}\" y=\"{}\">{}</text>",
        LABELS - 6.0,
        middle + 4.0,
        arrangement.name(),
        y + 3.0,
        BARS * bar.value / most,
        ROW - 6.0,
        LABELS + BARS + 8.0,
        middle + 4.0,
        bar.words,
    );
    if let Some(dot) = bar.dot {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"3\" fill=\"#222222\"/>",
            LABELS + BARS * dot / most,
        );
    }
}
