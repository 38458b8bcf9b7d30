//! Command lines of `qctx` that cannot be served: one exact message, exit status 1, and nothing left behind: no socket, no
//! file, no lock on an image.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};

use support::directory::TestDir;
use support::process::qctx;
use support::seccomp::{Penalty, forbid};
use support::server::Server;
use support::skip::skip;

const CONTEXT: &str = "-object qcontext,id=ctx1,threaded=yes";
const DRIVE: &str = "-drive if=none,id=d0,file=disk0.raw,format=raw";
const GOOD: &str =
    "-device virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock";

/// A directory with two images in it.
fn directory() -> TestDir {
    let directory = TestDir::new();
    directory.image("disk0.raw", 1);
    directory.image("disk1.raw", 1);
    directory
}

fn names(directory: &TestDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Runs a command line, given in parts, with a monitor that must not appear. The last part is what is complained about.
#[track_caller]
fn refused_in(directory: &TestDir, parts: &[&str], message: &str) {
    let before = names(directory);
    // If it were served, the program would not end.
    let output = Command::new("timeout")
        .args(["-k", "1", "20"])
        .arg(qctx())
        .args(parts.iter().flat_map(|part| part.split(' ')))
        .args(["-qmp", "unix:qmp.sock,server=on,wait=off"])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let culprit = parts.last().unwrap();
    assert_eq!(complaint, format!("qctx: {culprit}: {message}\n"));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert_eq!(names(directory), before, "{culprit} left something behind");
}

/// The same; afterwards a correct command line must work: no image is locked and no socket is bound.
#[track_caller]
fn refused(parts: &[&str], message: &str) {
    let directory = directory();
    refused_in(&directory, parts, message);
    let good = [CONTEXT, DRIVE, GOOD].map(|part| part.split(' '));
    let good: Vec<&str> = good.into_iter().flatten().collect();
    Server::start(&directory, &good).stop();
}

#[test]
fn context_needs_the_data_plane() {
    let message = "device 'disk0': context=ctx1 needs x-data-plane=on";
    let without = "-device virtio-blk,id=disk0,drive=d0,context=ctx1,vhost-user=disk0.sock";
    refused(&[CONTEXT, DRIVE, without], message);
    let off =
        "-device virtio-blk,id=disk0,drive=d0,x-data-plane=off,context=ctx1,vhost-user=disk0.sock";
    refused(&[CONTEXT, DRIVE, off], message);
}

#[test]
fn context_that_does_not_exist() {
    let device =
        "-device virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=nosuch,vhost-user=disk0.sock";
    refused(
        &[CONTEXT, DRIVE, device],
        "device 'disk0': context 'nosuch' not found, expected the id of a qcontext object",
    );
}

#[test]
fn context_without_a_thread() {
    let message = "device 'disk0': context 'ctx1' has no thread to serve a device, expected one with threaded=yes";
    refused(&["-object qcontext,id=ctx1", DRIVE, GOOD], message);
    refused(
        &["-object qcontext,id=ctx1,threaded=no", DRIVE, GOOD],
        message,
    );
}

#[test]
fn image_that_does_not_exist() {
    let message = "Could not open 'nosuch.raw': No such file or directory (os error 2)";
    refused(
        &["-drive if=none,id=d0,file=nosuch.raw,format=raw"],
        message,
    );
    refused(
        &["-blockdev driver=file,node-name=n0,filename=nosuch.raw"],
        message,
    );
}

#[test]
fn socket_that_somebody_listens_on() {
    let directory = directory();
    let _owner = UnixListener::bind(directory.socket("disk0.sock")).unwrap();
    let message = "device 'disk0': vhost-user='disk0.sock' is in use: another server listens there";
    refused_in(&directory, &[CONTEXT, DRIVE, GOOD], message);
}

/// A path that no address of a socket has room for, of the same file as the given name in the directory.
fn long_path(directory: &TestDir, name: &str) -> String {
    let directory = directory.path().display();
    format!("{directory}/{}{name}", "./".repeat(60))
}

#[test]
fn socket_that_is_found_by_a_path_too_long_to_ask_stays_with_its_owner() {
    let directory = directory();
    let _owner = UnixListener::bind(directory.socket("disk0.sock")).unwrap();
    let long = long_path(&directory, "disk0.sock");
    let device = format!("-device virtio-blk,id=disk0,drive=d0,vhost-user={long}");
    let limit = "is too long: the longest path of a socket has 107 bytes";
    let message = format!("device 'disk0': vhost-user='{long}' {limit}");
    refused_in(&directory, &[DRIVE, &device], &message);
    let monitor = format!("-qmp unix:{long},server=on,wait=off");
    refused_in(&directory, &[&monitor], &format!("'{long}' {limit}"));
}

/// A program without the system call `listen` shows in which order the steps come.
#[test]
fn socket_does_not_appear_before_it_listens() {
    let directory = directory();
    let refused_without_listen = |parts: &[&str], message: &str| {
        let forbidden = std::thread::scope(|scope| {
            let refused = || {
                forbid(&[libc::SYS_listen], Penalty::Errno(libc::ENOBUFS))
                    .map(|()| refused_in(&directory, parts, message))
            };
            scope.spawn(refused).join().unwrap()
        });
        if let Err(error) = forbidden {
            skip(format!("seccomp: {error}"));
        }
    };
    let reason = "No buffer space available (os error 105)";
    let device = format!("device 'disk0': cannot listen at vhost-user='disk0.sock': {reason}");
    refused_without_listen(&[CONTEXT, DRIVE, GOOD], &device);
    let monitor = format!("cannot listen at 'm.sock': {reason}");
    refused_without_listen(&["-qmp unix:m.sock,server=on,wait=off"], &monitor);
}

#[test]
fn socket_of_another_kind_stays_with_its_owner() {
    let directory = directory();
    let _owner = UnixDatagram::bind(directory.socket("disk0.sock")).unwrap();
    let message = "device 'disk0': vhost-user='disk0.sock' is in use: another server listens there";
    refused_in(&directory, &[CONTEXT, DRIVE, GOOD], message);
}

#[test]
fn socket_path_with_something_else_there() {
    let directory = directory();
    fs::write(directory.path().join("disk0.sock"), "precious").unwrap();
    let message = "device 'disk0': vhost-user='disk0.sock' exists and is not a socket";
    refused_in(&directory, &[CONTEXT, DRIVE, GOOD], message);
    let kept = fs::read_to_string(directory.path().join("disk0.sock")).unwrap();
    assert_eq!(kept, "precious");
}

#[test]
fn socket_of_two_devices() {
    let drive = "-drive if=none,id=d1,file=disk1.raw,format=raw";
    let device = "-device virtio-blk,id=disk1,drive=d1,vhost-user=disk0.sock";
    refused(
        &[CONTEXT, DRIVE, drive, GOOD, device],
        "device 'disk1': vhost-user='disk0.sock' is in use: another server listens there",
    );
}

#[test]
fn socket_in_a_directory_that_does_not_exist() {
    let device = "-device virtio-blk,id=disk0,drive=d0,vhost-user=nosuch/disk0.sock";
    refused(
        &[DRIVE, device],
        "device 'disk0': cannot listen at vhost-user='nosuch/disk0.sock': No such file or directory (os error 2)",
    );
}

#[test]
fn device_without_transport() {
    let message = "device 'disk0' has no transport, expected vhost-user=PATH";
    let device = "-device virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1";
    refused(&[CONTEXT, DRIVE, device], message);
    let empty = "-device virtio-blk,id=disk0,drive=d0,vhost-user=";
    refused(&[DRIVE, empty], message);
}

#[test]
fn device_without_drive() {
    let device = "-device virtio-blk,id=disk0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock";
    refused(
        &[CONTEXT, DRIVE, device],
        "device 'disk0' has no drive, expected drive=ID",
    );
}

#[test]
fn drive_that_does_not_exist() {
    let device = "-device virtio-blk,id=disk0,drive=nosuch,vhost-user=disk0.sock";
    refused(
        &[DRIVE, device],
        "device 'disk0': drive 'nosuch' not found, expected the id of a -drive or a node-name",
    );
}

#[test]
fn drive_of_two_devices() {
    let device =
        "-device virtio-blk,id=disk1,drive=d0,x-data-plane=on,context=ctx1,vhost-user=disk1.sock";
    refused(
        &[CONTEXT, DRIVE, GOOD, device],
        "Drive 'd0' is already in use by another block device",
    );
}

#[test]
fn image_of_two_drives_and_of_two_programs() {
    let locked = "Failed to get \"write\" lock\nIs another process using the image [disk0.raw]?";
    let again = "-drive if=none,id=d1,file=disk0.raw,format=raw";
    refused(&[DRIVE, again], locked);

    let directory = directory();
    let mut owner = Server::start(&directory, &DRIVE.split(' ').collect::<Vec<_>>());
    let output = Command::new(qctx())
        .args(DRIVE.split(' '))
        .current_dir(directory.path())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint, format!("qctx: {DRIVE}: {locked}\n"));
    assert_eq!(output.status.code(), Some(1));
    owner.stop();
}

