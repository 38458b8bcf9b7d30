//! The server's end under TLS, with a client that reads when it likes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use gsource::Wait;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use support::deadline::deadline;
use support::directory::{TestDir, unique};
use support::pki;
use support::skip::skip;

use super::*;
use crate::nbd::stream::StreamSocket;
use crate::nbd::tls_creds::{self, TlsCreds};
use crate::object::{object_add, options};

type Client = StreamOwned<ClientConnection, UnixStream>;

fn creds(dir: &TestDir, endpoint: &str) -> Arc<TlsCreds> {
    tls_creds::register();
    let id = unique("tls");
    let folder = dir.file("pki");
    let text = format!(
        "tls-creds-x509,id={id},dir={},endpoint={endpoint}",
        folder.display()
    );
    object_add(options::parse(Some("qom-type"), &text).unwrap()).unwrap();
    TlsCreds::find(&id).unwrap()
}

/// Lets `serve` talk under TLS to `client`, which runs on another thread.
fn converse<F: Future<Output = io::Result<()>> + 'static>(
    serve: impl FnOnce(NbdSocket) -> F + 'static,
    client: impl FnOnce(Client) + Send + 'static,
) {
    if let Some(reason) = pki::missing() {
        return skip(reason);
    }
    let _deadline = deadline("a conversation under TLS");
    let dir = TestDir::new();
    pki::make(&dir.file("pki"), "disks.example");
    let (server, config) = (creds(&dir, "server"), creds(&dir, "client"));
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let peer = thread::spawn(move || {
        let name = ServerName::try_from("disks.example").unwrap();
        let config = Arc::clone(config.client().unwrap());
        let session = ClientConnection::new(config, name).unwrap();
        client(StreamOwned::new(session, theirs));
    });
    let aio = AioContext::new().unwrap();
    let mut socket = NbdSocket::new(NbdStream::plain(StreamSocket::Unix(ours)), &aio);
    let task = aio.spawn_local(async move {
        socket.accept_tls(server.server().unwrap()).await?;
        serve(socket).await
    });
    let task = task.unwrap();
    while !task.is_finished() {
        aio.poll(Wait::Block).unwrap();
    }
    task.try_take().unwrap().unwrap().unwrap();
    peer.join().unwrap();
}

#[test]
fn what_tls_has_kept_back_is_sent_when_the_client_reads() {
    const LEN: usize = 4 << 20;
    let bytes = || (0..LEN).map(|at| at.to_le_bytes()[1]);
    converse(
        move |mut socket| async move {
            let data: Vec<u8> = bytes().collect();
            socket.write_all(&data).await?;
            // The client answers when it has everything.
            socket.read_exact(&mut [0]).await
        },
        move |mut client| {
            let mut data = vec![0; LEN];
            client.read_exact(&mut data).unwrap();
            assert!(data.into_iter().eq(bytes()));
            client.write_all(b"x").unwrap();
        },
    );
}

#[test]
fn no_byte_is_forgotten_by_reads_that_are_smaller_than_a_record() {
    converse(
        |mut socket| async move {
            for round in 0..100 {
                let mut piece = [0; 160];
                socket.read_exact(&mut piece).await?;
                assert_eq!(piece, [round; 160]);
            }
            socket.write_all(b"x").await
        },
        |mut client| {
            let bytes: Vec<u8> = (0..100).flat_map(|round| [round; 160]).collect();
            client.write_all(&bytes).unwrap();
            client.read_exact(&mut [0]).unwrap();
        },
    );
}

#[test]
fn a_client_that_ends_tls_and_not_the_connection_has_ended() {
    converse(
        |mut socket| async move {
            let mut bytes = [0; 100];
            socket.read_exact(&mut bytes[..3]).await?;
            let end = poll_fn(|context| socket.poll_read(context, &mut bytes)).await?;
            assert_eq!(end, 0);
            Ok(())
        },
        |mut client| {
            client.write_all(b"abc").unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            // The server ends TLS as well, and then the connection.
            assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        },
    );
}
