//! Jobs for worker threads.
#![allow(unsafe_code)] // pointers from C

use crate::argument::{Given, Pointee, entry, give};
use crate::boundary::Fault;
use crate::callback::{QContextJobDoneFunc, QContextJobFunc};
use crate::handle::QContextAio;
use crate::user::{register, send_to_aio};
use glib_sys::{GDestroyNotify, GError, gboolean, gpointer};
use qcontext::{AioContext, Job, PoolLimits, Result, Wait};
use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// QContextJob:
/// A job that was submitted.
#[derive(Debug)]
pub struct QContextJob {
    job: Job,
    aio: AioContext,
    /// The completion has run.
    complete: Arc<AtomicBool>,
}

impl Pointee for QContextJob {}

/// A job's result for C.
fn result_of(outcome: Result<c_int>) -> c_int {
    outcome.unwrap_or_else(|error| -error.errno())
}

/// The argument of a job.
struct Argument(gpointer);

// SAFETY: promise 5: the argument may be used on a worker thread.
unsafe impl Send for Argument {}

impl Argument {
    fn give_to(&self, func: unsafe extern "C" fn(gpointer) -> c_int) -> c_int {
        // SAFETY: C submitted this function for this argument.
        unsafe { func(self.0) }
    }
}

/// qcontext_pool_submit:
/// Runs a job on a worker thread of the AioContext's pool. Jobs start in the order of submission.
/// @aio: the AioContext on which the completion runs
/// @func: the job
/// @arg: its argument, not used after it has returned or was cancelled
/// @done: (nullable): called with the result; never before this call has returned to the loop
/// @user_data: data of @done
/// @destroy: (nullable): runs after @done, or without it when the AioContext ends first
/// @error: OS when no worker can be started; nothing was taken then
///
/// Returns: (transfer full) (nullable): the job; free with qcontext_job_free(), at any time.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_pool_submit(
    aio: *mut QContextAio,
    func: QContextJobFunc,
    arg: gpointer,
    done: QContextJobDoneFunc,
    user_data: gpointer,
    destroy: GDestroyNotify,
    error: *mut *mut GError,
) -> *mut QContextJob {
    entry!(
        qcontext_pool_submit,
        ptr::null_mut(),
        error,
        |aio: AioContext| {
            let func = func.ok_or(Fault::Misuse("the job is NULL"))?;
            let argument = Argument(arg);
            let complete = Arc::new(AtomicBool::new(false));
            let completed = Arc::clone(&complete);
            let job = register(user_data, destroy, send_to_aio(&aio), |user, _| {
                let complete_job = move |outcome| {
                    user.call_done(done, result_of(outcome));
                    completed.store(true, Ordering::Release);
                };
                Ok(aio.submit(move || argument.give_to(func), complete_job))
            })?;
            Ok(give(QContextJob { job, aio, complete }))
        }
    )
}

/// qcontext_job_cancel:
/// Completes a job with -ECANCELED if it has not begun. A running job completes normally.
/// @job: a job
///
/// Returns: whether it had not begun.
///
/// Any thread, any locks held; never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_job_cancel(job: *mut QContextJob) -> gboolean {
    entry!(qcontext_job_cancel, 0, |job: &QContextJob| {
        Ok(job.job.cancel().into())
    })
}

/// qcontext_job_cancel_sync:
/// As qcontext_job_cancel(), and iterates the AioContext, as qcontext_aio_poll() does, until the completion has run.
/// @job: a job
/// @error: WRONG_THREAD while another thread drives the AioContext
///
/// Returns: TRUE when the completion has run.
///
/// The thread that drives, or any when none does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_job_cancel_sync(
    job: *mut QContextJob,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_job_cancel_sync, 0, error, |job: &QContextJob| {
        job.job.cancel();
        while !job.complete.load(Ordering::Acquire) {
            job.aio.poll(Wait::Block)?;
        }
        Ok(1)
    })
}

/// qcontext_job_is_complete:
/// @job: a job
///
/// Returns: whether the completion has run.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_job_is_complete(job: *mut QContextJob) -> gboolean {
    entry!(qcontext_job_is_complete, 0, |job: &QContextJob| {
        Ok(job.complete.load(Ordering::Acquire).into())
    })
}

/// qcontext_job_free:
/// Frees the handle of a job. The job itself continues.
/// @job: (nullable) (transfer full): a job; NULL is ignored
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_job_free(job: *mut QContextJob) {
    entry!(qcontext_job_free, (), |job: Given<Box<QContextJob>>| {
        drop(job);
        Ok(())
    });
}

/// qcontext_aio_set_pool_limits:
/// Changes the limits of the AioContext's worker pool. The defaults are 0 and 64.
/// @aio: an AioContext
/// @min: the number of workers that stay when there are no jobs
/// @max: the largest number of workers
/// @error: INVALID_ARGUMENT when @max is 0 or below @min
///
/// Returns: FALSE on failure; nothing has changed then.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_aio_set_pool_limits(
    aio: *mut QContextAio,
    min: u32,
    max: u32,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_aio_set_pool_limits, 0, error, |aio: AioContext| {
        aio.set_pool_limits(PoolLimits {
            min: min.into(),
            max: max.into(),
        })?;
        Ok(1)
    })
}
