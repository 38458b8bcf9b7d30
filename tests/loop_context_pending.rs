//! GLib dispatches only if there is work: what leaves nothing to call makes neither `pending`, nor `prepare`, nor an iteration say yes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use qcontext::{AioContext, Clock, EventNotifier, FdHandler, PollParams, Poller, QContext, Wait};
use std::os::fd::AsRawFd;
use std::time::Duration;
use support::deadline::deadline;
use support::skip::skip_case;

/// Something that leaves no work. The answer is what must live on.
type Action = fn(&QContext) -> Option<AioContext>;

/// Longer than any test.
const DISTANT: Duration = Duration::from_secs(3600);

fn attached(context: &QContext) -> AioContext {
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    aio
}

fn elsewhere(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
}

fn distant_source() -> glib::Source {
    glib::timeout_source_new(DISTANT, None, glib::Priority::DEFAULT, || {
        glib::ControlFlow::Continue
    })
}

const ACTIONS: [(&str, Action); 20] = [
    ("nothing", |_| None),
    ("attach", |context| Some(attached(context))),
    ("attach and detach", |context| {
        let aio = attached(context);
        context.detach(&aio);
        Some(aio)
    }),
    ("an AioContext ends", |context| {
        let aio = attached(context);
        context.detach(&aio);
        None
    }),
    ("an attached AioContext ends elsewhere", |context| {
        let aio = attached(context);
        elsewhere(|| {
            context.detach(&aio);
            drop(aio);
        });
        None
    }),
    ("a source is attached", |context| {
        context.attach_source(&distant_source(), None).unwrap();
        None
    }),
    ("a source is destroyed", |context| {
        let source = distant_source();
        context.attach_source(&source, None).unwrap();
        context.destroy_source(&source);
        None
    }),
    ("GLib destroys a source that GLib has attached", |context| {
        let source = distant_source();
        source.attach(Some(&context.main_context()));
        source.destroy();
        None
    }),
    ("notify", |context| {
        context.notify();
        None
    }),
    ("notify elsewhere", |context| {
        elsewhere(|| context.notify());
        None
    }),
    ("wake-up by GLib", |context| {
        context.main_context().wakeup();
        None
    }),
    ("a bottom half is cancelled", |context| {
        let bh = context.aio().unwrap().bh("cancelled", || ());
        bh.schedule();
        bh.cancel();
        // It goes with the context.
        std::mem::forget(bh);
        None
    }),
    ("a bottom half is deleted", |context| {
        let aio = attached(context);
        let bh = aio.bh("deleted", || ());
        bh.schedule();
        drop(bh);
        Some(aio)
    }),
    ("a bottom half is deleted elsewhere", |context| {
        let aio = attached(context);
        let bh = aio.bh("deleted", || ());
        elsewhere(move || {
            bh.schedule();
            drop(bh);
        });
        Some(aio)
    }),
    ("a timer is cancelled", |context| {
        let aio = attached(context);
        let timer = aio.timer(Clock::Realtime, || ());
        timer.arm_at_ns(0);
        timer.cancel();
        drop(timer);
        Some(aio)
    }),
    ("a timer is dropped elsewhere", |context| {
        let aio = attached(context);
        let timer = aio.timer(Clock::Realtime, || ());
        timer.arm_at_ns(0);
        elsewhere(move || drop(timer));
        Some(aio)
    }),
    ("a ready handler is removed", |context| {
        let notifier = EventNotifier::new().unwrap();
        let handler = FdHandler::new().on_read(|| ());
        context
            .set_fd_handler(notifier.as_raw_fd(), handler)
            .unwrap();
        notifier.signal();
        context.remove_fd_handler(notifier.as_raw_fd());
        None
    }),
    ("a ready handler is removed elsewhere", |context| {
        let notifier = EventNotifier::new().unwrap();
        let handler = FdHandler::new().on_read(|| ());
        context
            .set_fd_handler(notifier.as_raw_fd(), handler)
            .unwrap();
        notifier.signal();
        elsewhere(|| {
            context.remove_fd_handler(notifier.as_raw_fd());
        });
        None
    }),
    ("busy-polling is changed", |context| {
        context.set_poll_params(PollParams::default()).unwrap();
        None
    }),
    ("another thread polls", |context| {
        let aio = attached(context);
        aio.schedule_oneshot("elsewhere", || ());
        elsewhere(|| while aio.poll(Wait::NoBlock).unwrap() {});
        Some(aio)
    }),
];

/// Asks whether there is work.
type Question = fn(&QContext) -> bool;

const QUESTIONS: [(&str, Question); 6] = [
    ("pending", |context| context.main_context().pending()),
    ("prepare", |context| {
        let gmain = context.main_context();
        let _owner = gmain.acquire().unwrap();
        gmain.prepare().0
    }),
    ("pending twice", |context| {
        context.main_context().pending() | context.main_context().pending()
    }),
    ("iteration by GLib", |context| {
        context.main_context().iteration(false)
    }),
    ("iteration of ours", |context| {
        context.iterate(Wait::NoBlock).unwrap()
    }),
    ("iterations by both", |context| {
        context.iterate(Wait::NoBlock).unwrap()
            | context.main_context().iteration(false)
            | context.iterate(Wait::NoBlock).unwrap()
    }),
];

#[test]
fn what_leaves_no_work_is_no_work_for_glib() {
    let _deadline = deadline("what_leaves_no_work_is_no_work_for_glib");
    let mut wrong = Vec::new();
    for poller in Poller::ALL {
        for (action, act) in ACTIONS {
            for (question, ask) in QUESTIONS {
                for used in [false, true] {
                    let context = QContext::builder(&format!("pending-{poller}"))
                        .poller(poller)
                        .build()
                        .unwrap();
                    if context.poller() != poller {
                        skip_case("what_leaves_no_work", "the poller is missing");
                        continue;
                    }
                    if used {
                        while context.main_context().iteration(false) {}
                    }
                    let kept = act(&context);
                    if ask(&context) {
                        wrong.push(format!("{action}, {question}, {poller}, used: {used}"));
                    }
                    drop(kept);
                }
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

/// A notification still ends a wait, once.
#[test]
fn a_notified_iteration_returns_at_once_and_says_no() {
    let _deadline = deadline("a_notified_iteration_returns_at_once_and_says_no");
    for poller in Poller::ALL {
        let context = QContext::builder("notified")
            .poller(poller)
            .build()
            .unwrap();
        let gmain = context.main_context();
        for _ in 0..3 {
            context.notify();
            assert!(!gmain.iteration(true), "{poller}");
            context.notify();
            assert!(!gmain.pending(), "{poller}");
            context.notify();
            assert!(!context.iterate(Wait::Block).unwrap(), "{poller}");
        }
    }
}

/// What was removed is dropped all the same, by the next iteration, and work is work.
#[test]
fn what_is_deleted_is_dropped_by_an_iteration_that_says_no() {
    let _deadline = deadline("what_is_deleted_is_dropped_by_an_iteration_that_says_no");
    let context = QContext::anonymous(false).unwrap();
    let (aio, gmain) = (attached(&context), context.main_context());
    while gmain.iteration(false) {}
    let (probe, drops) = support::loops::drop_probe();
    let bh = aio.bh("deleted", move || probe.touch());
    elsewhere(move || {
        bh.schedule();
        drop(bh);
    });
    assert!(!gmain.iteration(false));
    assert_eq!(drops.threads(), [std::thread::current().id()]);
    aio.schedule_oneshot("work", || ());
    assert!(gmain.pending());
    assert!(gmain.pending());
    assert!(gmain.iteration(false));
    assert!(!gmain.pending());
}
