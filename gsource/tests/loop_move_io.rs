//! A context with requests in the io_uring of its home does not move: their ends come where they were submitted.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unsafe_code)] // requests name memory

use gsource::{AioContext, ErrorKind, EventNotifier, IoBatch, IoCompletion, IoQueue, IoSink};
use gsource::{Drivers, Poller, Reactor, Wait};
use io_uring::{opcode, squeue, types};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use support::deadline::deadline;
use support::seccomp::{Penalty, forbid};
use support::skip::skip;

/// Sends the next request when one has ended, as a device's queue does, and keeps what that said.
#[derive(Default)]
struct Chain {
    queue: OnceLock<IoQueue>,
    ends: Mutex<Vec<i32>>,
    pushes: Mutex<Vec<Result<(), ErrorKind>>>,
}

impl Chain {
    /// A chain of `aio`, if this kernel allows io_uring.
    fn of(aio: &AioContext) -> Option<Arc<Chain>> {
        let chain = Arc::new(Chain::default());
        let sink: Arc<dyn IoSink> = Arc::<Chain>::clone(&chain);
        match aio.register_io(sink) {
            Ok(queue) => {
                chain.queue.set(queue).unwrap();
                Some(chain)
            }
            Err(error) => {
                skip(error);
                None
            }
        }
    }

    fn push(&self, entry: squeue::Entry) -> Result<(), ErrorKind> {
        // SAFETY: the tests' requests name no memory.
        let push = |batch: &mut IoBatch<'_>| unsafe { batch.push(1, entry) };
        let pushed = self.queue.get().unwrap().batch(push).flatten();
        pushed.map_err(|error| error.kind())
    }

    /// A request that ends when `notifier` is signalled.
    fn wait_for(&self, notifier: &EventNotifier) {
        let readable = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(types::Fd(notifier.as_raw_fd()), readable);
        self.push(entry.build()).unwrap();
    }

    fn ends(&self) -> usize {
        self.ends.lock().unwrap().len()
    }
}

impl IoSink for Chain {
    fn complete(&self, completions: &[IoCompletion]) {
        for completion in completions {
            let first = self.ends() == 0;
            self.ends.lock().unwrap().push(completion.result);
            if first {
                let pushed = self.push(opcode::Nop::new().build());
                self.pushes.lock().unwrap().push(pushed);
            }
        }
    }
}

fn assert_busy(refused: gsource::Result<()>) {
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("io_uring request"), "{error}");
}

#[test]
fn a_context_with_requests_in_flight_stays_where_they_end() {
    let _deadline = deadline("a_context_with_requests_in_flight_stays_where_they_end");
    let [first, second] = [(); 2].map(|()| Reactor::new().unwrap());
    let aio = AioContext::new().unwrap();
    aio.attach_to(&first).unwrap();
    let Some(chain) = Chain::of(&aio) else { return };
    let notifier = EventNotifier::new().unwrap();
    chain.wait_for(&notifier);
    assert_busy(aio.detach());
    notifier.signal();
    while chain.ends() < 2 {
        first.iterate(Wait::Block).unwrap();
        assert!(chain.ends() == 2 || aio.detach().is_err());
    }
    assert_eq!(
        *chain.pushes.lock().unwrap(),
        [Ok(())],
        "the next request was taken"
    );
    aio.detach().unwrap();
    aio.attach_to(&second).unwrap();
    chain.wait_for(&notifier);
    while chain.ends() < 3 {
        second.iterate(Wait::Block).unwrap();
    }
    aio.detach().unwrap();
}

#[test]
fn a_context_with_requests_in_its_own_ring_is_not_attached() {
    let _deadline = deadline("a_context_with_requests_in_its_own_ring_is_not_attached");
    let (aio, reactor) = (AioContext::new().unwrap(), Reactor::new().unwrap());
    let Some(chain) = Chain::of(&aio) else { return };
    chain.push(opcode::Nop::new().build()).unwrap();
    assert_busy(aio.attach_to(&reactor));
    while chain.ends() < 2 {
        aio.poll(Wait::Block).unwrap();
    }
    aio.attach_to(&reactor).unwrap();
    aio.detach().unwrap();
}

/// One queue's requests are those of its context, also when the queue is gone.
#[test]
fn requests_of_a_queue_that_is_gone_hold_the_context() {
    let _deadline = deadline("requests_of_a_queue_that_is_gone_hold_the_context");
    struct Ignored;
    impl IoSink for Ignored {
        fn complete(&self, _: &[IoCompletion]) {}
    }
    let (aio, reactor) = (AioContext::new().unwrap(), Reactor::new().unwrap());
    let sink: Arc<dyn IoSink> = Arc::new(Ignored);
    let Ok(queue) = aio.register_io(Arc::clone(&sink)) else {
        skip("this kernel allows no io_uring");
        return;
    };
    // SAFETY: a no-op names no memory.
    let push = |batch: &mut IoBatch<'_>| unsafe { batch.push(1, opcode::Nop::new().build()) };
    queue.batch(push).unwrap().unwrap();
    drop((queue, sink));
    assert_busy(aio.attach_to(&reactor));
    assert!(aio.poll(Wait::Block).unwrap());
    aio.attach_to(&reactor).unwrap();
    aio.detach().unwrap();
}

