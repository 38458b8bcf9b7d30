//! Fds of GSources that are closed while their files are open elsewhere: which order is a mistake that the context warns of.
//! Alone in its process, because it counts GLib's warnings and nothing else may open a closed number.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking

use std::io::{Write, pipe};
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use qcontext::{AioContext, QContext, Wait};
use support::deadline::deadline;
use support::fd_source::watch;
use support::loops::Slot;

static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// One iteration.
type Turn = fn(&QContext, Wait) -> bool;

const TURNS: [Turn; 2] = [
    |context, wait| context.iterate(wait).unwrap(),
    |context, wait| context.main_context().iteration(wait == Wait::Block),
];

fn settle(turn: Turn, context: &QContext) {
    // Far more than it takes to find a file that lives on.
    for _ in 0..50 {
        turn(context, Wait::NoBlock);
    }
}

fn complaints() -> Vec<String> {
    std::mem::take(&mut *COMPLAINTS.lock().unwrap())
}

/// `close` destroys a source, then closes its fd, whose file stays open and ready.
fn destroy_then_close(turn: Turn, close: impl Fn(&QContext, Box<dyn Fn() + Send>)) {
    let context = QContext::anonymous(false).unwrap();
    for _ in 0..10 {
        let (reader, mut writer) = pipe().unwrap();
        let survivor = reader.try_clone().unwrap();
        let source = watch(reader.as_raw_fd(), || true);
        context.attach_source(&source, None).unwrap();
        settle(turn, &context);
        let given = Slot::new();
        given.put(reader);
        let end = move || {
            source.destroy();
            drop(given.take());
        };
        close(&context, Box::new(end));
        writer.write_all(b"1").unwrap();
        settle(turn, &context);
        drop(survivor);
    }
    assert_eq!(complaints(), [""; 0]);
}

fn an_orderly_end_is_no_mistake(turn: Turn) {
    destroy_then_close(turn, |_, end| end());
    destroy_then_close(turn, |_, end| {
        std::thread::spawn(end).join().unwrap();
    });
    // In a callback, so that GLib's answer of before is checked after it.
    destroy_then_close(turn, |context, end| {
        let aio = AioContext::new().unwrap();
        context.attach(&aio, None).unwrap();
        let bh = aio.bh("end", end);
        bh.schedule();
        turn(context, Wait::NoBlock);
        drop(bh);
        context.detach(&aio);
    });
}

/// While the context sleeps in its wait.
fn an_orderly_end_under_a_sleeping_context_is_no_mistake() {
    let context = QContext::new("sleeping", true).unwrap();
    for _ in 0..10 {
        let (reader, mut writer) = pipe().unwrap();
        let survivor = reader.try_clone().unwrap();
        let source = watch(reader.as_raw_fd(), || true);
        context.attach_source(&source, None).unwrap();
        context.invoke_sync(|| ()).unwrap();
        source.destroy();
        drop(reader);
        writer.write_all(b"1").unwrap();
        for _ in 0..50 {
            context.invoke_sync(|| ()).unwrap();
        }
        drop(survivor);
    }
    context.stop().unwrap();
    assert_eq!(complaints(), [""; 0]);
}

/// The fd is closed while its source exists. Only our own iteration has a set from which the file cannot be removed any more.
fn a_closed_fd_of_a_living_source_is_a_mistake() {
    let context = QContext::new("mistaken", false).unwrap();
    let (reader, mut writer) = pipe().unwrap();
    let survivor = reader.try_clone().unwrap();
    let number = reader.as_raw_fd();
    let source = watch(number, || true);
    context.attach_source(&source, None).unwrap();
    settle(TURNS[0], &context);
    drop(reader);
    writer.write_all(b"1").unwrap();
    for _ in 0..3 {
        settle(TURNS[0], &context);
        context.main_context().wakeup();
    }
    source.destroy();
    settle(TURNS[0], &context);
    drop(survivor);
    let expected = format!("context 'mistaken': fd {number} was closed while a GSource watches it");
    assert_eq!(complaints(), [expected]);
}

#[test]
fn only_an_fd_that_is_closed_under_its_source_is_a_mistake() {
    let _deadline = deadline("only_an_fd_that_is_closed_under_its_source_is_a_mistake");
    glib::log_set_default_handler(|_, _, message| {
        COMPLAINTS.lock().unwrap().push(message.to_owned());
    });
    TURNS.into_iter().for_each(an_orderly_end_is_no_mistake);
    an_orderly_end_under_a_sleeping_context_is_no_mistake();
    a_closed_fd_of_a_living_source_is_a_mistake();
}