#[test]
fn ids_given_twice() {
    refused(&[CONTEXT, CONTEXT], "Duplicate ID 'ctx1' for object");
    refused(&[DRIVE, DRIVE], "Duplicate ID 'd0' for drive");
    let node = "-blockdev driver=null-co,node-name=n0,size=1M";
    refused(&[node, node], "Duplicate nodes with node-name='n0'");
    let device = "-device virtio-blk,id=disk0,drive=n0,vhost-user=other.sock";
    refused(
        &[CONTEXT, DRIVE, node, GOOD, device],
        "Duplicate ID 'disk0' for device",
    );
    let json =
        r#"-device {"driver":"virtio-blk","id":"disk0","drive":"n0","vhost-user":"other.sock"}"#;
    refused(
        &[CONTEXT, DRIVE, node, GOOD, json],
        "Duplicate device ID 'disk0'",
    );
}

#[test]
fn ids_that_are_missing() {
    let device = "-device virtio-blk,drive=d0,vhost-user=disk0.sock";
    refused(&[DRIVE, device], "Parameter 'id' is missing");
    refused(&["-object qcontext"], "Parameter 'id' is missing");
    refused(&["-drive file=disk0.raw"], "Parameter 'id' is missing");
}

#[test]
fn values_that_make_no_sense() {
    let with = |option: &str| {
        format!("-device virtio-blk,id=disk0,drive=d0,vhost-user=disk0.sock,{option}")
    };
    let number = "Parameter 'num-queues' expects a number from 1 to 64";
    refused(&[DRIVE, &with("num-queues=0")], number);
    refused(&[DRIVE, &with("num-queues=65")], number);
    refused(
        &[DRIVE, &with("num-queues=many")],
        "Parameter 'num-queues' expects an int64 value",
    );
    for size in ["0", "2", "3", "2048", "65540", "-4"] {
        let message =
            format!("device 'disk0': queue-size={size} is not a power of two in 4..=1024");
        refused(&[DRIVE, &with(&format!("queue-size={size}"))], &message);
    }
    let boolean = "Parameter 'x-data-plane' expects 'on' or 'off'";
    refused(&[DRIVE, &with("x-data-plane=1")], boolean);
    refused(&[DRIVE, &with("bogus=1")], "Invalid parameter 'bogus'");
}

