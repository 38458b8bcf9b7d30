//! A serial console whose other side stops reading: the guest waits, the rest of `qctx` goes on.
//!
//! Says SKIP where there is no KVM.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use support::deadline::{DEADLINE, wait_for};
use support::directory::TestDir;
use support::process::{Process, qctx};
use support::qmp::{Client, returns};
use support::skip::skip;
use support::terminal::terminal;
use support::tiny_kernel;

/// How much is read at once: about as much as a terminal moves between its two queues.
const PORTION: usize = 4096;

/// A `qctx` with the kernel that sends without end, and a monitor.
struct Machine {
    process: Process,
    client: Client,
    _directory: TestDir,
}

impl Machine {
    /// None without KVM.
    fn start(input: impl Into<Stdio>, output: impl Into<Stdio>) -> Option<Machine> {
        if let Err(error) = qcontext::kvm::open() {
            skip(error);
            return None;
        }
        let directory = TestDir::new();
        let (kernel, socket) = (directory.file("kernel"), directory.socket("qmp.sock"));
        fs::write(&kernel, tiny_kernel::busy()).unwrap();
        let child = Command::new(qctx())
            .args(["-machine", "microvm", "-serial", "stdio", "-kernel"])
            .arg(&kernel)
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .stdin(input)
            .stdout(output)
            .spawn()
            .unwrap();
        let process = Process(child);
        wait_for("the monitor", || UnixStream::connect(&socket).ok());
        let mut client = Client::connect(&socket);
        client.ask("{\"execute\":\"qmp_capabilities\"}");
        Some(Machine {
            process,
            client,
            _directory: directory,
        })
    }

    /// The main loop answers; the same loop writes the console's output.
    #[track_caller]
    fn answers(&mut self) {
        let running = returns(r#"{"status": "running", "running": true}"#);
        for _ in 0..20 {
            let answer = self.client.ask("{\"execute\":\"query-status\"}");
            assert_eq!(answer, running);
        }
    }

    /// QMP is answered while the output is full, and while it is read bit by bit. The guest waits meanwhile, so nothing that
    /// it sent is lost.
    #[track_caller]
    fn goes_on_while_its_output_is_full(mut self, screen: &mut (impl Read + AsFd)) {
        let mut sent = Vec::new();
        for _ in 0..8 {
            (0..5).for_each(|_| self.answers());
            read(screen, &mut [0; PORTION], &mut sent);
        }
        self.client.ask("{\"execute\":\"system_powerdown\"}");
        while sent.last() != Some(&b'P') {
            read(screen, &mut [0; 1 << 16], &mut sent);
        }
        let sent = String::from_utf8(sent).unwrap();
        let sent = sent.trim_start_matches('#').strip_prefix('A').unwrap();
        let dots = sent.strip_suffix('P').unwrap();
        assert!(!dots.is_empty() && dots.bytes().all(|byte| byte == b'.'));
        assert!(self.client.rest().contains("guest-shutdown"));
        self.process.ends_well();
    }
}

#[track_caller]
fn read(screen: &mut (impl Read + AsFd), bytes: &mut [u8], sent: &mut Vec<u8>) {
    await_readable(screen);
    let count = screen.read(bytes).unwrap();
    assert!(count > 0, "the end after {} bytes", sent.len());
    sent.extend_from_slice(&bytes[..count]);
}

#[track_caller]
fn await_readable(screen: &impl AsFd) {
    let mut fds = [PollFd::new(screen, PollFlags::IN)];
    let limit = i32::try_from(DEADLINE.as_millis()).unwrap();
    let ready = poll(&mut fds, limit).unwrap();
    assert!(ready > 0, "nothing comes");
}

/// The next byte.
#[track_caller]
fn next(screen: &mut (impl Read + AsFd)) -> u8 {
    let mut byte = [0];
    await_readable(screen);
    screen.read_exact(&mut byte).unwrap();
    byte[0]
}

/// Writes until nothing more goes in.
fn fill(output: impl AsFd) {
    let before = rustix::fs::fcntl_getfl(&output).unwrap();
    rustix::fs::fcntl_setfl(&output, before | OFlags::NONBLOCK).unwrap();
    let mut portion = [b'#'; PORTION].as_slice();
    while !portion.is_empty() {
        match rustix::io::write(&output, portion) {
            Ok(_) => {}
            Err(Errno::AGAIN) => portion = &portion[..portion.len() / 2],
            Err(error) => panic!("{error}"),
        }
    }
    rustix::fs::fcntl_setfl(&output, before).unwrap();
}

/// As a shell does after the program: the flags of the file description must be as before.
fn blocks(fd: impl AsFd) -> bool {
    !rustix::fs::fcntl_getfl(fd)
        .unwrap()
        .contains(OFlags::NONBLOCK)
}

fn same(file: &File) -> File {
    file.try_clone().unwrap()
}

#[test]
fn a_full_terminal_stops_the_guest_and_nothing_else() {
    let (mut master, slave) = terminal();
    fill(&slave);
    let Some(machine) = Machine::start(same(&slave), same(&slave)) else {
        return;
    };
    machine.goes_on_while_its_output_is_full(&mut master);
    assert!(blocks(&slave));
}

/// This side of a terminal cannot be opened a second time, so a worker of the pool writes, and blocks.
#[test]
fn what_cannot_be_opened_again_keeps_only_a_worker_waiting() {
    let (master, mut slave) = terminal();
    let mut raw = tcgetattr(&slave).unwrap();
    raw.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &raw).unwrap();
    fill(&master);
    let Some(machine) = Machine::start(Stdio::null(), same(&master)) else {
        return;
    };
    machine.goes_on_while_its_output_is_full(&mut slave);
    assert!(blocks(&master));
}

