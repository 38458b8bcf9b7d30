//! The table: a row for each case, with the ratios that matter.
#![forbid(unsafe_code)]

use std::fmt;

use super::case::Case;
use super::load::Slice;

pub(crate) const HEADER: &str = "\
| case                | qctx IOPS | p50 us | p99 us | CPU us/req | peer IOPS | p50 us | p99 us | CPU us/req | IOPS ratio | CPU ratio | others CPU |
|---------------------|-----------|--------|--------|------------|-----------|--------|--------|------------|------------|-----------|------------|";

/// Medians of a server's slices, each figure for itself.
#[derive(Debug)]
struct Medians {
    per_second: f64,
    p50: f64,
    p99: f64,
    server_us: f64,
}

fn median(slices: &[Slice], figure: impl Fn(&Slice) -> f64) -> f64 {
    let mut figures: Vec<f64> = slices.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

impl Medians {
    fn new(slices: &[Slice]) -> Medians {
        Medians {
            per_second: median(slices, |slice| slice.per_second),
            p50: median(slices, |slice| slice.p50.as_secs_f64() * 1e6),
            p99: median(slices, |slice| slice.p99.as_secs_f64() * 1e6),
            server_us: median(slices, |slice| slice.server_us),
        }
    }
}

impl fmt::Display for Medians {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Medians {
            per_second,
            p50,
            p99,
            server_us,
        } = self;
        write!(
            out,
            "{per_second:9.0} | {p50:6.1} | {p99:6.0} | {server_us:10.2}"
        )
    }
}

/// One case, measured on `qctx` and, if it is there, on the peer.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    qctx: Medians,
    peer: Option<Medians>,
    others: f64,
}

impl Row {
    pub(crate) fn new(case: &Case, slices: &[Vec<Slice>]) -> Row {
        Row {
            name: case.to_string(),
            qctx: Medians::new(&slices[0]),
            peer: slices.get(1).map(|slices| Medians::new(slices)),
            others: median(&slices.concat(), |slice| slice.others),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row {
            name,
            qctx,
            peer,
            others,
        } = self;
        write!(out, "| {name:19} | {qctx} | ")?;
        match peer {
            Some(peer) => {
                let iops = qctx.per_second / peer.per_second;
                let cpu = qctx.server_us / peer.server_us;
                write!(out, "{peer} | {iops:10.2} | {cpu:9.2} | ")?;
            }
            None => write!(
                out,
                "        - |      - |      - |          - |          - |         - | "
            )?,
        }
        write!(out, "{others:10.2} |")
    }
}