#[test]
fn images_that_cannot_be_served() {
    let native = "-drive if=none,id=d0,file=disk0.raw,format=raw,aio=native";
    refused(&[native], "aio=native is not supported: use aio=io_uring");
    let format = "-drive if=none,id=d0,file=disk0.raw,format=qed";
    refused(
        &[format],
        "Unknown driver 'qed': the drivers are blkdebug, copy-before-write, copy-on-read, file, host_device, nbd, null-co, qcow2, raw, snapshot-access, throttle, vdi, vhdx, vmdk",
    );
    let interface = "-drive if=virtio,id=d0,file=disk0.raw,format=raw";
    refused(
        &[interface],
        "if=virtio is not supported: use if=none and a -device with drive=",
    );
}

#[test]
fn files_that_are_no_images() {
    let directory = directory();
    let fifo = directory.path().join("fifo");
    let made = Command::new("mkfifo").arg(fifo).status().unwrap();
    assert!(made.success());
    for file in ["fifo", "/dev/null", "/dev/zero", "/tmp"] {
        for more in ["", ",format=raw", ",format=raw,read-only=on"] {
            let drive = format!("-drive if=none,id=d0,file={file}{more}");
            let message = match file {
                "/tmp" => "Could not open '/tmp': Is a directory (os error 21)".to_owned(),
                _ => format!(
                    "'file' driver requires '{file}' to be a regular file or a block device"
                ),
            };
            refused_in(&directory, &[&drive], &message);
        }
    }
}

#[test]
fn monitor_that_cannot_be_had_ends_devices_that_were_made() {
    let directory = directory();
    fs::write(directory.path().join("m.sock"), "precious").unwrap();
    let monitor = "-qmp unix:m.sock,server=on,wait=off";
    let message = "'m.sock' exists and is not a socket";
    refused_in(&directory, &[CONTEXT, DRIVE, GOOD, monitor], message);
}
