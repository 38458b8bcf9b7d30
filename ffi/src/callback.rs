//! The types of C callbacks.
#![forbid(unsafe_code)]

use glib_sys::{GArray, gboolean, gpointer};
use std::ffi::c_int;

/// QContextFunc:
/// A callback that receives its user data.
pub type QContextFunc = Option<unsafe extern "C" fn(user_data: gpointer)>;

/// QContextBoolFunc:
/// A question that receives its user data: whether a handler can read now, or whether polling found work.
pub type QContextBoolFunc = Option<unsafe extern "C" fn(user_data: gpointer) -> gboolean>;

/// QContextJobFunc:
/// A job. It runs on a worker thread and returns its result.
pub type QContextJobFunc = Option<unsafe extern "C" fn(arg: gpointer) -> c_int>;

/// QContextJobDoneFunc:
/// Receives a job's result, or -ECANCELED, on the thread that drives.
pub type QContextJobDoneFunc = Option<unsafe extern "C" fn(user_data: gpointer, result: c_int)>;

/// QContextFillFunc:
/// Appends GPollFDs to @pollfds and may lower *@timeout_ms, where -1 means for ever.
pub type QContextFillFunc =
    Option<unsafe extern "C" fn(pollfds: *mut GArray, timeout_ms: *mut i32, user_data: gpointer)>;

/// QContextPolledFunc:
/// Receives the array with the revents of all entries, those of other hooks and of GLib among them.
pub type QContextPolledFunc =
    Option<unsafe extern "C" fn(pollfds: *mut GArray, user_data: gpointer)>;
