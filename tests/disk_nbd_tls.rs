//! Exports of NBD servers over TLS: data arrives, and no peer is trusted without a certificate.
#![forbid(unsafe_code)]
#![cfg(all(feature = "vhost-user", feature = "monitor"))]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::path::Path;

use support::directory::TestDir;
use support::front_end::Guest;
use support::nbd_server::{NbdServer, missing};
use support::pki;
use support::process::{outcome, run};
use support::server::Server;
use support::shadow::Shadow;
use support::skip::skip;

/// Half of it is compared.
const SIZE: usize = 4 << 20;

fn is_missing() -> bool {
    let missing = ["qemu-nbd", "nbdkit"].into_iter().find_map(missing);
    let missing = missing.or_else(pki::missing);
    missing.inspect(|reason| skip(reason)).is_some()
}

/// A directory with an image and two sets of certificates that do not know each other.
fn directory() -> TestDir {
    let dir = TestDir::new();
    std::fs::write(dir.file("disk.raw"), vec![0; SIZE]).unwrap();
    pki::make(&dir.file("pki"), "disks.example");
    pki::make(&dir.file("others"), "disks.example");
    dir
}

fn qemu_nbd(dir: &TestDir) -> NbdServer {
    let pki = dir.file("pki");
    let creds = format!(
        "tls-creds-x509,id=t,dir={},endpoint=server,verify-peer=on",
        pki.display()
    );
    let arguments = [
        "-f",
        "raw",
        "-e",
        "4",
        "--object",
        &creds,
        "--tls-creds",
        "t",
    ];
    NbdServer::qemu_nbd(&dir.socket("nbd.sock"), &arguments, &dir.file("disk.raw"))
}

fn creds(folder: &Path) -> String {
    format!(
        "tls-creds-x509,id=tls0,dir={},endpoint=client",
        folder.display()
    )
}

fn node(server: &NbdServer, more: &str) -> String {
    let socket = server.socket.display();
    format!("driver=nbd,node-name=n0,server.type=unix,server.path={socket}{more}")
}

const NAMED: &str = ",tls-creds=tls0,tls-hostname=disks.example";