#[test]
fn a_file_request_outside_of_a_task_holds_the_context() {
    let _deadline = deadline("a_file_request_outside_of_a_task_holds_the_context");
    let (aio, reactor) = (AioContext::new().unwrap(), Reactor::new().unwrap());
    if Chain::of(&aio).is_none() {
        return;
    }
    let file = aio.file(File::open("/proc/self/stat").unwrap());
    let mut request = Box::pin(file.read_at(vec![0; 16], 0));
    let mut context = Context::from_waker(Waker::noop());
    assert!(request.as_mut().poll(&mut context).is_pending());
    assert_busy(aio.attach_to(&reactor));
    let (count, _) = loop {
        match request.as_mut().poll(&mut context) {
            Poll::Ready(done) => break done,
            Poll::Pending => drop(aio.poll(Wait::Block).unwrap()),
        }
    };
    assert_eq!(count.unwrap(), 16);
    aio.attach_to(&reactor).unwrap();
    aio.detach().unwrap();
}

/// Moves its context when a request has ended.
struct Mover {
    aio: AioContext,
    refused: Mutex<Option<gsource::Result<()>>>,
}

impl IoSink for Mover {
    fn complete(&self, _: &[IoCompletion]) {
        *self.refused.lock().unwrap() = Some(self.aio.detach());
    }
}

/// The new home could deliver to the same sink before this call has returned.
#[test]
fn a_context_does_not_move_while_its_requests_are_delivered() {
    let (aio, reactor) = (AioContext::new().unwrap(), Reactor::new().unwrap());
    aio.attach_to(&reactor).unwrap();
    let mover = Arc::new(Mover {
        aio: aio.clone(),
        refused: Mutex::default(),
    });
    let sink: Arc<dyn IoSink> = Arc::<Mover>::clone(&mover);
    let Ok(queue) = aio.register_io(sink) else {
        skip("this kernel allows no io_uring");
        return;
    };
    // SAFETY: a no-op names no memory.
    let push = |batch: &mut IoBatch<'_>| unsafe { batch.push(1, opcode::Nop::new().build()) };
    queue.batch(push).unwrap().unwrap();
    assert!(reactor.iterate(Wait::Block).unwrap());
    assert_busy(mover.refused.lock().unwrap().take().unwrap());
    aio.detach().unwrap();
}

/// Repeats each request that has ended, whatever its result.
struct Stubborn {
    queue: OnceLock<IoQueue>,
    fd: std::os::fd::RawFd,
    refusals: Mutex<Vec<ErrorKind>>,
}

impl Stubborn {
    fn push(&self) -> gsource::Result<()> {
        let readable = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(types::Fd(self.fd), readable).build();
        // SAFETY: the request names no memory.
        let push = |batch: &mut IoBatch<'_>| unsafe { batch.push(1, entry) };
        self.queue.get().unwrap().batch(push).flatten()
    }
}

impl IoSink for Stubborn {
    fn complete(&self, completions: &[IoCompletion]) {
        for _ in completions {
            let refused = self.push().err().map(|error| error.kind());
            self.refusals.lock().unwrap().extend(refused);
        }
    }
}

/// A request that never ends by itself, in the ring of a home. `None` if this kernel allows no io_uring.
fn stubborn(poller: Poller) -> Option<(Arc<Reactor>, AioContext, Arc<Stubborn>, EventNotifier)> {
    let Ok(reactor) = Reactor::with_poller(poller, Drivers::One) else {
        skip("this kernel allows no io_uring");
        return None;
    };
    let (aio, notifier) = (AioContext::new().unwrap(), EventNotifier::new().unwrap());
    aio.attach_to(&reactor).unwrap();
    let stubborn = Arc::new(Stubborn {
        queue: OnceLock::new(),
        fd: notifier.as_raw_fd(),
        refusals: Mutex::default(),
    });
    let sink: Arc<dyn IoSink> = Arc::<Stubborn>::clone(&stubborn);
    let queue = aio
        .register_io(sink)
        .inspect_err(|error| skip(error))
        .ok()?;
    stubborn.queue.set(queue).unwrap();
    stubborn.push().unwrap();
    Some((reactor, aio, stubborn, notifier))
}

#[test]
fn a_home_that_ends_takes_no_requests_that_are_repeated_for_ever() {
    let _deadline = deadline("a_home_that_ends_takes_no_requests_that_are_repeated_for_ever");
    for poller in [Poller::Epoll, Poller::IoUring] {
        let Some((reactor, aio, sink, _notifier)) = stubborn(poller) else {
            return;
        };
        reactor.iterate(Wait::NoBlock).unwrap();
        reactor.finish_io().unwrap();
        assert_eq!(sink.refusals.lock().unwrap()[..], [ErrorKind::Closed]);
        assert_eq!(sink.queue.get().unwrap().in_flight(), 0);
        // The AioContext can go now, and use another ring.
        aio.detach().unwrap();
        sink.push().unwrap();
    }
}

/// The kernel takes no submissions, as if it were out of memory.
#[test]
fn a_home_that_ends_gives_up_on_a_ring_that_is_stuck() {
    let _deadline = deadline("a_home_that_ends_gives_up_on_a_ring_that_is_stuck");
    std::thread::spawn(|| {
        let Some((reactor, _aio, _sink, _notifier)) = stubborn(Poller::Epoll) else {
            return;
        };
        let calls = [libc::SYS_io_uring_enter];
        if let Err(error) = forbid(&calls, Penalty::Errno(libc::EAGAIN)) {
            return skip(error);
        }
        let before = thread_time();
        let error = reactor.finish_io().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        let spent = thread_time() - before;
        assert!(spent < Duration::from_millis(500), "it spins: {spent:?}");
    })
    .join()
    .unwrap();
}

/// The processor time of the calling thread.
fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}
