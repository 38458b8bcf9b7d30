//! Contexts leave no fd open, and are not confused by fds with the numbers of closed ones. These tests count all fds of the
//! process, so one runs at a time.
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike
#![allow(unsafe_code)] // close(2)

use gsource::{AioContext, Clock, EventNotifier, FdHandler, Reactor, Wait};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Mutex;
use support::deadline::deadline;
use support::loops::{Count, Driven, Loop, watched_notifier};
use support::thread::{gettid, wait_asleep};

/// Held while a test has the fds for itself.
static FDS: Mutex<()> = Mutex::new(());

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Leaves everything pending: a signalled handler, bottom halves, a timer. The caller closes the notifier later.
fn leave_in_a_mess(aio: &AioContext) -> EventNotifier {
    let notifier = EventNotifier::new().unwrap();
    aio.set_fd_handler(notifier.as_raw_fd(), FdHandler::new().on_read(|| ()))
        .unwrap();
    let bh = aio.bh("test", || ());
    bh.schedule();
    aio.schedule_oneshot("test", || ());
    let timer = aio.timer(Clock::Realtime, || ());
    timer.arm_in_ns(i64::from(i32::MAX));
    notifier.signal();
    notifier
}

#[test]
fn contexts_that_come_and_go_leave_no_fd() {
    let _deadline = deadline("contexts_that_come_and_go_leave_no_fd");
    let _fds = FDS.lock().unwrap();
    let before = open_fds();
    for _ in 0..200 {
        let never_driven = AioContext::new().unwrap();
        let _notifier1 = leave_in_a_mess(&never_driven);
        drop(never_driven);

        let polled = AioContext::new().unwrap();
        polled.poll(Wait::NoBlock).unwrap();
        let _notifier2 = leave_in_a_mess(&polled);
        drop(polled);

        let by_glib = Driven::new(Loop::Glib);
        let _notifier3 = leave_in_a_mess(&by_glib.aio);
        by_glib.iterate(Wait::NoBlock);
        let _notifier4 = leave_in_a_mess(&by_glib.aio);
        drop(by_glib);

        let reactor = Reactor::new().unwrap();
        let attached = AioContext::new().unwrap();
        let _notifier5 = leave_in_a_mess(&attached);
        attached.attach_to(&reactor).unwrap();
        let _notifier6 = leave_in_a_mess(&attached);
        reactor.iterate(Wait::NoBlock).unwrap();
        let _notifier7 = leave_in_a_mess(&attached);
        drop(attached);

        let moved = AioContext::new().unwrap();
        moved.attach_to(&reactor).unwrap();
        let _notifier8 = leave_in_a_mess(&moved);
        moved.detach().unwrap();
        moved.poll(Wait::NoBlock).unwrap();
        drop(moved);

        let never_attached_source = AioContext::new().unwrap().g_source().unwrap();
        drop(never_attached_source);
    }
    assert_eq!(open_fds(), before);
}

/// The numbers of the closed fds are the lowest free ones, so the context's own epoll set and wake-up fd get them.
#[test]
fn own_fds_under_the_numbers_of_closed_ones_are_not_taken_for_them() {
    let _deadline = deadline("own_fds_under_the_numbers_of_closed_ones_are_not_taken_for_them");
    let _fds = FDS.lock().unwrap();
    let aio = AioContext::new().unwrap();
    let calls = Count::new();
    let numbers: Vec<_> = (0..3)
        .map(|_| OwnedFd::from(std::fs::File::open("/dev/zero").unwrap()).into_raw_fd())
        .collect();
    let (notifier, count) = watched_notifier(&aio);
    for &number in &numbers {
        aio.set_fd_handler(number, FdHandler::new().on_read(calls.hitter()))
            .unwrap();
    }
    for &number in &numbers {
        // SAFETY: the test owns the number.
        assert_eq!(unsafe { libc::close(number) }, 0);
    }
    aio.poll(Wait::NoBlock).unwrap();
    std::thread::scope(|scope| {
        let tid = gettid();
        let (notify, notifier) = (aio.clone(), &notifier);
        scope.spawn(move || {
            wait_asleep(tid);
            notify.notify();
            notifier.signal();
        });
        while count.get() == 0 {
            aio.poll(Wait::Block).unwrap();
        }
    });
    assert!(
        !aio.poll(Wait::NoBlock).unwrap(),
        "nothing of its own is left ready"
    );
    assert_eq!(calls.get(), 0);
}
