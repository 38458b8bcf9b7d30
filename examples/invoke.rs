//! A named context with a thread of its own, and functions that run on it.
//!
//! `cargo run --example invoke`
#![forbid(unsafe_code)]

use std::sync::mpsc;
use std::thread;

use qcontext::{QContext, Result};

fn main() -> Result<()> {
    let ctx = QContext::builder("ctx1").threaded(true).build()?;
    println!("context {} runs on thread {}", ctx.id(), ctx.thread_id());

    // Queued: the call returns at once, and the function runs on the context's thread.
    let (sender, receiver) = mpsc::channel();
    ctx.invoke(move || {
        let here = QContext::current().map(|current| current.thread_id());
        sender.send(here).expect("the receiver waits");
    })?;
    assert_eq!(receiver.recv(), Ok(Some(ctx.thread_id())));

    // Waited for: the call returns the function's result.
    let caller = thread::current().id();
    let (sum, runner) = ctx.invoke_sync(|| ((1..=100).sum::<u32>(), thread::current().id()))?;
    assert_eq!(sum, 5050);
    assert_ne!(runner, caller);
    println!("the context has computed {sum}");

    // Other parts of the program find the context by its name.
    assert_eq!(QContext::find("ctx1")?.thread_id(), ctx.thread_id());

    // Stops the context and waits for its thread. Dropping the last handle stops it too, but does not wait.
    ctx.stop()?;
    assert!(ctx.invoke(|| ()).is_err());
    Ok(())
}
