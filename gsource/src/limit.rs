//! The limits that a failed system call ran into, for people: which one, its value now, and how to raise it.
//!
//! Used by [`Error`](crate::Error). Most values are asked for without an fd, because fds may be what has run out.
#![allow(unsafe_code)] // getrlimit

use std::fs;
use std::io;

/// What a system call needs that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open files.
    Fds,
    /// A thread.
    Thread,
    /// A mapping of memory.
    Mapping,
    /// An io_uring.
    Ring,
    /// A place in an epoll set.
    Watch,
}

/// The limit behind `error`, if it says that one is reached.
pub(crate) fn explain(error: &io::Error, wanted: Resource) -> Option<String> {
    match (error.raw_os_error()?, wanted) {
        (libc::EMFILE, _) => Some(fds()),
        (libc::ENFILE, _) => Some(text(
            "the system's limit on open files",
            None,
            "sysctl fs.file-max",
        )),
        (libc::EAGAIN, Resource::Thread) => Some(threads()),
        (libc::ENOMEM, Resource::Mapping) => mappings(),
        (libc::ENOMEM, Resource::Ring) => Some(text(
            "the limit on locked memory in bytes",
            soft(libc::RLIMIT_MEMLOCK),
            "ulimit -l, LimitMEMLOCK=",
        )),
        (libc::EPERM, Resource::Ring) => Some(text(
            "the setting for io_uring",
            number("/proc/sys/kernel/io_uring_disabled"),
            "sysctl kernel.io_uring_disabled, or a filter for system calls",
        )),
        (libc::ENOSPC, Resource::Watch) => Some(text(
            "the user's limit on fds in epoll sets",
            number("/proc/sys/fs/epoll/max_user_watches"),
            "sysctl fs.epoll.max_user_watches",
        )),
        _ => None,
    }
}

fn text(what: &str, value: Option<u64>, how: &str) -> String {
    match value {
        Some(value) => format!("{what} is {value} ({how})"),
        None => format!("{what} is reached ({how})"),
    }
}

fn fds() -> String {
    text(
        "the limit on open files",
        soft(libc::RLIMIT_NOFILE),
        "ulimit -n, LimitNOFILE=",
    )
}

/// The kernel does not say which limit it was, so all are named.
fn threads() -> String {
    let mut all = vec![text(
        "the user's limit on threads",
        soft(libc::RLIMIT_NPROC),
        "ulimit -u, LimitNPROC=",
    )];
    if let Some(most) = cgroup("pids.max") {
        let how = format!("TasksMax=; {} run", cgroup("pids.current").unwrap_or(0));
        all.push(text("the cgroup's", Some(most), &how));
    }
    all.push(text(
        "the system's",
        number("/proc/sys/kernel/threads-max"),
        "sysctl kernel.threads-max",
    ));
    all.join(", ")
}

fn mappings() -> Option<String> {
    let most = number("/proc/sys/vm/max_map_count")?;
    let now = fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count());
    // A call may need more than one.
    if now as u64 + 16 >= most {
        let what = "the limit on memory mappings of a process";
        return Some(text(what, Some(most), "sysctl vm.max_map_count"));
    }
    let bytes = soft(libc::RLIMIT_AS)?;
    let what = "the limit on address space in bytes";
    Some(text(what, Some(bytes), "ulimit -v, LimitAS="))
}

/// A soft limit of the process; none if there is none.
fn soft(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the record is valid for writes.
    let known = unsafe { libc::getrlimit(resource, &raw mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A number of the process's cgroup (version 2); none for `max`.
fn cgroup(file: &str) -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    number(&format!("/sys/fs/cgroup{path}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errno: i32, wanted: Resource) -> String {
        explain(&io::Error::from_raw_os_error(errno), wanted).unwrap_or_default()
    }

    #[test]
    fn the_limit_that_is_reached_is_named_with_its_value() {
        let most = soft(libc::RLIMIT_NOFILE).unwrap();
        assert_eq!(
            told(libc::EMFILE, Resource::Mapping),
            format!("the limit on open files is {most} (ulimit -n, LimitNOFILE=)")
        );
        let threads = told(libc::EAGAIN, Resource::Thread);
        for word in ["LimitNPROC=", "kernel.threads-max"] {
            assert!(threads.contains(word), "{threads}");
        }
        let watches = told(libc::ENOSPC, Resource::Watch);
        let all = number("/proc/sys/fs/epoll/max_user_watches").unwrap();
        assert!(watches.contains(&format!(" is {all} (")), "{watches}");
        assert!(told(libc::ENOMEM, Resource::Ring).contains("LimitMEMLOCK="));
        assert!(told(libc::EPERM, Resource::Ring).contains("io_uring_disabled"));
    }

    #[test]
    fn errors_of_another_kind_name_no_limit() {
        assert_eq!(told(libc::EAGAIN, Resource::Fds), "");
        assert_eq!(told(libc::ENOSPC, Resource::Fds), "");
        assert_eq!(told(libc::EPERM, Resource::Thread), "");
        assert_eq!(told(libc::ENOENT, Resource::Mapping), "");
    }
}
