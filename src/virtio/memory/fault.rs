//! The SIGBUS handler and its table of guest mappings: a peer may truncate a memory file that is mapped here.
//!
//! Used by [`super::mapping`] alone. Touching a page beyond the end of a shared file raises SIGBUS. The handler looks
//! the address up in the table. Inside a guest mapping it maps an anonymous zero page there, marks the mapping as
//! poisoned and returns, so the interrupted access reads zeroes. Queues ask [`faults`] once per batch and break when their
//! memory is poisoned. A fault at any other address goes to the handler that was installed before, usually the default.
//!
//! # Threads
//! Any thread adds and removes mappings; the handler runs on the thread that faulted.
//!
//! # Invariants
//! 1. Slots are never freed, so the handler may walk the list without a lock.
//! 2. Only the owner of a [`MappingRegistration`] writes its slot, and the sequence number is odd while it does; the handler
//!    ignores a slot whose number was odd or changed. The slot of the faulting mapping itself does not change, because
//!    code that touches a mapping keeps it alive.
//! 3. The handler makes async-signal-safe calls only and keeps errno.
#![allow(unsafe_code)] // a signal handler, and anonymous pages mapped over broken ones

use std::mem;
use std::ptr;
use std::sync::Once;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};

/// One registered mapping, as the handler sees it.
#[derive(Debug)]
struct MappingSlot {
    taken: AtomicBool,
    sequence: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    poisoned: AtomicBool,
    next: AtomicPtr<MappingSlot>,
}

static SLOTS: AtomicPtr<MappingSlot> = AtomicPtr::new(ptr::null_mut());
static FAULTS: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// How many pages of guest mappings were replaced so far, in the whole process. Cheap to compare: when it has changed, some
/// mapping is poisoned.
pub(crate) fn faults() -> usize {
    FAULTS.load(Ordering::Acquire)
}

/// A mapping's entry in the table. Dropping it removes the entry, which must come before the munmap.
#[derive(Debug)]
pub(super) struct MappingRegistration {
    slot: &'static MappingSlot,
}

impl MappingRegistration {
    /// Enters `start..start + len`, made of pages of `page` bytes.
    pub(super) fn new(start: usize, len: usize, page: usize) -> MappingRegistration {
        install();
        let slot = claim();
        slot.poisoned.store(false, Ordering::Relaxed);
        slot.publish(start, start + len, page);
        MappingRegistration { slot }
    }

    /// Whether a page of this mapping had to be replaced.
    pub(super) fn is_poisoned(&self) -> bool {
        self.slot.poisoned.load(Ordering::Acquire)
    }
}

impl Drop for MappingRegistration {
    fn drop(&mut self) {
        self.slot.publish(0, 0, 1);
        self.slot.taken.store(false, Ordering::Release);
    }
}

impl MappingSlot {
    /// Changes the range under the sequence number (invariant 2).
    fn publish(&self, start: usize, end: usize, page: usize) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence
            .store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.sequence
            .store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// Start and size of the page that has `address`, if it is in this slot's mapping.
    fn page_of(&self, address: usize) -> Option<(usize, usize)> {
        let before = self.sequence.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before;
        (stable && (start..end).contains(&address)).then(|| (address & !(page - 1), page))
    }
}

/// Takes a free slot or adds one to the list.
fn claim() -> &'static MappingSlot {
    for slot in slots() {
        if !slot.taken.swap(true, Ordering::Acquire) {
            return slot;
        }
    }
    let slot = Box::leak(Box::new(MappingSlot {
        taken: AtomicBool::new(true),
        sequence: AtomicU32::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(1),
        poisoned: AtomicBool::new(false),
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let mut head = SLOTS.load(Ordering::Relaxed);
    loop {
        slot.next.store(head, Ordering::Relaxed);
        match SLOTS.compare_exchange(
            head,
            ptr::from_mut(slot),
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            Ok(_) => return slot,
            Err(current) => head = current,
        }
    }
}

/// Walks the list of slots.
fn slots() -> impl Iterator<Item = &'static MappingSlot> {
    let mut next = SLOTS.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: slots are leaked boxes, published with Release and never freed (invariant 1).
        let slot = unsafe { next.as_ref()? };
        next = slot.next.load(Ordering::Acquire);
        Some(slot)
    })
}