#[test]
fn a_full_pipe_stops_the_guest_and_nothing_else() {
    let (mut screen, output) = pipe().unwrap();
    fill(&output);
    let Some(machine) = Machine::start(Stdio::null(), output.try_clone().unwrap()) else {
        return;
    };
    machine.goes_on_while_its_output_is_full(&mut screen);
    assert!(blocks(&output));
}

#[test]
fn a_full_socket_stops_the_guest_and_nothing_else() {
    let (mut screen, output) = UnixStream::pair().unwrap();
    fill(&output);
    let shared = OwnedFd::from(output.try_clone().unwrap());
    let Some(machine) = Machine::start(Stdio::null(), shared) else {
        return;
    };
    machine.goes_on_while_its_output_is_full(&mut screen);
    assert!(blocks(&output));
}

#[test]
fn a_terminal_that_is_gone_ends_nothing() {
    let (mut master, slave) = terminal();
    let Some(mut machine) = Machine::start(same(&slave), slave) else {
        return;
    };
    assert_eq!(next(&mut master), b'A');
    drop(master);
    machine.answers();
    machine.client.send(b"{\"execute\":\"quit\"}");
    assert!(machine.client.rest().contains("host-qmp-quit"));
    machine.process.ends_well();
}

/// Keys reach the guest through a terminal that is opened a second time, and the terminal's mode is restored at the end.
#[test]
fn output_that_a_full_disk_does_not_take_is_reported_once() {
    if let Err(error) = qcontext::kvm::open() {
        return skip(error);
    }
    let directory = TestDir::new();
    let (kernel, log) = (directory.file("kernel"), directory.file("log"));
    fs::write(&kernel, tiny_kernel::busy()).unwrap();
    let mut command = Command::new(qctx());
    command
        .args([
            "-machine",
            "microvm",
            "-serial",
            "file:/dev/full",
            "-kernel",
        ])
        .arg(&kernel)
        .stdin(Stdio::null())
        .stderr(File::create(&log).unwrap());
    let mut process = Process::start(&mut command);
    let text = wait_for("a line", || {
        let text = fs::read_to_string(&log).unwrap();
        text.ends_with('\n').then_some(text)
    });
    let reason = "No space left on device (os error 28)";
    let line = format!("serial console: output is dropped from now on: {reason}\n");
    assert!(text.ends_with(&line), "{text}");
    process.signal("TERM");
    process.ends_well();
    assert_eq!(fs::read_to_string(&log).unwrap(), text);
}

#[test]
fn keys_arrive_and_the_terminal_is_given_back() {
    let (mut master, slave) = terminal();
    let before = tcgetattr(&slave).unwrap();
    let directory = TestDir::new();
    let kernel = directory.file("kernel");
    fs::write(&kernel, tiny_kernel::elf()).unwrap();
    if let Err(error) = qcontext::kvm::open() {
        return skip(error);
    }
    let child = Command::new(qctx())
        .args(["-machine", "microvm", "-kernel"])
        .arg(&kernel)
        .stdin(same(&slave))
        .stdout(same(&slave))
        .spawn()
        .unwrap();
    let mut process = Process(child);
    assert_eq!(next(&mut master), b'A');
    for key in b"xyz" {
        master.write_all(&[*key]).unwrap();
        assert_eq!(next(&mut master), *key);
    }
    master.write_all(b"q").unwrap();
    process.ends_well();
    let after = tcgetattr(&slave).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
}
