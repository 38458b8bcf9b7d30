//! The kernel's view of a thread.
#![allow(unsafe_code)] // gettid(2)

pub fn gettid() -> libc::pid_t {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::gettid() }
}

/// Returns when the kernel says that the thread sleeps.
pub fn wait_asleep(tid: libc::pid_t) {
    let path = format!("/proc/self/task/{tid}/stat");
    let asleep = || {
        let stat = std::fs::read_to_string(&path).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('S')
    };
    while !asleep() {
        std::thread::yield_now();
    }
}
