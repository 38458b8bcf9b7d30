//! The monitor in atexit(3) handlers, when the thread-locals are gone. Alone in its process, because it forks.
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(unsafe_code)] // fork(2), atexit(3)

use qcontext::monitor::emit;
use qcontext::schema::{EventType, NOTHING};

static GOODBYE: EventType = EventType::new("X_GOODBYE", &NOTHING);

extern "C" fn say_goodbye() {
    emit(&GOODBYE, Vec::new());
}

#[test]
fn an_event_at_exit_ends_the_program_as_it_wants() {
    const STATUS: i32 = 7;
    // SAFETY: the child has one thread, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        say_goodbye();
        // SAFETY: the handler takes nothing.
        unsafe { libc::atexit(say_goodbye) };
        // SAFETY: runs the handlers and ends the process.
        unsafe { libc::exit(STATUS) };
    }
    let mut status = -1;
    // SAFETY: our child, and a valid place.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "status {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), STATUS);
}
