//! The clocks.
#![allow(unsafe_code)] // entry points
#![allow(non_camel_case_types)] // the constants are C's

use crate::argument::entry;
use crate::boundary::Fault;
use glib_sys::{GError, gboolean};
use qcontext::Clock;

/// QContextClock:
/// The time bases, all in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QContextClock {
    /// Monotonic time since boot.
    QCONTEXT_CLOCK_REALTIME = 0,
    /// Monotonic time since the program has started, which stands still while the machine is stopped, and can be set.
    QCONTEXT_CLOCK_VIRTUAL = 1,
    /// The wall clock, which can jump.
    QCONTEXT_CLOCK_HOST = 2,
    /// Monotonic time, for code that drives the virtual clock.
    QCONTEXT_CLOCK_VIRTUAL_RT = 3,
}

/// The clock of a number from C.
pub(crate) fn by_number(number: u32) -> Result<Clock, Fault> {
    match number {
        0 => Ok(Clock::Realtime),
        1 => Ok(Clock::Virtual),
        2 => Ok(Clock::Host),
        3 => Ok(Clock::VirtualRt),
        _ => Err(Fault::Misuse("there is no such clock")),
    }
}

/// qcontext_clock_get_ns:
/// @clock: a QContextClock
///
/// Returns: the time now.
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_clock_get_ns(clock: u32) -> i64 {
    entry!(qcontext_clock_get_ns, 0, || {
        Ok(by_number(clock)?.now_ns())
    })
}

/// qcontext_clock_deadline_ns:
/// @clock: a QContextClock
///
/// Returns: nanoseconds until the first timer of any AioContext on this clock is due, 0 when one is due already, -1 without a timer.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_clock_deadline_ns(clock: u32) -> i64 {
    entry!(qcontext_clock_deadline_ns, -1, || {
        Ok(qcontext::deadline_ns(by_number(clock)?).unwrap_or(-1))
    })
}

fn check_virtual(clock: u32, rule: &'static str) -> Result<(), Fault> {
    match by_number(clock)? {
        Clock::Virtual => Ok(()),
        _ => Err(Fault::Misuse(rule)),
    }
}

/// qcontext_clock_enable:
/// Starts or stops the virtual clock. While it is stopped, its timers do not fire and do not limit a wait. The other clocks
/// always run.
/// @clock: QCONTEXT_CLOCK_VIRTUAL
/// @enabled: whether it runs
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_clock_enable(clock: u32, enabled: gboolean) {
    entry!(qcontext_clock_enable, (), || {
        check_virtual(clock, "only the virtual clock can be stopped")?;
        if enabled != 0 {
            qcontext::start_virtual_clock();
        } else {
            qcontext::stop_virtual_clock();
        }
        Ok(())
    });
}

/// qcontext_clock_set_ns:
/// Sets the virtual clock, forwards or back. It runs on, or stands still as before. Timers keep their deadlines.
/// @clock: QCONTEXT_CLOCK_VIRTUAL
/// @ns: the time, from 0 to 2^59
/// @error: INVALID_ARGUMENT for another time
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_clock_set_ns(
    clock: u32,
    ns: i64,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_clock_set_ns, 0, error, || {
        check_virtual(clock, "only the virtual clock can be set")?;
        qcontext::set_virtual_clock(ns)?;
        Ok(1)
    })
}

/// qcontext_clock_step_ns:
/// Moves the virtual clock forwards, from one deadline of its timers to the next, for tests of devices. At each deadline, timers of
/// qcontext-main and of the calling thread's context fire inside this call, unless another thread runs that context. So each of
/// their callbacks sees its own deadline as the time if the clock is stopped, and what it arms can fire in the same step. Timers of
/// other contexts fire on their threads, soon; timers of an unattached AioContext when it is polled. From the first step on, the
/// timers of a stopped clock fire when they are due, until it is stopped again. Between the steps it stands still.
/// @clock: QCONTEXT_CLOCK_VIRTUAL
/// @ns: how far
/// @error: INVALID_ARGUMENT for a step back, or one to a time after 2^59
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread; calls back, so no lock that callbacks of these contexts take may be held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_clock_step_ns(
    clock: u32,
    ns: i64,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_clock_step_ns, 0, error, || {
        check_virtual(clock, "only the virtual clock can be stepped")?;
        qcontext::step_virtual_clock(ns)?;
        Ok(1)
    })
}
