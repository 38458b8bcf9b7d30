//! A thread without a privilege of the process, as an ordinary user's are.
#![allow(unsafe_code)] // capset(2)

use std::io;
use std::thread;

const VERSION_3: u32 = 0x2008_0522;
const CAP_SYS_NICE: u32 = 23;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Runs `work` on a thread that may not make itself or others more important.
pub fn without_sys_nice(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            drop_sys_nice().unwrap();
            work();
        });
        thread.join().unwrap();
    });
}

fn drop_sys_nice() -> io::Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: valid places for a header and, in this version, two sets.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    sets[0].effective &= !(1 << CAP_SYS_NICE);
    // SAFETY: as above.
    let written = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    match read | written {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
