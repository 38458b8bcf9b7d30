//! Driving an AioContext without a context: iterations, their timeout and their polling.
#![allow(unsafe_code)] // entry points

use crate::argument::entry;
use crate::boundary::Fault;
use crate::handle::{Borrowed, QContextAio};
use crate::run::wait;
use glib_sys::{GError, gboolean};
use qcontext::{AioContext, ErrorKind, PollParams};

/// qcontext_aio_poll:
/// Runs one iteration of the AioContext. If it is attached to a context, this serves all AioContexts that are attached there, but
/// neither calls the context's fd handlers and GSources nor returns because of them: they wait for the context's next iteration.
/// Waits once at most.
/// @aio: an AioContext
/// @may_block: whether to wait until something happens
/// @error: WRONG_THREAD while another thread drives it, OS
///
/// Returns: whether it made progress: a bottom half that is not idle, a handler or a timer ran.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_poll(
    aio: *mut QContextAio,
    may_block: gboolean,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_aio_poll, 0, error, |aio: AioContext| {
        Ok(aio.poll(wait(may_block))?.into())
    })
}

/// qcontext_aio_bh_poll:
/// Runs the bottom halves of the AioContext that are scheduled, and nothing else. Never waits.
/// @aio: an AioContext
/// @error: WRONG_THREAD while another thread drives it
///
/// Returns: whether one that is not idle ran.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_bh_poll(
    aio: *mut QContextAio,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_aio_bh_poll, 0, error, |aio: AioContext| {
        Ok(aio.poll_bhs()?.into())
    })
}

/// qcontext_aio_compute_timeout:
/// Returns how long qcontext_aio_poll() would wait now. If the AioContext is attached, the whole context counts.
/// @aio: an AioContext
///
/// Returns: nanoseconds: 0 when a bottom half is scheduled or a timer is due, 10000000 at most while an idle bottom half is
/// scheduled, -1 when only an event would end the wait. A call from another thread than the one that drives is a critical and 0.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_compute_timeout(aio: *mut QContextAio) -> i64 {
    entry!(qcontext_aio_compute_timeout, 0, |aio: AioContext| {
        let bound = aio.timeout_ns();
        let bound = bound.map_err(|error| match error.kind() {
            ErrorKind::WrongThread => Fault::Misuse("another thread drives the AioContext"),
            _ => Fault::Error(error),
        })?;
        Ok(bound.unwrap_or(-1))
    })
}

/// qcontext_aio_notify:
/// Ends the current or next wait. That alone is not progress.
/// @aio: an AioContext
///
/// Any thread, any locks held, also from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_notify(aio: *mut QContextAio) {
    entry!(qcontext_aio_notify, (), |aio: Borrowed<AioContext>| {
        aio.notify();
        Ok(())
    });
}

/// qcontext_aio_notify_accept:
/// Forgets notifications that have come, so that they do not end the next wait. What they announced is found all the same.
/// @aio: an AioContext
/// @error: WRONG_THREAD while another thread drives it
///
/// Returns: FALSE on failure.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_notify_accept(
    aio: *mut QContextAio,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_aio_notify_accept, 0, error, |aio: AioContext| {
        aio.accept_notifications()?;
        Ok(1)
    })
}

/// qcontext_aio_is_home:
/// @aio: an AioContext
///
/// Returns: whether the calling thread drives it right now.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_is_home(aio: *mut QContextAio) -> gboolean {
    entry!(qcontext_aio_is_home, 0, |aio: Borrowed<AioContext>| {
        Ok(aio.is_home().into())
    })
}

/// qcontext_aio_set_poll_params:
/// Changes how long qcontext_aio_poll() of an unattached AioContext busy-polls before it sleeps; at first it does not.
/// @aio: an AioContext
/// @max_ns: the longest time; 0 never polls
/// @grow: the factor by which the time grows; 0 means 2
/// @shrink: the divisor by which it shrinks; 0 means back to nothing
/// @error: INVALID_ARGUMENT when one is negative
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_set_poll_params(
    aio: *mut QContextAio,
    max_ns: i64,
    grow: i64,
    shrink: i64,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_aio_set_poll_params, 0, error, |aio: AioContext| {
        aio.set_poll_params(PollParams {
            max_ns,
            grow,
            shrink,
        })?;
        Ok(1)
    })
}
