//! Attaching on one thread while another stops the context. Alone in its process, because it counts fds, threads and GLib's
//! warnings.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use qcontext::{AioContext, ErrorKind, EventNotifier, FdHandler, Poller, QContext, Wait};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use support::deadline::DEADLINE;
use support::loops::Count;

/// Rounds of each race with each poller.
const ROUNDS: usize = 200;

/// Later than any test ends.
const DISTANT: Duration = Duration::from_secs(3600);

/// Counts its drop.
struct CountsDrop(Count);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.hit();
    }
}

/// Who comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Attach,
    Stop,
    /// Either.
    Race,
}

/// Something of each kind to attach.
struct Device {
    aio: AioContext,
    source: glib::Source,
    /// Calls of the bottom half and of the handler.
    ran: Count,
    read: Count,
    /// Destructors: the handler's, the GSource's.
    handler_dropped: Count,
    source_dropped: Count,
    notifier: Arc<EventNotifier>,
}

impl Device {
    /// With a bottom half that waits and an fd that is ready.
    fn new() -> Device {
        let [ran, read, handler_dropped, source_dropped]: [Count; 4] = Default::default();
        let (aio, notifier) = (AioContext::new().unwrap(), EventNotifier::new().unwrap());
        let notifier = Arc::new(notifier);
        let (counted, hit, fd) = (
            CountsDrop(handler_dropped.clone()),
            read.clone(),
            Arc::clone(&notifier),
        );
        let handler = FdHandler::new().on_read(move || {
            let _ = &counted;
            fd.take();
            hit.hit();
        });
        aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        notifier.signal();
        aio.schedule_oneshot("once", ran.hitter());
        let counted = CountsDrop(source_dropped.clone());
        let source = glib::idle_source_new(None, glib::Priority::DEFAULT_IDLE, move || {
            let _ = &counted;
            glib::ControlFlow::Continue
        });
        Device {
            aio,
            source,
            ran,
            read,
            handler_dropped,
            source_dropped,
            notifier,
        }
    }

    /// Attaches both, and returns which were taken. A refusal must be the error Closed.
    fn attach_to(&self, context: &QContext) -> [bool; 2] {
        [
            context.attach(&self.aio, None),
            context.attach_source(&self.source, None),
        ]
        .map(|outcome| {
            outcome
                .inspect_err(|error| assert_eq!(error.kind(), ErrorKind::Closed, "{error}"))
                .is_ok()
        })
    }

    /// After the stop: the GSource went with the context if it was taken; the AioContext has been given back in either case,
    /// with what was pending.
    fn settle(self, context: &QContext, taken: [bool; 2]) {
        assert!(!context.has_aio(&self.aio), "given back or never taken");
        assert_eq!(self.source.is_destroyed(), taken[1]);
        assert_eq!(self.source_dropped.get(), usize::from(taken[1]));
        while self.ran.get() + self.read.get() < 2 {
            self.aio.poll(Wait::Block).unwrap();
        }
        while self.aio.poll(Wait::NoBlock).unwrap() {}
        assert_eq!((self.ran.get(), self.read.get()), (1, 1), "each once");
        self.notifier.signal();
        while self.read.get() < 2 {
            self.aio.poll(Wait::Block).unwrap();
        }
        drop((self.aio, self.source));
        assert_eq!(self.handler_dropped.get(), 1);
        assert_eq!(self.source_dropped.get(), 1);
    }
}

/// One round; which of the two were taken.
fn attach_against_stop(poller: Poller, order: Order) -> [bool; 2] {
    let context = QContext::builder("contested")
        .threaded(true)
        .poller(poller)
        .build()
        .unwrap();
    let device = Device::new();
    let meet = Barrier::new(2);
    let attach = || {
        if order != Order::Attach {
            meet.wait();
        }
        let taken = device.attach_to(&context);
        if order == Order::Attach {
            meet.wait();
        }
        taken
    };
    let stop = || {
        if order != Order::Stop {
            meet.wait();
        }
        context.stop().unwrap();
        if order == Order::Stop {
            meet.wait();
        }
    };
    let taken = at_once(attach, stop);
    device.settle(&context, taken);
    taken
}

