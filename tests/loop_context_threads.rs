//! What contexts say and do when no thread can be started.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use qcontext::{AioContext, QContext, Wait};
use support::deadline::deadline;
use support::seccomp::{Penalty, forbid};
use support::skip::skip;

/// Runs `work` on a thread that can start no other.
fn without_threads<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let calls = [libc::SYS_clone, libc::SYS_clone3];
    let all = thread::spawn(move || {
        forbid(&calls, Penalty::Errno(libc::EAGAIN))?;
        Ok(work())
    });
    all.join().unwrap()
}

#[test]
fn a_context_without_a_thread_names_the_limits() {
    let _deadline = deadline("a_context_without_a_thread_names_the_limits");
    let made = without_threads(|| QContext::new("no-thread", true).map(drop));
    let text = match made {
        Err(error) => return skip(error),
        Ok(made) => made.unwrap_err().to_string(),
    };
    let begin = "cannot start the thread of context 'no-thread': \
        Resource temporarily unavailable (os error 11); the user's limit on threads is ";
    assert!(text.starts_with(begin), "{text}");
    for limit in ["LimitNPROC=", "kernel.threads-max"] {
        assert!(text.contains(limit), "{text}");
    }
}

#[test]
fn jobs_without_a_worker_fail_with_the_limits_and_one_warning() {
    let _deadline = deadline("jobs_without_a_worker_fail_with_the_limits_and_one_warning");
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&warnings);
    let note = move |_: Option<&str>, _: glib::LogLevel, message: &str| {
        kept.lock().unwrap().push(message.to_owned());
    };
    let levels = glib::LogLevels::LEVEL_WARNING;
    glib::log_set_handler(Some("qcontext"), levels, false, false, note);
    let outcome = without_threads(|| {
        let aio = AioContext::new().unwrap();
        let (send, errors) = mpsc::channel();
        for _ in 0..2 {
            let send = send.clone();
            let done = move |outcome: qcontext::Result<()>| {
                send.send(outcome.unwrap_err().to_string()).unwrap();
            };
            aio.submit(|| (), done);
        }
        while aio.poll(Wait::NoBlock).unwrap() {}
        errors.try_iter().collect::<Vec<_>>()
    });
    let errors = match outcome {
        Err(error) => return skip(error),
        Ok(errors) => errors,
    };
    let told = warnings.lock().unwrap().clone();
    assert_eq!((errors.len(), told.len()), (2, 1));
    for text in errors.iter().chain(&told) {
        assert!(text.starts_with("cannot start a pool worker: "), "{text}");
        assert!(text.contains("LimitNPROC="), "{text}");
    }
}
