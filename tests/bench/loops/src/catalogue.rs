//! Which loops do which workloads.
#![forbid(unsafe_code)]

use crate::cell::Cell;
use crate::loops::glib_main::Glib;
use crate::loops::ours::{InGlib, Own, OwnPoll, OwnRing};
use crate::loops::polling::{PollingBh, PollingKick};
use crate::loops::qcontexts::{ByGlib, Plain, WithForeign};
use crate::loops::raw::{Raw, RawEdge, RawList, RawSpin};
#[cfg(feature = "peers")]
use crate::loops::{
    event_manager::Manager, libevent::Libevent, libuv::Libuv, mio::Mio, tokio_rt::Tokio,
};
use crate::workload::{bh, fd, remote, threaded, timer};

/// A row of cells that are measured together.
#[derive(Clone)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) size: usize,
    pub(crate) figure: Figure,
    pub(crate) cells: Vec<Cell>,
}

/// How slices become figures, and how they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// The best slice counts; the thread has a processor for itself.
    Best,
    /// The median counts, for several threads share the processors.
    Median,
    /// Each slice is one event of its own; the median counts.
    Lateness,
}

impl Workload {
    /// What people call it.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.name, self.size)
    }

    /// Every word is the workload's name or size; no word chooses all.
    pub(crate) fn is_chosen(&self, words: &[String]) -> bool {
        words
            .iter()
            .all(|word| *word == self.name || *word == self.size.to_string())
    }
}

/// The cells of `make` on the loops named.
macro_rules! cells {
    ($module:ident::$make:ident: $($looped:ty),+ $(; $($peer:ty),+)?) => {
        vec![
            $(Cell::of::<$looped>($module::$make::<$looped>),)+
            $($(#[cfg(feature = "peers")] Cell::of::<$peer>($module::$make::<$peer>),)+)?
        ]
    };
}

fn row(
    name: &'static str,
    figure: Figure,
    sizes: &[usize],
    cells: fn() -> Vec<Cell>,
) -> Vec<Workload> {
    let each = |&size| Workload {
        name,
        size,
        figure,
        cells: cells(),
    };
    sizes.iter().map(each).collect()
}

fn and(mut some: Vec<Cell>, others: Vec<Cell>) -> Vec<Cell> {
    some.extend(others);
    some
}

/// All there is to measure.
pub(crate) fn all() -> Vec<Workload> {
    [fds(), others(), deferred(), timers()].concat()
}

fn fds() -> Vec<Workload> {
    const IDLE: &[usize] = &[0, 1, 10, 100, 1000, 10_000];
    [
        row("fd-dispatch", Figure::Best, IDLE, || {
            let own = vec![
                threaded::cell(threaded::dispatch),
                threaded::cell_with_foreign(threaded::dispatch_with_foreign),
            ];
            and(own, cells![fd::dispatch: Own, OwnRing, OwnPoll, Plain, WithForeign, ByGlib, InGlib, Raw, Glib; Libuv, Libevent, Tokio, Mio, Manager])
        }),
        row("fd-burst", Figure::Best, &[8, 64], || {
            cells![fd::burst: Own, OwnRing, OwnPoll, Plain, WithForeign, ByGlib, InGlib, Raw, Glib; Libuv, Libevent, Manager]
        }),
        row("fdtimer-dispatch", Figure::Best, &[100], || {
            cells![fd::dispatch_with_timer: Own, Plain, WithForeign, ByGlib, InGlib, Raw, Glib; Libuv, Libevent, Tokio]
        }),
        row("readd-fd", Figure::Best, &[1000], || {
            cells![fd::readd: Own, Plain, InGlib, Raw, Glib; Libuv, Libevent, Tokio, Mio, Manager]
        }),
        row("empty-iter", Figure::Best, &[1], || {
            cells![fd::empty: Own, OwnRing, OwnPoll, Plain, WithForeign, ByGlib, InGlib, Raw, Glib; Libuv, Libevent, Tokio, Mio, Manager]
        }),
    ]
    .concat()
}

fn others() -> Vec<Workload> {
    [
        row("pingpong", Figure::Best, &[1, 2], || {
            and(vec![threaded::cell(threaded::ping_pong)], cells![remote::ping_pong: Own, OwnRing, Plain, WithForeign, ByGlib, InGlib, Raw, RawEdge, Glib; Libuv, Libevent, Tokio, Mio, Manager])
        }),
        row("pingpong-polling", Figure::Best, &[1, 2], || {
            cells![remote::ping_pong: PollingKick, PollingBh, RawSpin]
        }),
        row("post", Figure::Median, &[1, 2], || {
            and(vec![threaded::cell(threaded::post)], cells![remote::post: Own, Plain, WithForeign, ByGlib, InGlib, RawList, Glib; Libuv, Libevent, Tokio, Mio, Manager])
        }),
    ]
    .concat()
}

fn deferred() -> Vec<Workload> {
    row("bh-local", Figure::Best, &[1, 1000], || {
        and(
            vec![threaded::cell(threaded::bh)],
            cells![bh::local: Own, Plain, WithForeign, ByGlib, InGlib, Raw, Glib; Libuv, Libevent, Tokio, Manager],
        )
    })
}

fn timers() -> Vec<Workload> {
    const SIZES: &[usize] = &[1000, 100_000];
    [
        row(
            "timer-arm",
            Figure::Best,
            SIZES,
            || cells![timer::arm: Own, InGlib, Raw, Glib; Libuv, Libevent, Tokio],
        ),
        row(
            "timer-mod",
            Figure::Best,
            SIZES,
            || cells![timer::rearm: Own, InGlib, Raw, Glib; Libuv, Libevent, Tokio],
        ),
        row(
            "timer-fire",
            Figure::Best,
            SIZES,
            || cells![timer::fire: Own, InGlib, Raw, Glib; Libuv, Libevent, Tokio],
        ),
        row(
            "timer-iter",
            Figure::Best,
            &[1000],
            || cells![timer::empty: Own, Plain, WithForeign, ByGlib, InGlib, Raw, Glib; Libuv, Libevent, Tokio],
        ),
        row(
            "timer-lateness",
            Figure::Lateness,
            &[200],
            || cells![timer::lateness: Own, Plain, WithForeign, ByGlib, InGlib, Raw, Glib; Libuv, Libevent],
        ),
    ]
    .concat()
}