#[test]
fn data_survives_under_tls() {
    if is_missing() {
        return;
    }
    for queues in [1, 4] {
        let dir = directory();
        let peer = qemu_nbd(&dir);
        let (creds, node) = (creds(&dir.file("pki")), node(&peer, NAMED));
        let device = format!(
            "virtio-blk,id=disk0,drive=n0,x-data-plane=on,context=ctx0,num-queues={queues},vhost-user=d0.sock"
        );
        let arguments = [
            "-object",
            "qcontext,id=ctx0,threaded=on",
            "-object",
            &creds,
            "-blockdev",
            &node,
            "-device",
            &device,
        ];
        let server = Server::start(&dir, &arguments);
        let socket = dir.socket("d0.sock");
        let mut guest = Guest::connect(&socket, queues, 256, true, Shadow::MEMORY).unwrap();
        let mut shadow = Shadow::new(vec![0; SIZE / 2], 3);
        shadow.run(&mut guest, 40);
        drop(guest);
        let answer = server
            .client()
            .ask(r#"{"execute":"object-del","arguments":{"id":"tls0"}}"#);
        assert!(
            answer.contains("object 'tls0' is in use, can not be deleted"),
            "{answer}"
        );
        assert!(server.quit().success());
        drop(peer);
        let found = std::fs::read(dir.file("disk.raw")).unwrap();
        assert!(found[..SIZE / 2] == *shadow.bytes(), "{queues} queues");
    }
}

#[test]
fn data_survives_under_tls_between_two_programs_of_ours() {
    if let Some(reason) = pki::missing() {
        return skip(reason);
    }
    let dir = directory();
    let pki = dir.file("pki");
    let creds_server = format!("tls-creds-x509,id=t,dir={},endpoint=server", pki.display());
    let far = TestDir::new();
    let image = dir.file("disk.raw");
    let file = format!("file,node-name=f0,filename={}", image.display());
    let offer = [
        "-object",
        "iothread,id=io0",
        "-object",
        &creds_server,
        "-blockdev",
        &file,
        "-nbd-server",
        "addr.type=unix,addr.path=nbd.sock,tls-creds=t",
        "-export",
        "nbd,id=e0,node-name=f0,writable=on,iothread=io0",
    ];
    let peer = Server::start(&far, &offer);
    let far_socket = far.socket("nbd.sock");
    let node = format!(
        "driver=nbd,node-name=n0,export=f0,server.type=unix,server.path={}{NAMED}",
        far_socket.display()
    );
    let creds = creds(&pki);
    let arguments = [
        "-object",
        "qcontext,id=ctx0,threaded=on",
        "-object",
        &creds,
        "-blockdev",
        &node,
        "-device",
        "virtio-blk,id=disk0,drive=n0,x-data-plane=on,context=ctx0,num-queues=4,vhost-user=d0.sock",
    ];
    let server = Server::start(&dir, &arguments);
    let socket = dir.socket("d0.sock");
    let mut guest = Guest::connect(&socket, 4, 256, true, Shadow::MEMORY).unwrap();
    let mut shadow = Shadow::new(vec![0; SIZE / 2], 7);
    shadow.run(&mut guest, 60);
    drop(guest);
    assert!(server.quit().success());
    assert!(peer.quit().success());
    let found = std::fs::read(&image).unwrap();
    assert!(found[..SIZE / 2] == *shadow.bytes());
}

/// What `qctx` says when it does not start.
fn refused(creds: &str, node: &str) -> String {
    let (status, _, error) = outcome(&run(&["-object", creds, "-blockdev", node]));
    assert_eq!(status, Some(1), "{error}");
    let start = format!("qctx: -blockdev {node}: ");
    error
        .trim_end()
        .strip_prefix(&start)
        .unwrap_or(&error)
        .to_owned()
}

#[test]
fn nobody_is_trusted_without_a_certificate() {
    if is_missing() {
        return;
    }
    let dir = directory();
    let peer = qemu_nbd(&dir);
    let pki = creds(&dir.file("pki"));
    let wrong_name = ",tls-creds=tls0,tls-hostname=other.example";
    let cases = [
        (
            &pki,
            wrong_name,
            "TLS handshake failed: invalid peer certificate: certificate not valid for name",
        ),
        (
            &creds(&dir.file("others")),
            NAMED,
            "TLS handshake failed: invalid peer certificate: ",
        ),
        (
            &pki,
            ",tls-creds=tls0",
            "No hostname for certificate validation",
        ),
        (&pki, ",tls-creds=tls1", "No TLS credentials with id 'tls1'"),
        (
            &pki,
            "",
            "Server requires TLS for option 11: tls-creds is needed",
        ),
    ];
    for (creds, more, expected) in cases {
        let error = refused(creds, &node(&peer, more));
        assert!(error.starts_with(expected), "{more}: {error}");
    }
}

#[test]
fn a_server_without_tls_is_not_talked_to_in_the_clear() {
    if is_missing() {
        return;
    }
    let dir = directory();
    let peer = NbdServer::nbdkit(&dir.socket("nbd.sock"), &["memory", "1M"]);
    let error = refused(&creds(&dir.file("pki")), &node(&peer, NAMED));
    assert_eq!(error, "Denied by server for option 5");
}

#[test]
fn a_client_without_tls_sees_what_the_server_shows_to_such_clients() {
    if is_missing() {
        return;
    }
    let dir = directory();
    let certificates = format!("--tls-certificates={}", dir.file("pki").display());
    let arguments = [
        "--tls=on",
        &certificates,
        "--filter=tls-fallback",
        "memory",
        "1M",
    ];
    let peer = NbdServer::nbdkit(&dir.socket("nbd.sock"), &arguments);
    let (creds, plain) = (creds(&dir.file("pki")), node(&peer, ",read-only=on"));
    for (node, size) in [(plain, 512), (node(&peer, NAMED), 1 << 20)] {
        let server = Server::start(&dir, &["-object", &creds, "-blockdev", &node]);
        let answer = server
            .client()
            .ask(r#"{"execute":"query-named-block-nodes"}"#);
        let size = format!("\"virtual-size\": {size}");
        assert!(answer.contains(&size), "{answer}");
    }
}
