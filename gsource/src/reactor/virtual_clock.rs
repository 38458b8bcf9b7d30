//! The virtual clock's switch and hand: it is stopped, started, set and stepped, and every reactor whose timers that concerns is
//! woken.
//!
//! # Threads
//! Any thread, any locks held, except [`step_virtual_clock`], which calls back.
#![forbid(unsafe_code)]

use super::Reactor;
use super::all_reactors;
use crate::clock;
use crate::{Clock, Error, ErrorKind, Result};

/// The latest time that the clock can be set to: 18 years.
const LATEST_NS: i64 = 1 << 59;

/// Stops the virtual clock: its timers neither fire nor bound a wait until it is started again.
pub fn stop_virtual_clock() {
    clock::stop_virtual();
    notify_all();
}

/// Lets the virtual clock run on from where it stood.
pub fn start_virtual_clock() {
    clock::start_virtual();
    notify_all();
}

/// Sets the virtual clock, forwards or back. It runs on, or stands still as before. Timers keep their deadlines.
///
/// # Errors
/// `InvalidArgument` for a time before 0 or after 2^59 ns; nothing has changed then.
pub fn set_virtual_clock(ns: i64) -> Result<()> {
    let ns = checked(Some(ns))?;
    clock::set_virtual(ns);
    notify_all();
    Ok(())
}

/// Moves the virtual clock forwards by `ns`, from one deadline of its timers to the next. At each deadline, and at the end, `fire`
/// is called, which fires the timers that the calling thread may fire. What it arms counts as well.
///
/// From the first step on, the timers of a stopped clock fire when they are due, until it is stopped again. Between the steps it
/// stands still.
///
/// # Errors
/// `InvalidArgument` for a step back, or one to a time after 2^59 ns; nothing has changed then.
#[doc(hidden)] // for the contexts of qcontext
pub fn step_virtual_clock(ns: i64, mut fire: impl FnMut()) -> Result<()> {
    let forwards = (ns >= 0).then(|| Clock::Virtual.now_ns().saturating_add(ns));
    let end = checked(forwards)?;
    loop {
        let next = first_deadline_after(Clock::Virtual, Clock::Virtual.now_ns());
        let stop = next.map_or(end, |deadline| deadline.min(end));
        clock::step_virtual(stop);
        notify_all();
        fire();
        if stop == end {
            return Ok(());
        }
    }
}

/// Nanoseconds until the first timer of any AioContext on `clock` is due, 0 if one is due already; `None` without a timer.
pub fn deadline_ns(clock: Clock) -> Option<i64> {
    let first = first_deadline_after(clock, i64::MIN);
    first.map(|deadline| (deadline - clock.now_ns()).max(0))
}

fn first_deadline_after(clock: Clock, time: i64) -> Option<i64> {
    let deadlines = all_reactors::alive().into_iter();
    deadlines
        .filter_map(|reactor| reactor.deadline_after(clock, time))
        .min()
}

fn checked(time: Option<i64>) -> Result<i64> {
    time.filter(|time| (0..=LATEST_NS).contains(time))
        .ok_or_else(|| {
            let message =
                format!("the virtual clock moves forwards, to a time from 0 to {LATEST_NS} ns");
            Error::new(ErrorKind::InvalidArgument, message)
        })
}

fn notify_all() {
    for reactor in all_reactors::alive() {
        reactor.notify();
    }
}

impl Reactor {
    /// Fires the timers of the virtual clock that are due. True when there was one.
    ///
    /// # Errors
    /// `WrongThread` while another thread drives.
    #[doc(hidden)] // for the contexts of qcontext
    pub fn fire_virtual_timers(&self) -> Result<bool> {
        Ok(self.drive()?.run_timers_of(Clock::Virtual))
    }
}
