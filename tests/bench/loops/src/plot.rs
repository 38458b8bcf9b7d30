//! Plots: bars for the loops of a workload, a panel for each size, in SVG.
#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::event_loop::Kind;
use crate::measure::{Figures, Measured};
use crate::report::ns;
use crate::target;

const LABELS: f64 = 170.0;
const BARS: f64 = 520.0;
const NUMBERS: f64 = 150.0;
const ROW: f64 = 20.0;
const HEAD: f64 = 34.0;
/// Beyond this ratio the scale is logarithmic.
const LINEAR: f64 = 20.0;

/// The plot of the rows of one workload.
pub(crate) fn svg(rows: &[&Measured]) -> String {
    let height: f64 = rows.iter().map(|row| panel_height(row)).sum();
    let width = LABELS + BARS + NUMBERS;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let mut top = 0.0;
    for row in rows {
        panel(&mut svg, row, top);
        top += panel_height(row);
    }
    svg + "</svg>\n"
}

fn panel_height(row: &Measured) -> f64 {
    HEAD + ROW * row.figures.len() as f64 + 8.0
}

/// Maps nanoseconds to a length.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn new(row: &Measured) -> Scale {
        let values = row.figures.iter().flat_map(|own| [own.best, own.median]);
        let (least, most) = values.fold((f64::MAX, 1e-9_f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        Scale {
            least: least.max(1e-3),
            most,
        }
    }

    fn is_linear(&self) -> bool {
        self.most / self.least < LINEAR
    }

    fn length(&self, value: f64) -> f64 {
        let share = if self.is_linear() {
            value / self.most
        } else {
            let floor = self.least / 2.0;
            (value.max(floor) / floor).ln() / (self.most / floor).ln()
        };
        BARS * share.clamp(0.0, 1.0)
    }
}

fn panel(svg: &mut String, row: &Measured, top: f64) {
    let scale = Scale::new(row);
    let kind = if scale.is_linear() { "" } else { ", log scale" };
    let _ = writeln!(
        svg,
        "<text x=\"8\" y=\"{}\" font-weight=\"bold\">{} \
         <tspan font-weight=\"normal\">ns per operation{kind}; bar: best, dot: median, line: target</tspan></text>",
        top + 22.0,
        row.title(),
    );
    for (index, figures) in row.figures.iter().enumerate() {
        bar(svg, row, figures, &scale, top + HEAD + ROW * index as f64);
    }
}

fn bar(svg: &mut String, row: &Measured, figures: &Figures, scale: &Scale, y: f64) {
    let (best, median) = (scale.length(figures.best), scale.length(figures.median));
    let colour = match figures.kind {
        Kind::Ours => "#2a6fb0",
        Kind::Limit => "#888888",
        Kind::Peer => "#d8a24a",
    };
    let middle = y + ROW / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{LABELS}\" y=\"{}\" width=\"{best:.1}\" height=\"{}\" fill=\"{colour}\"/>\
         <circle cx=\"{:.1}\" cy=\"{middle}\" r=\"3\" fill=\"#222222\"/>\
         <text x=\"{}\" y=\"{}\">{} ({})</text>",
        LABELS - 6.0,
        middle + 4.0,
        figures.name,
        y + 3.0,
        ROW - 6.0,
        LABELS + median,
        LABELS + BARS + 8.0,
        middle + 4.0,
        ns(figures.best),
        ns(figures.median),
    );
    let target = target::of(row.name, row.size, figures.name);
    if let Some(bound) = target.and_then(|target| target.bound(&row.figures)) {
        let x = LABELS + scale.length(bound);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{y}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#c03030\" stroke-width=\"2\"/>",
            y + ROW,
        );
    }
}
