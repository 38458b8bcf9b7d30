//! The limit on open files. A device needs three fds for each queue, and more for its memory; the usual soft limit of 1024 is for
//! programs that use `select`.
#![allow(unsafe_code)] // getrlimit and setrlimit have no safe binding

/// Raises the soft limit of this process to the hard one. Where that is not possible, the limit stays: a device that runs into it
/// says so.
pub(super) fn raise() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the record is valid for writes.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if known && limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the record is valid for reads.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}
