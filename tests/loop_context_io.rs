//! Requests in the io_uring of a context, when the AioContext that sent them is to move and when the context stops.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::io::{PipeWriter, Write, pipe};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use gsource::FileRequest;
use qcontext::{AioContext, ErrorKind, Poller, QContext};
use support::deadline::deadline;

/// A read of an empty pipe, on its way in the ring of a context.
struct Reading {
    aio: AioContext,
    request: Arc<Mutex<Pin<Box<FileRequest>>>>,
    writer: PipeWriter,
}

impl Reading {
    fn on(context: &QContext) -> Reading {
        let (reader, writer) = pipe().unwrap();
        let aio = AioContext::new().unwrap();
        context.attach(&aio, Some("reading")).unwrap();
        let read = Box::pin(aio.file(reader).read_at(vec![0; 4], 0));
        let reading = Reading {
            aio,
            request: Arc::new(Mutex::new(read)),
            writer,
        };
        let request = Arc::clone(&reading.request);
        let first = context.invoke_sync(move || poll(&request).is_pending());
        assert!(first.unwrap(), "the pipe is empty");
        reading
    }

    fn wait(&self) -> qcontext::Result<usize> {
        loop {
            match poll(&self.request) {
                Poll::Ready(result) => return result,
                Poll::Pending => std::thread::yield_now(),
            }
        }
    }
}

fn poll(request: &Mutex<Pin<Box<FileRequest>>>) -> Poll<qcontext::Result<usize>> {
    let mut context = Context::from_waker(Waker::noop());
    let polled = request.lock().unwrap().as_mut().poll(&mut context);
    polled.map(|(result, _buffer)| result)
}

/// Contexts of every poller that has its fds in a ring; where the kernel has none, files are read by the worker pool.
fn contexts(name: &str) -> Vec<QContext> {
    let make = |poller: Poller| {
        let builder = QContext::builder(&format!("{name}-{poller}"));
        builder.threaded(true).poller(poller).build().unwrap()
    };
    Poller::ALL.map(make).into()
}

#[test]
fn an_aio_context_stays_until_its_reads_have_ended() {
    let _deadline = deadline("an_aio_context_stays_until_its_reads_have_ended");
    for context in contexts("reads") {
        let mut reading = Reading::on(&context);
        let refused = context.detach_sync(&reading.aio).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert!(context.has_aio(&reading.aio));
        reading.writer.write_all(b"read").unwrap();
        assert_eq!(reading.wait().unwrap(), 4);
        context.detach_sync(&reading.aio).unwrap();
        assert!(!context.has_aio(&reading.aio));
        context.stop().unwrap();
    }
}

#[test]
fn a_context_that_stops_ends_the_reads_that_are_in_flight() {
    let _deadline = deadline("a_context_that_stops_ends_the_reads_that_are_in_flight");
    let other = QContext::new("takes-over", true).unwrap();
    for context in contexts("stops") {
        let reading = Reading::on(&context);
        context.stop().unwrap();
        let ended = reading.wait().unwrap_err();
        assert_eq!(ended.raw_os_error(), Some(libc::ECANCELED), "{ended}");
        other.attach(&reading.aio, None).unwrap();
        other.detach_sync(&reading.aio).unwrap();
    }
    other.stop().unwrap();
}
