//! Real-time priority, so that the figures are not those of whatever else the machine does.
#![allow(unsafe_code)] // sched_setscheduler(2)

/// Puts the calling thread, and all threads that it starts from now on, before everything that is not real-time; false when
/// that is not allowed.
pub(crate) fn raise() -> bool {
    set(libc::SCHED_FIFO, 1)
}

/// Takes that back for the calling thread.
pub(crate) fn lower() {
    set(libc::SCHED_OTHER, 0);
}

fn set(policy: i32, priority: i32) -> bool {
    let param = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameter is valid for the call.
    unsafe { libc::sched_setscheduler(0, policy, &raw const param) == 0 }
}
