//! Asynchronous tasks on a context. Their futures need not be `Send`, because they never leave the context's thread.
//!
//! `cargo run --example tasks`
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Instant;

use qcontext::{AioContext, Clock, QContext};

const MILLISECOND_NS: i64 = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ctx = QContext::builder("ctx1").threaded(true).build()?;
    let aio = ctx.aio()?;
    let path = std::env::temp_dir().join(format!("qcontext-tasks-{}", std::process::id()));
    std::fs::write(&path, "what the task reads")?;
    let file = std::fs::File::open(&path)?;
    std::fs::remove_file(&path)?;

    let (sender, receiver) = mpsc::channel();
    let there = aio.clone();
    // The closure runs on the context's thread and makes the future there.
    let task = aio.spawn(move || async move {
        let outcome = work(&there, file).await;
        sender.send(outcome).expect("main waits");
    });
    let text = receiver.recv()??;
    println!("{text}");
    assert_eq!(text, "what the task reads, 2 children, 42 from a worker");
    task.detach();
    Ok(())
}

async fn work(aio: &AioContext, file: std::fs::File) -> qcontext::Result<String> {
    // A timer.
    let since = Instant::now();
    aio.sleep_ns(Clock::Realtime, MILLISECOND_NS).await;
    assert!(since.elapsed().as_millis() >= 1);

    // A file, read by io_uring or by a worker thread.
    let (count, bytes) = aio.file(file).read_at(vec![0; 64], 0).await;
    let text = String::from_utf8_lossy(&bytes[..count?]).into_owned();

    // Two tasks that share a cell without a lock.
    let finished = Rc::new(Cell::new(0));
    let children = [(); 2].map(|()| {
        let finished = Rc::clone(&finished);
        aio.spawn_local(async move { finished.set(finished.get() + 1) })
    });
    for child in children {
        child?.await?;
    }

    // A function that blocks, on a worker thread.
    let answer = aio.run_in_pool(|| 6 * 7).await?;
    Ok(format!(
        "{text}, {} children, {answer} from a worker",
        finished.get()
    ))
}
