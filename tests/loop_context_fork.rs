//! Contexts in a child process: those of the parent are refused, without waiting for threads that are not there. Alone in its
//! process, because it forks.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unsafe_code)] // fork(2)

use qcontext::{ErrorKind, QContext, Wait};
use std::panic::{AssertUnwindSafe, catch_unwind};
use support::deadline::deadline;

/// Runs `work` in a child process, which has to succeed in time.
fn in_child(work: impl FnOnce()) {
    // SAFETY: the child runs `work` only, and leaves without destructors.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: a number. The signal ends a child that hangs.
        unsafe { libc::alarm(20) };
        let failed = catch_unwind(AssertUnwindSafe(work)).is_err();
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(failed)) };
    }
    let mut status = -1;
    // SAFETY: our child, and a valid place.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child has failed, or hangs");
}

#[test]
fn a_child_cannot_use_the_contexts_of_its_parent_and_makes_its_own() {
    let _deadline = deadline("a_child_cannot_use_the_contexts_of_its_parent_and_makes_its_own");
    let threaded = QContext::new("parents", true).unwrap();
    let iterated = QContext::new("parents-iterated", false).unwrap();
    while iterated.iterate(Wait::NoBlock).unwrap() {}
    in_child(|| {
        let refused = [
            threaded.invoke_sync(|| ()).unwrap_err(),
            iterated.invoke_sync(|| ()).unwrap_err(),
            threaded.stop().unwrap_err(),
            iterated.stop().unwrap_err(),
            QContext::delete("parents").unwrap_err(),
            threaded.set_cpu_affinity(&[0]).unwrap_err(),
            threaded.set_nice(1).unwrap_err(),
            iterated.iterate(Wait::NoBlock).unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.kind(), ErrorKind::WrongThread, "{error}");
            assert!(error.to_string().contains("fork"), "{error}");
        }
        assert!(QContext::find("parents").is_ok(), "nothing has changed");
        let own = QContext::new("childs", true).unwrap();
        assert_eq!(own.invoke_sync(|| 42).unwrap(), 42);
        own.stop().unwrap();
    });
    assert_eq!(threaded.invoke_sync(|| 42).unwrap(), 42);
    threaded.stop().unwrap();
    iterated.invoke(|| ()).unwrap();
    assert!(iterated.iterate(Wait::Block).unwrap());
    iterated.stop().unwrap();
}

/// A child that drops what it has copied.
#[test]
fn a_child_may_drop_the_last_handle_of_a_context() {
    let _deadline = deadline("a_child_may_drop_the_last_handle_of_a_context");
    for threaded in [true, false] {
        let context = QContext::anonymous(threaded).unwrap();
        let copy = context.clone();
        in_child(move || drop((context, copy)));
    }
}
