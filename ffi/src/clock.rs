//! The clocks.
#![allow(unsafe_code)] // entry points
#![allow(non_camel_case_types)] // the constants are C's

use crate::argument::entry;
use crate::boundary::Fault;
use glib_sys::gboolean;
use qcontext::Clock;

/// QContextClock:
/// The time bases, all in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QContextClock {
    /// Monotonic time since boot.
    QCONTEXT_CLOCK_REALTIME = 0,
    /// Monotonic time that stands still while the machine is stopped.
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
        if by_number(clock)? != Clock::Virtual {
            return Err(Fault::Misuse("only the virtual clock can be stopped"));
        }
        if enabled != 0 {
            qcontext::start_virtual_clock();
        } else {
            qcontext::stop_virtual_clock();
        }
        Ok(())
    });
}
