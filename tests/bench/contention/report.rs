//! The report: what was measured, the tables, and what they say.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::fs;

use super::case::{Arrangement, Case, FAST, Kind, SLOW, SLOW_WORK};
use super::figures::{Figures, Measured};

const LEGEND: &str = "\
Each device is a virtio-blk disk on null-co with a driver's thread of its own, which makes a batch of reads, kicks, and sleeps
until it is called. null: batches of 4; waking and being woken is all there is, and costs more from one processor to another.
busy: batches of 4, and 40 us of processor time for each batch. neighbours: single requests; each dispatch of the slow device
takes 200 us of processor time, the fast one's nothing, and the fast one's driver rests up to 400 us before each request, so
that it meets the slow device at any moment.
one context: all devices on one context. a context each: each device on a context of its own. each, big lock: the same, and
every dispatch of a device takes one mutex that all share. each, lock left out: the same without the mutex, for what the way
of taking it costs: the AioContext is a plain GSource there. Contexts do not busy-poll. With fewer than two processors for
each device, drivers and contexts share them: then the rows of a case compare with each other only.
Medians of slices taken in turns, percentiles of all of them together. CPU and switches: of the contexts' threads.
lock waits: dispatches that found the lock held. at once: the most devices that were at work at the same time. others:
processors that other processes kept busy.
";

/// The machine, and how busy it is.
pub(crate) fn machine(processors: usize, real_time: bool) -> String {
    let word = |path| fs::read_to_string(path).unwrap_or_default();
    let load = word("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let info = word("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let model = model.unwrap_or("unknown processor");
    let kernel = word("/proc/sys/kernel/osrelease");
    let (kernel, load) = (kernel.trim(), load.join(" "));
    let priority = if real_time { "real-time" } else { "usual" };
    format!("{processors} x {model}, Linux {kernel}, load {load}, {priority} priority")
}

/// The whole report; `machine` before and after.
pub(crate) fn text(
    machine: &[String; 2],
    all: &[Measured],
    skipped: &[Case],
    processors: usize,
) -> String {
    let [before, after] = machine;
    let mut text = format!("before: {before}\nafter: {after}\n\n{LEGEND}\n");
    let (beside, several): (Vec<_>, Vec<_>) = all
        .iter()
        .partition(|measured| measured.case.kind == Kind::Neighbours);
    if !several.is_empty() {
        text += &several_table(&several);
    }
    for measured in &beside {
        text += &neighbours_table(measured);
    }
    for case in skipped {
        let needed = case.devices;
        let _ = writeln!(
            text,
            "SKIP: {case}: needs {needed} processors, there are {processors}"
        );
    }
    text += "\n";
    for measured in &several {
        text += &scaling(measured, &several, processors);
    }
    for measured in all {
        text += &reading(measured);
    }
    text
}

fn several_table(rows: &[&Measured]) -> String {
    let mut text = String::from(
        "\
| case     | arrangement         | requests/s | / one | p50 us | p99 us | CPU us/req | switches/req | lock waits | wait us | at once | others |
|----------|---------------------|-----------:|------:|-------:|-------:|-----------:|-------------:|-----------:|--------:|--------:|-------:|
",
    );
    for measured in rows {
        let one = measured.of(Arrangement::One).all.per_second;
        for arrangement in Arrangement::ALL {
            let figures = measured.of(arrangement);
            let all = figures.all;
            let _ = writeln!(
                text,
                "| {:8} | {:19} | {:10.0} | {:5.2} | {:6.1} | {:6.0} | {:10.2} | {:12.2} | {} | {:7} | {:6.2} |",
                measured.case.to_string(),
                arrangement.name(),
                all.per_second,
                all.per_second / one,
                all.p50,
                all.p99,
                figures.cpu,
                figures.switches,
                waits(figures),
                figures.at_once,
                figures.others,
            );
        }
    }
    text + "\n"
}

fn neighbours_table(measured: &Measured) -> String {
    let mut text = String::from(
        "\
| neighbours          | fast p50 us | fast p99 us | slow requests/s | slow p50 us | lock waits | wait us | at once | others |
|---------------------|------------:|------------:|----------------:|------------:|-----------:|--------:|--------:|-------:|
",
    );
    for arrangement in Arrangement::ALL {
        let figures = measured.of(arrangement);
        let (fast, slow) = (figures.devices[FAST], figures.devices[SLOW]);
        let _ = writeln!(
            text,
            "| {:19} | {:11.1} | {:11.0} | {:15.0} | {:11.1} | {} | {:7} | {:6.2} |",
            arrangement.name(),
            fast.p50,
            fast.p99,
            slow.per_second,
            slow.p50,
            waits(figures),
            figures.at_once,
            figures.others,
        );
    }
    text + "\n"
}

/// The columns of the lock, empty where there is none.
fn waits(figures: &Figures) -> String {
    if figures.takes == 0.0 {
        return format!("{:>10} | {:>7}", "-", "-");
    }
    format!("{:8.1} % | {:7.1}", figures.waits * 100.0, figures.wait)
}

/// What several devices do on a context each, compared with one device; only with processors for all the threads.
fn scaling(measured: &Measured, rows: &[&Measured], processors: usize) -> String {
    let case = measured.case;
    let single = Case { devices: 1, ..case };
    let Some(single) = rows.iter().find(|row| row.case == single) else {
        return String::new();
    };
    let needed = 2 * case.devices;
    if case.devices == 1 {
        return String::new();
    }
    if processors < needed {
        let why = "a context and a driver for each device";
        return format!(
            "SKIP: scaling of {case}: needs {needed} processors, {why}; there are {processors}\n"
        );
    }
    let factor = |arrangement| {
        let row = |row: &Measured| row.of(arrangement).all.per_second;
        row(measured) / row(single)
    };
    format!(
        "scaling of {case}, to one device: {:.2} x on a context each, {:.2} x with the big lock\n",
        factor(Arrangement::Each),
        factor(Arrangement::Locked)
    )
}

/// What the figures of a case say, in words.
fn reading(measured: &Measured) -> String {
    let [one, each, locked, unlocked] =
        Arrangement::ALL.map(|arrangement| measured.of(arrangement));
    let case = measured.case;
    if case.kind == Kind::Neighbours {
        let [one, each, locked, unlocked] =
            [one, each, locked, unlocked].map(|figures| figures.devices[FAST]);
        return format!(
            "{case}: beside a device whose dispatch takes {} us, a request of the fast one takes {:.0} us (p99 {:.0}) on one \
             context, {:.0} us ({:.0}) on a context of its own, {:.0} us ({:.0}) there under the big lock, {:.0} us ({:.0}) \
             with the lock left out\n",
            SLOW_WORK.as_micros(),
            one.p50,
            one.p99,
            each.p50,
            each.p99,
            locked.p50,
            locked.p99,
            unlocked.p50,
            unlocked.p99,
        );
    }
    let over = |figures: &Figures, base: &Figures| figures.all.per_second / base.all.per_second;
    format!(
        "{case}: a context each serves {:.2} x the requests of one context; the big lock leaves {:.2} x of what is served \
         without it, {:.0} % of the dispatches wait for it\n",
        over(each, one),
        over(locked, unlocked),
        locked.waits * 100.0,
    )
}
