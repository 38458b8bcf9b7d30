//! The NBD client at `nbdkit` with its filters: servers that fail, recover by themselves, keep what is written elsewhere, or say that
//! several connections are one disk. `disk_nbd` has those that are late, `disk_nbd_tls` the one that falls back.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::path::Path;
use std::sync::Arc;

use gsource::{AioContext, Wait};
use qcontext::QContext;
use qcontext::block::{Access, BlockBackend, IoBuffer, Node, Parent, Permissions};
use qcontext::object::options;
use support::deadline::deadline;
use support::directory::{TestDir, unique};
use support::front_end::Guest;
use support::nbd_server::{NbdServer, missing};
use support::served_disk::Disk;
use support::shadow::Shadow;
use support::skip::skip;

const SIZE: usize = 4 << 20;

/// A directory with an image of zeroes, and `nbdkit` on it with these filters and settings of theirs.
fn start(filters: &[&str], settings: &[&str]) -> Option<(TestDir, NbdServer)> {
    if let Some(reason) = missing("nbdkit") {
        skip(reason);
        return None;
    }
    let dir = TestDir::new();
    let image = dir.file("disk.raw");
    std::fs::write(&image, vec![0; SIZE]).unwrap();
    let image = image.display().to_string();
    let arguments = [filters, &["file", &image], settings].concat();
    let server = NbdServer::nbdkit(&dir.socket("nbd.sock"), &arguments);
    Some((dir, server))
}

fn open(server: &NbdServer) -> Arc<Node> {
    let name = unique("node");
    let socket = server.socket.display();
    let text = format!("driver=nbd,node-name={name},server.type=unix,server.path={socket}");
    Node::open_blockdev(options::parse_dotted("driver", &text).unwrap()).unwrap()
}

/// A guest of four queues writes and reads, twice; returns what must be on the disk, and what the image has.
fn guest_work(dir: TestDir, server: &NbdServer) -> (Vec<u8>, Vec<u8>) {
    let context = QContext::builder(&unique("ctx")).threaded(true);
    let context = context.build().unwrap();
    let image = dir.file("disk.raw");
    let disk = Disk::serve(dir, image.clone(), open(server), 4, &context);
    let mut shadow = Shadow::new(vec![0; SIZE / 2], 6);
    for _ in 0..2 {
        let mut guest = Guest::connect(&disk.socket, 4, 256, true, Shadow::MEMORY).unwrap();
        shadow.run(&mut guest, 40);
    }
    assert_eq!(disk.stats().errors, 0);
    let _dir = disk.close();
    let found = std::fs::read(&image).unwrap();
    (shadow.bytes().to_vec(), found[..SIZE / 2].to_vec())
}

#[test]
fn several_connections_are_one_disk_whether_the_filter_says_so_or_not() {
    for mode in ["emulate", "disable"] {
        let setting = format!("multi-conn-mode={mode}");
        let Some((dir, server)) = start(&["--filter=multi-conn"], &[&setting]) else {
            return;
        };
        let (wanted, found) = guest_work(dir, &server);
        assert!(wanted == found, "{mode}");
    }
}

#[test]
fn a_server_that_keeps_changes_elsewhere_gives_them_back() {
    let Some((dir, server)) = start(&["--filter=cow"], &[]) else {
        return;
    };
    // The guest compares what it reads.
    let (wanted, found) = guest_work(dir, &server);
    assert!(wanted.iter().any(|byte| *byte != 0));
    assert!(found.iter().all(|byte| *byte == 0), "the image has changed");
}

/// Does `work` with the disk.
fn with_backend<F: Future<Output = ()> + 'static>(
    server: &NbdServer,
    work: impl FnOnce(BlockBackend) -> F,
) {
    let _deadline = deadline("requests to nbdkit");
    let aio = AioContext::new().unwrap();
    let access = Access {
        needs: Permissions::CONSISTENT_READ.and(Permissions::WRITE),
        shares: Permissions::ALL,
    };
    let node = open(server);
    let edge = node.attach(Parent::new("test", "client"), access).unwrap();
    let task = aio
        .spawn_local(work(BlockBackend::open(&edge, &aio)))
        .unwrap();
    while !task.is_finished() {
        aio.poll(Wait::Block).unwrap();
    }
    task.try_take().unwrap().unwrap();
}

fn full_of(byte: u8) -> IoBuffer {
    IoBuffer::copy_of(&[byte; 65536])
}

fn image_begins_with(image: &Path, byte: u8) -> bool {
    std::fs::read(image).unwrap()[..65536]
        .iter()
        .all(|found| *found == byte)
}

#[test]
fn errors_are_those_of_the_server_and_the_next_request_is_served() {
    let dir = TestDir::new();
    let trigger = dir.file("trigger");
    let file = format!("error-file={}", trigger.display());
    for (name, errno) in [
        ("EIO", libc::EIO),
        ("ENOSPC", libc::ENOSPC),
        ("EPERM", libc::EPERM),
    ] {
        let error = format!("error={name}");
        let settings = [error.as_str(), "error-rate=100%", &file];
        let Some((images, server)) = start(&["--filter=error"], &settings) else {
            return;
        };
        let place = trigger.clone();
        with_backend(&server, |backend| async move {
            assert_eq!(backend.write(0, full_of(1), true).await.0.ok(), Some(()));
            std::fs::write(&place, "").unwrap();
            let (refused, buffer) = backend.write(0, full_of(2), false).await;
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(errno));
            let (failed, buffer) = backend.read(0, buffer).await;
            assert_eq!(failed.unwrap_err().raw_os_error(), Some(errno));
            std::fs::remove_file(&place).unwrap();
            let (result, buffer) = backend.read(0, buffer).await;
            result.unwrap();
            assert_eq!(buffer[..], [1; 65536]);
            assert_eq!(backend.write(0, full_of(3), false).await.0.ok(), Some(()));
            backend.flush().await.unwrap();
        });
        assert!(image_begins_with(&images.file("disk.raw"), 3), "{name}");
    }
}

#[test]
fn a_server_that_tries_again_makes_the_client_wait_and_not_fail() {
    let dir = TestDir::new();
    let trigger = dir.file("trigger");
    let file = format!("error-file={}", trigger.display());
    let settings = ["error-rate=100%", &file, "retries=30", "retry-delay=1"];
    let filters = ["--filter=retry", "--filter=error"];
    let Some((images, server)) = start(&filters, &settings) else {
        return;
    };
    std::fs::write(&trigger, "").unwrap();
    with_backend(&server, |backend| async move {
        let write = backend.write(0, full_of(4), true);
        // The server has had the request by the time at which another one is answered; both wait for it.
        let read = backend.read(1 << 20, full_of(9));
        std::fs::remove_file(&trigger).unwrap();
        write.await.0.unwrap();
        let (result, buffer) = read.await;
        result.unwrap();
        assert_eq!(buffer[..], [0; 65536]);
    });
    assert!(image_begins_with(&images.file("disk.raw"), 4));
}
