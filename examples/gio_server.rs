//! A GIO server on a context. The context's GMainContext is the thread default of its thread, so GIO works there unchanged.
//!
//! `cargo run --example gio_server`
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use gio::prelude::*;
use qcontext::QContext;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ctx = QContext::builder("ctx1").threaded(true).build()?;
    let path = std::env::temp_dir().join(format!("qcontext-gio-{}", std::process::id()));
    let there = path.clone();
    ctx.invoke_sync(move || start(&there))??;

    let mut client = UnixStream::connect(&path)?;
    std::fs::remove_file(&path)?;
    client.write_all(b"one two three")?;
    client.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    println!("{answer}");
    assert_eq!(answer, "13 bytes");
    Ok(())
}

/// Listens at `path`. Runs on the context's thread.
fn start(path: &Path) -> Result<(), glib::Error> {
    let listener = gio::SocketListener::new();
    listener.add_address(
        &gio::UnixSocketAddress::new(path),
        gio::SocketType::Stream,
        gio::SocketProtocol::Default,
        None::<&glib::Object>,
    )?;
    let here = glib::MainContext::ref_thread_default();
    here.spawn_local(async move {
        while let Ok((client, _)) = listener.accept_future().await {
            glib::MainContext::ref_thread_default().spawn_local(serve(client));
        }
    });
    Ok(())
}

/// Counts the bytes that a client sends, and answers with their number.
async fn serve(client: gio::SocketConnection) {
    let mut count = 0;
    while let Ok(bytes) = client
        .input_stream()
        .read_bytes_future(4096, glib::Priority::DEFAULT)
        .await
        && !bytes.is_empty()
    {
        count += bytes.len();
    }
    let answer = format!("{count} bytes");
    // An error means that the client has gone.
    let _ = client
        .output_stream()
        .write_all_future(answer, glib::Priority::DEFAULT)
        .await;
}