/// Puts the handler in place, once for the process.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is a valid value: default action, empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        let mut previous = action;
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: only asks for the action in place and writes it to a local.
        unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) };
        PREVIOUS.get_or_init(|| previous);
        // SAFETY: the handler has the SA_SIGINFO signature and keeps invariant 3.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    });
}

extern "C" fn on_sigbus(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let code = unsafe { (*info).si_code };
    // SAFETY: as above.
    let info = unsafe { &*info };
    // SAFETY: si_addr is set for the faults that the kernel raises, and only those are looked up.
    let address = unsafe { info.si_addr() }.addr();
    if code > 0 && repair(address) {
        return;
    }
    hand_back(code > 0);
}

/// Replaces the page at `address` if it belongs to a guest mapping.
fn repair(address: usize) -> bool {
    for slot in slots() {
        if let Some((start, page)) = slot.page_of(address) {
            slot.poisoned.store(true, Ordering::Release);
            FAULTS.fetch_add(1, Ordering::Release);
            return map_zeroes(start, page);
        }
    }
    false
}

fn map_zeroes(start: usize, len: usize) -> bool {
    // SAFETY: errno's address is valid for the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { errno.read() };
    // SAFETY: the page lies in a registered guest mapping, so nothing but guest memory is replaced.
    let page = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    // SAFETY: as above.
    unsafe { errno.write(kept) };
    page != libc::MAP_FAILED
}

/// Gives the signal to the earlier action. A real fault happens again when the handler returns, and then the earlier action
/// is installed. A signal that a process sent is raised again under the default action, because the handler of Rust's
/// runtime, which is usually the earlier one, ignores it.
fn hand_back(is_fault: bool) {
    let Some(previous) = PREVIOUS.get() else {
        return;
    };
    if is_fault {
        // SAFETY: `previous` came from sigaction itself.
        unsafe { libc::sigaction(libc::SIGBUS, ptr::from_ref(previous), ptr::null_mut()) };
    } else if previous.sa_sigaction != libc::SIG_IGN {
        // SAFETY: the default action needs nothing from us.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        // SAFETY: raising a signal has no memory effects; it is delivered after this handler returned.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_withdrawn_mapping_is_not_repaired() {
        let registration = MappingRegistration::new(0x7000_0000_0000, 0x3000, 0x1000);
        let slot = registration.slot;
        assert_eq!(
            slot.page_of(0x7000_0000_2fff),
            Some((0x7000_0000_2000, 0x1000))
        );
        assert_eq!(slot.page_of(0x7000_0000_3000), None);
        drop(registration);
        assert_eq!(slot.page_of(0x7000_0000_0000), None);
    }

    /// Runs `die` in a child, without a core file; whether SIGBUS ended it.
    fn dies_of_sigbus(die: fn()) -> bool {
        let _registered = MappingRegistration::new(0x7100_0000_0000, 0x1000, 0x1000);
        // SAFETY: the child makes async-signal-safe calls only before it ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: changes an attribute of the child.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
            die();
            // SAFETY: reached only if the signal was swallowed.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS
    }

    #[test]
    fn a_fault_elsewhere_still_ends_the_process() {
        assert!(dies_of_sigbus(|| {
            // SAFETY: creates an fd of the child's own.
            let empty = unsafe { libc::memfd_create(c"empty".as_ptr(), 0) };
            let protection = libc::PROT_READ;
            // SAFETY: a new mapping replaces nothing.
            let page = unsafe {
                libc::mmap(
                    ptr::null_mut(),
                    4096,
                    protection,
                    libc::MAP_SHARED,
                    empty,
                    0,
                )
            };
            // SAFETY: mapped, but beyond the end of the file: this is the fault.
            unsafe { page.cast::<u8>().read_volatile() };
        }));
    }

    #[test]
    fn a_sent_signal_still_ends_the_process() {
        assert!(dies_of_sigbus(|| {
            // SAFETY: no memory effects.
            unsafe { libc::raise(libc::SIGBUS) };
        }));
    }
}
