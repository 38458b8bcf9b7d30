//! System calls that the kernel refuses to one thread, by a seccomp filter (seccomp(2), in classic BPF).
#![allow(unsafe_code)] // prctl(2) and seccomp(2)

use std::io;

/// What happens to a thread that makes a forbidden call.
#[derive(Clone, Copy, Debug)]
pub enum Penalty {
    /// The call fails with that error.
    Errno(i32),
    /// The process is killed.
    Death,
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    let code = u16::try_from(code).unwrap();
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Forbids `calls` to the calling thread for as long as it lives. An error means that this kernel has no filters.
pub fn forbid(calls: &[libc::c_long], penalty: Penalty) -> io::Result<()> {
    let verdict = match penalty {
        Penalty::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap(),
        Penalty::Death => libc::SECCOMP_RET_KILL_PROCESS,
    };
    // The number of the call is the first word of what a filter sees.
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for &call in calls {
        let mut compare = statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            u32::try_from(call).unwrap(),
        );
        compare.jf = 1;
        program.extend([compare, statement(libc::BPF_RET | libc::BPF_K, verdict)]);
    }
    program.push(statement(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ALLOW,
    ));
    install(&mut program)
}

fn install(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: takes numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program is valid for the call, which copies it.
    if unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const filter) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