/// Attaches one GSource after the other until the context, which is stopped meanwhile, takes no more.
fn attach_until_stopped(poller: Poller) {
    let context = QContext::builder("contested")
        .threaded(true)
        .poller(poller)
        .build()
        .unwrap();
    let dropped = Count::default();
    let (first, is_first) = channel();
    let attach = || {
        let mut taken = Vec::new();
        loop {
            let counted = CountsDrop(dropped.clone());
            let source = glib::timeout_source_new(DISTANT, None, glib::Priority::LOW, move || {
                let _ = &counted;
                glib::ControlFlow::Continue
            });
            match context.attach_source(&source, None) {
                Ok(()) => taken.push(source),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                    assert!(!source.is_destroyed(), "nothing was taken");
                    return taken;
                }
            }
            let _ = first.send(());
        }
    };
    let same = context.clone();
    let stop = move || {
        is_first.recv().unwrap();
        same.stop().unwrap();
    };
    let taken = at_once(attach, stop);
    assert!(!taken.is_empty());
    assert!(taken.iter().all(glib::Source::is_destroyed));
    assert_eq!(dropped.get(), taken.len() + 1, "callbacks dropped");
}

/// Runs both on threads that have ended when this returns, because threads are counted.
fn at_once<T: Send>(attach: impl FnOnce() -> T + Send, stop: impl FnOnce() + Send) -> T {
    std::thread::scope(|scope| {
        let (attach, stop) = (scope.spawn(attach), scope.spawn(stop));
        stop.join().unwrap();
        attach.join().unwrap()
    })
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// Open fds and threads.
fn held() -> [usize; 2] {
    ["/proc/self/fd", "/proc/self/task"].map(count)
}

/// A thread is listed for a moment after it has been joined.
fn settle(expected: impl Fn([usize; 2]) -> bool) -> [usize; 2] {
    let begin = Instant::now();
    // Shorter than the deadline of a round.
    while !expected(held()) && begin.elapsed() < DEADLINE / 2 {
        std::thread::yield_now();
    }
    held()
}

static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note_complaint(domain: Option<&str>, level: glib::LogLevel, message: &str) {
    let line = format!("{domain:?} {level:?}: {message}");
    COMPLAINTS.lock().unwrap().push(line);
}

#[test]
fn what_is_attached_while_the_context_stops_goes_with_it_or_is_refused() {
    let (goes_on, rounds) = channel();
    // A round that takes longer hangs.
    std::thread::spawn(move || {
        loop {
            match rounds.recv_timeout(DEADLINE) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("attaching against a stop hangs");
                    std::process::abort();
                }
            }
        }
    });
    glib::log_set_default_handler(note_complaint);
    let [_, threads] = held();
    // One of each first: some fds and threads of the process are made once and stay.
    for poller in Poller::ALL {
        assert_eq!(attach_against_stop(poller, Order::Attach), [true; 2]);
        assert_eq!(attach_against_stop(poller, Order::Stop), [false; 2]);
        attach_until_stopped(poller);
    }
    COMPLAINTS.lock().unwrap().clear(); // of a poller that is not to be had
    let before = settle(|[_, now]| now == threads);
    goes_on.send(()).unwrap();
    for poller in Poller::ALL {
        for _ in 0..ROUNDS {
            attach_against_stop(poller, Order::Race);
            attach_until_stopped(poller);
            goes_on.send(()).unwrap();
        }
    }
    assert_eq!(settle(|now| now == before), before, "fds and threads");
    let told = std::mem::take(&mut *COMPLAINTS.lock().unwrap());
    let unexpected: Vec<_> = told
        .iter()
        .filter(|line| !line.contains("waits with epoll, not with"))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}
