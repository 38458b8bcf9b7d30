//! GLib iterates the source of an AioContext on one thread, while another thread polls the AioContext and then gives it work.
//! Without timers: the fd that wakes GLib for them is a real one, and knows nothing of the model's time.
#![allow(unsafe_code)] // poll(2) stands in for GLib's

use super::{Account, check};
use crate::kernel_model;
use crate::reactor::{Driving, Reactor};
use crate::sync::{AtomicBool, Ordering, thread};
use crate::{AioContext, Poller, Wait};
use std::os::fd::RawFd;
use std::sync::Arc;

const MS: i64 = 1_000_000;

/// GLib's side: what it polls, and the three steps of the source.
struct GLoop {
    reactor: Arc<Reactor>,
    set: RawFd,
    version: Option<u64>,
    listed: Vec<(RawFd, u32)>,
}

impl GLoop {
    fn new(reactor: Arc<Reactor>) -> GLoop {
        GLoop {
            set: reactor.poll_fd().unwrap(),
            reactor,
            version: None,
            listed: Vec::new(),
        }
    }

    fn iterate(&mut self) {
        let show = |driving: &Driving<'_>| {
            if let Some(listed) = driving.listed_since(&mut self.version) {
                self.listed = listed;
            }
        };
        let wait = self.reactor.prepare(show);
        let ready = self.poll(i64::from(wait.unwrap_or(0)) * MS) > 0;
        if wait.is_none() || self.reactor.check(ready) {
            self.reactor.dispatch();
        }
    }

    fn poll(&self, timeout_ns: i64) -> usize {
        let set = (self.set, crate::poller::READABLE);
        let all = self.listed.iter().copied().chain([set]);
        let mut fds: Vec<_> = all
            .map(|(fd, events)| libc::pollfd {
                fd,
                events: libc::c_short::try_from(events & 0x7fff).unwrap(),
                revents: 0,
            })
            .collect();
        kernel_model::wait(timeout_ns, || {
            let count = libc::nfds_t::try_from(fds.len()).unwrap();
            // SAFETY: the entries of the vector.
            let ready = unsafe { libc::poll(fds.as_mut_ptr(), count, 0) };
            usize::try_from(ready).unwrap()
        })
    }
}

fn polled_elsewhere(poller: Poller) {
    let aio = AioContext::with_poller(poller).unwrap();
    let account = Account::new();
    let stopping = Arc::new(AtomicBool::new(false));
    let home = {
        let (reactor, stopping) = (aio.reactor().unwrap(), Arc::clone(&stopping));
        thread::spawn(move || {
            let mut gloop = GLoop::new(reactor);
            while !stopping.load(Ordering::Acquire) {
                gloop.iterate();
            }
        })
    };
    let other = {
        let (aio, account) = (aio.clone(), Arc::clone(&account));
        thread::spawn(move || {
            for _ in 0..2 {
                // Refused while the other thread drives.
                let _ = aio.poll(Wait::NoBlock);
                let user = account.user();
                aio.schedule_oneshot("once", move || user.call(|| ()));
            }
            let _ = aio.poll(Wait::NoBlock);
        })
    };
    other.join().unwrap();
    account.wait_until(|account| account.calls() == 2);
    stopping.store(true, Ordering::Release);
    aio.notify();
    home.join().unwrap();
    drop(aio);
    account.assert_over(2);
}

#[test]
fn shuttle_a_poll_on_another_thread_hides_nothing_from_glib() {
    check(polled_elsewhere);
}
