//! A context with requests in the io_uring of its home does not move: their ends come where they were submitted.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unsafe_code)] // requests name memory

use gsource::{AioContext, ErrorKind, EventNotifier, IoBatch, IoCompletion, IoQueue, IoSink};
use gsource::{Reactor, Wait};
use io_uring::{opcode, squeue, types};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use support::deadline::deadline;
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
