//! What FUA, flushes and CACHE do, over a node whose flushes fail.
//!
//! qemu-storage-daemon answers the same, but it does not flush what nobody has written, and writes through where we write and flush.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use qcontext::nbd::protocol::request::{command, command_flag};
use support::deadline::wait_for;
use support::directory::TestDir;
use support::process::{Process, qctx};

use super::peer::{Peer, Style};

const EIO: u32 = 5;

/// The command, its flags, and the errno that the server answers.
fn answers(program: &OsStr, commands: &[u16]) -> Vec<(u16, u16, u32)> {
    let directory = TestDir::new();
    directory.image("disk.raw", 1);
    let mut daemon = Command::new(program);
    daemon.args([
        "--blockdev",
        "file,node-name=f0,filename=disk.raw",
        "--blockdev",
        "blkdebug,node-name=b0,image=f0,inject-error.0.event=none,inject-error.0.iotype=flush",
        "--nbd-server",
        "addr.type=unix,addr.path=nbd.sock",
        "--export",
        "nbd,id=e0,node-name=b0,name=disk,writable=on",
    ]);
    daemon.current_dir(directory.path()).stdin(Stdio::null());
    let _process = Process::start(&mut daemon);
    let socket = directory.socket("nbd.sock");
    wait_for("the NBD server", || UnixStream::connect(&socket).ok());
    let mut peer = Peer::of(&socket, "disk", Style::Structured);
    let mut found = Vec::new();
    for &number in commands {
        for flags in [0, command_flag::FUA] {
            let length = if number == command::FLUSH { 0 } else { 4096 };
            let answer = match number {
                command::WRITE => peer.write_data(flags, 0, &[1; 4096]),
                _ => peer.ask(number, flags, 0, length),
            };
            found.push((number, flags, answer.error));
        }
    }
    found
}

#[test]
fn a_request_with_fua_succeeds_only_if_the_flush_does() {
    let commands = [
        command::READ,
        command::WRITE,
        command::TRIM,
        command::WRITE_ZEROES,
        command::CACHE,
        command::FLUSH,
    ];
    for (number, flags, error) in answers(&qctx(), &commands) {
        let flushes = number == command::FLUSH || (flags != 0 && number != command::CACHE);
        assert_eq!(error == EIO, flushes, "{number} {flags}");
    }
}
