//! What a hostile peer can do to the eventfds it shares with us.
#![allow(unsafe_code)] // eventfd and fcntl, playing the peer

use std::os::fd::FromRawFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;

fn eventfd() -> OwnedFd {
    // SAFETY: creates an fd of our own.
    let fd = unsafe { libc::eventfd(0, 0) };
    // SAFETY: just created.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn write(fd: &OwnedFd, value: u64) {
    // SAFETY: eight valid bytes.
    unsafe { libc::write(fd.as_raw_fd(), value.to_ne_bytes().as_ptr().cast(), 8) };
}

#[test]
fn only_eventfds_are_accepted() {
    let others: [OwnedFd; 3] = [
        fs::File::open("/dev/null").unwrap().into(),
        std::os::unix::net::UnixStream::pair().unwrap().0.into(),
        std::io::pipe().unwrap().0.into(),
    ];
    for other in others {
        let error = KickFd::new(other).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("the kick fd is '"), "{message}");
        assert!(message.ends_with("', expected an eventfd"), "{message}");
    }
    assert!(KickFd::new(eventfd()).is_ok());
    assert!(CallFd::new(eventfd()).is_ok());
}

#[test]
fn full_counter_with_blocking_flag_does_not_block_a_call() {
    let peer = eventfd();
    let call = CallFd::new(peer.try_clone().unwrap()).unwrap();
    write(&peer, u64::MAX - 1);
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        (0..100).for_each(|_| call.signal());
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(20))
        .expect("the call blocked");
}

#[test]
fn a_call_wakes_the_peer_each_time() {
    let peer = eventfd();
    let call = CallFd::new(peer.try_clone().unwrap()).unwrap();
    call.signal();
    call.signal();
    let mut count = [0; 8];
    // SAFETY: eight valid bytes; the counter is two.
    unsafe { libc::read(peer.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    assert_eq!(u64::from_ne_bytes(count), 2);
}
