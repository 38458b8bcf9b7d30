//! An fd handler: the context answers each message of a socket.
//!
//! `cargo run --example fd_handler`
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use qcontext::{FdHandler, QContext};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ctx = QContext::builder("ctx1").threaded(true).build()?;
    let (mut client, server) = UnixStream::pair()?;
    server.set_nonblocking(true)?;
    let fd = server.as_raw_fd();

    // The handler owns its end of the socket. The callback runs on the context's thread while the fd is readable.
    ctx.add_fd_handler(
        fd,
        FdHandler::new().on_read(move || {
            answer(&server).expect("the client reads the answers");
        }),
    )?;

    client.write_all(b"hello")?;
    let mut text = [0; 5];
    client.read_exact(&mut text)?;
    println!("{}", String::from_utf8_lossy(&text));
    assert_eq!(&text, b"HELLO");

    // After this returns the fd is not polled any more. The context's thread drops the handler, and with it the socket.
    assert!(ctx.remove_fd_handler(fd));
    assert_eq!(client.read(&mut text)?, 0);
    Ok(())
}

fn answer(mut socket: &UnixStream) -> io::Result<()> {
    let mut bytes = [0; 64];
    let count = socket.read(&mut bytes)?;
    socket.write_all(&bytes[..count].to_ascii_uppercase())
}
