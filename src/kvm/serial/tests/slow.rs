//! Outputs with a slow reader: the context does not block.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::*;

/// A watchdog: a context that blocks fails the test instead of hanging it.
const DEADLINE: Duration = Duration::from_secs(60);

/// How much is read at once: about as much as a terminal moves between its queues.
const PORTION: usize = 4096;

/// Both sides of a new terminal in raw mode.
fn terminal() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let mut how = OpenOptions::new();
    how.custom_flags(OFlags::NOCTTY.bits().cast_signed());
    let slave = how.read(true).write(true).open(name).unwrap();
    let mut mode = tcgetattr(&slave).unwrap();
    mode.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &mode).unwrap();
    (File::from(master), slave)
}

fn set_blocking(fd: impl AsFd, blocking: bool) {
    let mut flags = fcntl_getfl(&fd).unwrap();
    flags.set(OFlags::NONBLOCK, !blocking);
    fcntl_setfl(&fd, flags).unwrap();
}

/// Writes until nothing more fits. Answers how much did.
fn fill(output: impl AsFd) -> usize {
    set_blocking(&output, false);
    let (mut portion, mut count) = ([b'#'; PORTION].as_slice(), 0);
    while !portion.is_empty() {
        match rustix::io::write(&output, portion) {
            Ok(written) => count += written,
            Err(Errno::AGAIN) => portion = &portion[..portion.len() / 2],
            Err(error) => panic!("{error}"),
        }
    }
    set_blocking(&output, true);
    count
}

/// A driver fills the queue while `output` is full; then `screen`, the other side of `output`, is read in small parts.
fn comes_out(output: impl Into<OwnedFd> + AsFd, mut screen: impl Read + AsFd) {
    let before = fill(&output);
    let shared = output.as_fd().try_clone_to_owned().unwrap();
    let setup = Setup::with_output(output);
    let mut sent = 0;
    while setup.can_transmit() {
        setup.set(DATA, b'x');
        sent += 1;
    }
    set_blocking(&screen, false);
    let mut seen = Vec::new();
    while seen.len() < before + sent {
        setup.settle();
        let mut bytes = [0; PORTION];
        match screen.read(&mut bytes) {
            Ok(count) => seen.extend_from_slice(&bytes[..count]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    while setup.console.unsent() > 0 {
        setup.settle();
    }
    assert!(seen[..before].iter().all(|byte| *byte == b'#'));
    assert!(seen[before..].iter().all(|byte| *byte == b'x'));
    let flags = fcntl_getfl(&shared).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK), "others share it");
}

/// Runs the test on a thread that may hang.
fn within_deadline(test: impl FnOnce() + Send + 'static) {
    let (done, over) = channel();
    let thread = std::thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    let in_time = over.recv_timeout(DEADLINE);
    assert_ne!(
        in_time,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout),
        "the context waits for its output"
    );
    thread.join().unwrap();
}

#[test]
fn a_terminal_with_some_room_does_not_make_the_context_wait_for_more() {
    within_deadline(|| {
        let (master, slave) = terminal();
        comes_out(slave, master);
    });
}

/// Opening the master of a terminal again would make a new terminal, so a worker writes.
#[test]
fn the_other_side_of_a_terminal_makes_a_worker_wait() {
    within_deadline(|| {
        let (master, slave) = terminal();
        comes_out(master, slave);
    });
}

#[test]
fn a_full_pipe_does_not_make_the_context_wait() {
    within_deadline(|| {
        let (screen, output) = pipe().unwrap();
        comes_out(output, screen);
    });
}

#[test]
fn a_full_socket_does_not_make_the_context_wait() {
    within_deadline(|| {
        let (screen, output) = UnixStream::pair().unwrap();
        comes_out(output, screen);
    });
}

/// A regular file keeps its offset, which other processes share.
#[test]
fn a_file_gets_everything_where_it_was() {
    within_deadline(|| {
        let mut file = rustix::fs::memfd_create("console", rustix::fs::MemfdFlags::CLOEXEC)
            .map(File::from)
            .unwrap();
        file.write_all(b"before ").unwrap();
        let setup = Setup::with_output(file.try_clone().unwrap());
        for byte in b"hello" {
            setup.set(DATA, *byte);
        }
        while setup.console.unsent() > 0 {
            setup.settle();
        }
        file.write_all(b" after").unwrap();
        let mut text = String::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before hello after");
    });
}
