//! What nodes have left when the program ends: also those that no disk, export or job uses any more.
//!
//! Needs `qemu-img` and `qemu-io`, and one test `nbdkit`; the tests say SKIP where one is not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use support::deadline::{deadline, wait_for};
use support::directory::TestDir;
use support::nbd_server::{self, NbdServer};
use support::process::{Process, qctx};
use support::qemu_img::{check, content, qemu_img};
use support::qmp::Client;
use support::skip::skip;

const SIZE: usize = 8 << 20;
/// So much is written, beginning with the second cluster.
const WRITTEN: std::ops::Range<usize> = 65536..3 << 20;

fn is_missing(more: &[&str]) -> bool {
    let programs = ["qemu-img", "qemu-io"].iter().chain(more);
    let missing = programs.copied().find_map(nbd_server::missing);
    missing.inspect(|reason| skip(reason)).is_some()
}

/// A running `qctx` with an NBD server, whose standard error is kept.
struct Daemon<'a> {
    directory: &'a TestDir,
    process: Process,
    client: Client,
}

impl Daemon<'_> {
    fn start<'a>(directory: &'a TestDir, line: &str) -> Daemon<'a> {
        let mut command = Command::new(qctx());
        command.args(["-qmp", "unix:qmp.sock,server=on,wait=off"]);
        command.args(["-nbd-server", "addr.type=unix,addr.path=nbd.sock"]);
        command.args(line.split_whitespace());
        command.current_dir(directory.path()).stdin(Stdio::null());
        command.stderr(File::create(directory.file("stderr")).unwrap());
        let mut process = Process::start(&mut command);
        let socket = directory.socket("qmp.sock");
        wait_for("the monitor", || {
            assert!(!process.has_ended(), "qctx ended");
            UnixStream::connect(&socket).ok()
        });
        let mut client = Client::connect(&socket);
        client.ask(r#"{"execute":"qmp_capabilities"}"#);
        Daemon {
            directory,
            process,
            client,
        }
    }

    /// Writes this byte to an export, without a flush.
    fn write(&self, export: &str, byte: u8) {
        let (start, len) = (WRITTEN.start, WRITTEN.len());
        let url = format!("nbd+unix:///{export}?socket=nbd.sock");
        let write = format!("write -P {byte} {start} {len}");
        let mut command = Command::new("qemu-io");
        command.args(["-t", "unsafe", "-f", "raw", "-c", &write, &url]);
        let output = command.current_dir(self.directory.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn delete_export(&mut self, id: &str) {
        let arguments = format!(r#"{{"id":"{id}","mode":"hard"}}"#);
        let request = format!(r#"{{"execute":"block-export-del","arguments":{arguments}}}"#);
        self.client.send(request.as_bytes());
        while !self.client.line().contains("BLOCK_EXPORT_DELETED") {}
    }

    /// Ends it. Returns what it has said.
    fn end(mut self, end: End) -> String {
        let _deadline = deadline("qctx to end");
        match end {
            End::Signal => self.process.signal("TERM"),
            End::Quit => self.client.send(br#"{"execute":"quit"}"#),
        }
        let status: ExitStatus = self.process.wait();
        let said = fs::read_to_string(self.directory.file("stderr")).unwrap();
        assert!(status.success(), "{status}: {said}");
        said
    }
}

#[derive(Clone, Copy, Debug)]
enum End {
    Signal,
    Quit,
}

fn make_qcow2(directory: &TestDir, name: &str) {
    let size = SIZE.to_string();
    qemu_img(directory.path(), &["create", "-f", "qcow2", name, &size]);
}

#[track_caller]
fn check_written(directory: &Path, image: &str, byte: u8) {
    check(directory, image, false);
    let bytes = content(directory, image);
    assert!(bytes[WRITTEN].iter().all(|found| *found == byte), "{image}");
}

#[test]
fn an_image_that_nothing_uses_any_more_is_whole() {
    if is_missing(&[]) {
        return;
    }
    for end in [End::Signal, End::Quit] {
        let directory = TestDir::new();
        make_qcow2(&directory, "disk.qcow2");
        let mut daemon = Daemon::start(
            &directory,
            "-blockdev file,node-name=f,filename=disk.qcow2 -blockdev qcow2,node-name=q,file=f \
             -export nbd,id=e,node-name=q,writable=on",
        );
        daemon.write("q", 7);
        daemon.delete_export("e");
        assert_eq!(daemon.end(end), "", "{end:?}");
        check_written(directory.path(), "disk.qcow2", 7);
    }
}

#[test]
fn an_image_whose_export_ends_with_the_program_is_whole() {
    if is_missing(&[]) {
        return;
    }
    let directory = TestDir::new();
    make_qcow2(&directory, "disk.qcow2");
    let line = "-blockdev qcow2,node-name=q,file.driver=file,file.filename=disk.qcow2 \
        -export nbd,id=e,node-name=q,writable=on";
    let daemon = Daemon::start(&directory, line);
    daemon.write("q", 7);
    assert_eq!(daemon.end(End::Signal), "");
    check_written(directory.path(), "disk.qcow2", 7);
}

#[test]
fn the_old_data_of_a_disk_is_whole_in_the_target_of_its_filter() {
    if is_missing(&[]) {
        return;
    }
    let directory = TestDir::new();
    fs::write(directory.file("src.raw"), vec![5; SIZE]).unwrap();
    make_qcow2(&directory, "dst.qcow2");
    let daemon = Daemon::start(
        &directory,
        "-blockdev file,node-name=src,filename=src.raw \
         -blockdev qcow2,node-name=dst,file.driver=file,file.filename=dst.qcow2 \
         -blockdev copy-before-write,node-name=cbw,file=src,target=dst \
         -export nbd,id=e,node-name=cbw,writable=on",
    );
    daemon.write("cbw", 9);
    assert_eq!(daemon.end(End::Quit), "");
    check_written(directory.path(), "dst.qcow2", 5);
    let source = fs::read(directory.file("src.raw")).unwrap();
    assert!(source[WRITTEN].iter().all(|found| *found == 9));
}

/// Passes one connection on to the server, and returns what the client has sent when it has closed it.
fn relay(listener: UnixListener, server: &Path) -> JoinHandle<Vec<u8>> {
    let server = server.to_owned();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut far = UnixStream::connect(server).unwrap();
        let (mut replies, mut answered) = (far.try_clone().unwrap(), client.try_clone().unwrap());
        let back = thread::spawn(move || std::io::copy(&mut replies, &mut answered));
        let (mut sent, mut part) = (Vec::new(), [0; 65536]);
        while let Ok(len @ 1..) = client.read(&mut part) {
            sent.extend_from_slice(&part[..len]);
            let _ = far.write_all(&part[..len]);
        }
        let _ = far.shutdown(Shutdown::Both);
        let _ = back.join();
        sent
    })
}

#[test]
fn the_server_of_a_node_hears_that_the_client_goes() {
    if is_missing(&["nbdkit"]) {
        return;
    }
    let directory = TestDir::new();
    let server = NbdServer::nbdkit(&directory.socket("far.sock"), &["memory", "8M"]);
    let between = directory.socket("between.sock");
    let sent = relay(UnixListener::bind(&between).unwrap(), &server.socket);
    let line = "-blockdev nbd,node-name=n,server.type=unix,server.path=between.sock";
    let daemon = Daemon::start(&directory, line);
    assert_eq!(daemon.end(End::Signal), "");
    let sent = sent.join().unwrap();
    // NBD_REQUEST_MAGIC, no flags, NBD_CMD_DISC.
    let goodbye = [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2];
    let last = &sent[sent.len() - 28..];
    assert_eq!(last[..8], goodbye, "{last:x?}");
}

#[test]
fn a_server_that_is_lost_does_not_keep_the_program() {
    if is_missing(&["nbdkit"]) {
        return;
    }
    let directory = TestDir::new();
    make_qcow2(&directory, "disk.qcow2");
    let image = directory.file("disk.qcow2");
    let far = directory.socket("far.sock");
    let plugin = ["file", image.to_str().unwrap()];
    let server = NbdServer::nbdkit(&far, &plugin);
    let mut daemon = Daemon::start(
        &directory,
        "-blockdev nbd,node-name=n,server.type=unix,server.path=far.sock,reconnect-delay=3600 \
         -blockdev qcow2,node-name=q,file=n",
    );
    let add = r#"{"execute":"block-dirty-bitmap-add","arguments":{"node":"q","name":"b","persistent":true}}"#;
    assert_eq!(daemon.client.ask(add), r#"{"return": {}}"#);
    server.kill();
    let said = daemon.end(End::Signal);
    let lost = "the last flush of node 'n' failed: fdatasync: Input/output error";
    assert!(said.contains(lost), "{said}");
}

#[test]
fn a_last_flush_that_fails_is_told() {
    let directory = TestDir::new();
    directory.image("disk.raw", 1);
    let line = "-blockdev file,node-name=f,filename=disk.raw \
        -blockdev blkdebug,node-name=b,image=f,inject-error.0.event=none,inject-error.0.iotype=flush";
    let said = Daemon::start(&directory, line).end(End::Quit);
    let failed = "the last flush of node 'b' failed: fdatasync: Input/output error";
    assert!(said.contains(failed), "{said}");
}
