//! The host's CPUs that a thread may run on, by sched_setaffinity(2). For the threads of contexts and of vcpus.
#![allow(unsafe_code)] // sched_setaffinity(2) and sched_getaffinity(2)

use std::io;

use crate::{Error, ErrorKind, Result};

/// More CPUs than a kernel can be built for (`NR_CPUS`).
const CPUS_MAX: usize = 1 << 16;

type Mask = Vec<libc::c_ulong>;

const BITS: usize = libc::c_ulong::BITS as usize;

/// The CPUs that the thread may run on, in ascending order.
pub(crate) fn affinity(thread_id: i64) -> Result<Vec<usize>> {
    let mask = get(thread_id).map_err(|error| Error::os("cannot read the affinity", error))?;
    Ok((0..CPUS_MAX).filter(|cpu| contains(&mask, *cpu)).collect())
}

/// Restricts the thread to these CPUs.
///
/// # Errors
/// `InvalidArgument` if the list is empty, or the process may not use one of them. Nothing has changed then.
pub(crate) fn set_affinity(thread_id: i64, cpus: &[usize]) -> Result<()> {
    let wanted = mask(cpus)?;
    let before = get(thread_id).map_err(|error| Error::os("cannot read the affinity", error))?;
    let set = set(thread_id, &wanted);
    match set.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(libc::EINVAL)) => return Err(refuse(cpus)),
        Err(_) => return set.map_err(|error| Error::os("cannot set the affinity", error)),
        Ok(()) => {}
    }
    // The kernel ignores CPUs that do not exist, and reports no error.
    if get(thread_id).is_ok_and(|got| cpus.iter().all(|cpu| contains(&got, *cpu))) {
        return Ok(());
    }
    let _ = self::set(thread_id, &before);
    Err(refuse(cpus))
}

fn refuse(cpus: &[usize]) -> Error {
    let message = format!("not all of the CPUs {cpus:?} are there for this process");
    Error::new(ErrorKind::InvalidArgument, message)
}

fn mask(cpus: &[usize]) -> Result<Mask> {
    let Some(last) = cpus.iter().max() else {
        let message = "a list of CPUs must not be empty";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    };
    if *last >= CPUS_MAX {
        return Err(refuse(cpus));
    }
    let mut mask = vec![0; last / BITS + 1];
    for cpu in cpus {
        mask[cpu / BITS] |= 1 << (cpu % BITS);
    }
    Ok(mask)
}

fn contains(mask: &[libc::c_ulong], cpu: usize) -> bool {
    mask.get(cpu / BITS)
        .is_some_and(|word| word & 1 << (cpu % BITS) != 0)
}

fn pid(thread_id: i64) -> libc::pid_t {
    // 0 would be the calling thread.
    libc::pid_t::try_from(thread_id).unwrap_or(-1)
}

fn get(thread_id: i64) -> io::Result<Mask> {
    let mut mask: Mask = vec![0; CPUS_MAX / BITS];
    let size = size_of_val(mask.as_slice());
    // SAFETY: the buffer is valid for writes of its size, which is a multiple of a long's.
    let failed = unsafe { libc::sched_getaffinity(pid(thread_id), size, mask.as_mut_ptr().cast()) };
    match failed {
        0 => Ok(mask),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(thread_id: i64, mask: &[libc::c_ulong]) -> io::Result<()> {
    let size = size_of_val(mask);
    // SAFETY: the buffer is valid for reads of its size.
    let failed = unsafe { libc::sched_setaffinity(pid(thread_id), size, mask.as_ptr().cast()) };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this_thread() -> i64 {
        super::super::run::thread_id()
    }

    #[test]
    fn what_is_set_is_read_back_and_a_refusal_changes_nothing() {
        let before = affinity(this_thread()).unwrap();
        let last = *before.last().unwrap();
        set_affinity(this_thread(), &[last]).unwrap();
        assert_eq!(affinity(this_thread()).unwrap(), [last]);
        for wrong in [
            vec![],
            vec![CPUS_MAX],
            vec![CPUS_MAX - 1],
            vec![last, CPUS_MAX - 1],
        ] {
            let error = set_affinity(this_thread(), &wrong).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::InvalidArgument,
                "{wrong:?}: {error}"
            );
            assert_eq!(affinity(this_thread()).unwrap(), [last], "{wrong:?}");
        }
        set_affinity(this_thread(), &before).unwrap();
        assert_eq!(affinity(this_thread()).unwrap(), before);
    }

    #[test]
    fn threads_that_are_gone_have_no_affinity() {
        let id = std::thread::spawn(this_thread).join().unwrap();
        assert!(affinity(-1).is_err());
        // A thread's id is not given out again at once.
        assert!(affinity(id).is_err());
    }
}
