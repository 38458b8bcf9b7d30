//! The figures to reach, of section 8 of the design: each a ratio to something measured in the same run, or nanoseconds.
#![forbid(unsafe_code)]

use std::fmt;

use crate::measure::Figures;

/// What a target is relative to.
#[derive(Clone, Copy, Debug)]
enum Base {
    Loop(&'static str),
    /// Nanoseconds, the same everywhere.
    Ns,
}

/// `name` takes at most `factor` times `base` plus `extra_ns`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    workload: &'static str,
    size: Option<usize>,
    name: &'static str,
    factor: f64,
    base: Base,
    extra_ns: f64,
}

const fn times(
    workload: &'static str,
    size: Option<usize>,
    name: &'static str,
    factor: f64,
    base: &'static str,
) -> Target {
    Target {
        workload,
        size,
        name,
        factor,
        base: Base::Loop(base),
        extra_ns: 0.0,
    }
}

const fn at_most(workload: &'static str, size: usize, name: &'static str, ns: f64) -> Target {
    Target {
        workload,
        size: Some(size),
        name,
        factor: ns,
        base: Base::Ns,
        extra_ns: 0.0,
    }
}

/// What QEMU's polled round trip takes on two free processors.
const QEMU_POLLED_NS: f64 = 280.0;
/// What QEMU's own iteration takes for one bottom half.
const QEMU_BH_NS: f64 = 23.0;

/// What QEMU's empty iteration with io_uring takes.
const QEMU_EMPTY_NS: f64 = 21.0;

const TARGETS: &[Target] = &[
    times("fd-dispatch", None, "reactor io_uring", 1.05, "raw"),
    times("fd-burst", Some(64), "reactor io_uring", 1.05, "raw"),
    at_most("empty-iter", 1, "reactor io_uring", 1.2 * QEMU_EMPTY_NS),
    times("fd-dispatch", None, "reactor", 1.05, "raw"),
    times("fd-dispatch", None, "qcontext", 1.05, "raw"),
    times("fd-dispatch", None, "qcontext+foreign", 1.15, "raw"),
    times("fd-dispatch", None, "qcontext by GLib", 1.25, "raw"),
    times("fd-burst", Some(64), "reactor", 1.05, "raw"),
    times("fd-burst", Some(64), "qcontext", 1.05, "raw"),
    times("fdtimer-dispatch", None, "reactor", 1.05, "raw"),
    times("fdtimer-dispatch", None, "qcontext", 1.05, "raw"),
    times("readd-fd", None, "reactor", 0.1, "raw"),
    times("readd-fd", None, "qcontext", 0.1, "raw"),
    times("empty-iter", None, "reactor", 1.05, "raw"),
    times("empty-iter", None, "qcontext", 1.05, "raw"),
    times("pingpong", Some(1), "reactor", 1.05, "raw edge-triggered"),
    times("pingpong", Some(1), "qcontext", 1.05, "raw edge-triggered"),
    at_most(
        "pingpong-polling",
        2,
        "reactor polling",
        0.7 * QEMU_POLLED_NS,
    ),
    times("post", None, "reactor", 1.1, "raw list"),
    times("post", None, "qcontext", 1.1, "raw list"),
    times("bh-local", Some(1000), "reactor", 0.8, "libuv"),
    times("bh-local", Some(1000), "qcontext", 0.8, "libuv"),
    times("bh-local", Some(1000), "qcontext by GLib", 2.0, "libuv"),
    at_most("bh-local", 1, "reactor", QEMU_BH_NS),
    at_most("bh-local", 1, "qcontext", QEMU_BH_NS),
    times("timer-arm", None, "reactor", 2.0, "raw"),
    times("timer-mod", None, "reactor", 2.0, "raw"),
    times("timer-fire", Some(100_000), "reactor", 0.5, "GLib"),
    Target {
        extra_ns: 5000.0,
        ..times("timer-lateness", None, "reactor", 1.0, "raw")
    },
    Target {
        extra_ns: 5000.0,
        ..times("timer-lateness", None, "qcontext", 1.0, "raw")
    },
    Target {
        extra_ns: 5000.0,
        ..times("timer-lateness", None, "g_source", 1.0, "raw")
    },
];

/// The target of a cell.
pub(crate) fn of(workload: &str, size: usize, name: &str) -> Option<Target> {
    // A context with a thread of its own is to be as good as what it is made of.
    let name = match name {
        "qcontext thread" => "qcontext",
        "qcontext thread+foreign" => "qcontext+foreign",
        name => name,
    };
    let fits = |target: &&Target| {
        target.workload == workload
            && target.name == name
            && target.size.is_none_or(|own| own == size)
    };
    TARGETS.iter().find(fits).copied()
}

impl Target {
    /// The most it may be; `None` when what it is relative to was not measured.
    pub(crate) fn bound(&self, figures: &[Figures]) -> Option<f64> {
        let base = match self.base {
            Base::Ns => 1.0,
            Base::Loop(name) => figures.iter().find(|other| other.name == name)?.decisive,
        };
        Some(self.factor * base + self.extra_ns)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.base {
            Base::Ns => write!(out, "{:.0} ns", self.factor)?,
            Base::Loop(name) => write!(out, "{} x {name}", self.factor)?,
        }
        if self.extra_ns > 0.0 {
            write!(out, " + {} us", self.extra_ns / 1000.0)?;
        }
        Ok(())
    }
}

/// `fd-dispatch` of ours is to be the same for all sizes, within this.
pub(crate) const FLAT_WITHIN: f64 = 1.05;
