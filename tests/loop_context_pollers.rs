//! The pollers of contexts: the option, what each of them serves, and what happens where the kernel has not got one.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::shadow_unrelated)] // a test fails by panicking, and names its steps alike

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qcontext::object::{self, Value, options, tree};
use qcontext::{AioContext, Clock, EventNotifier, FdHandler, Poller, QContext, Wait};
use support::seccomp::{Penalty, forbid};
use support::skip::skip;

const SOON: Duration = Duration::from_secs(60);

fn receive<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(SOON).unwrap()
}

fn add(text: &str) -> qcontext::Result<()> {
    object::object_add(options::parse(Some("qom-type"), text)?).map(drop)
}

/// A context with `poller`; reports a skipped test where the kernel has not got it.
fn context(id: &str, threaded: bool, poller: Poller) -> Option<QContext> {
    let context = QContext::builder(&format!("{id}-{poller}"))
        .threaded(threaded)
        .poller(poller)
        .build()
        .unwrap();
    if context.poller() != poller {
        skip(format!("this kernel gives no {poller}"));
        return None;
    }
    Some(context)
}

#[test]
fn the_option_chooses_the_poller_and_the_property_tells_it() {
    for (asked, expected) in [
        (",poller=auto", "epoll"),
        ("", "epoll"),
        (",poller=epoll", "epoll"),
        (",poller=poll", "poll"),
    ] {
        add(&format!("qcontext,id=chosen,threaded=on{asked}")).unwrap();
        let poller = tree::get("/objects/chosen", "poller").unwrap();
        assert_eq!(poller, Value::from(expected), "{asked}");
        object::object_del("chosen").unwrap();
    }
}

#[test]
fn a_wrong_poller_is_refused_with_the_right_ones_and_leaves_nothing() {
    let error = add("qcontext,id=wrong,poller=select").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Parameter 'poller' of object 'wrong' expects 'auto', 'epoll', 'io_uring' or 'poll', not 'select'"
    );
    assert!(QContext::find("wrong").is_err());
    let number = options::parse(
        Some("qom-type"),
        r#"{"qom-type":"qcontext","id":"wrong","poller":1}"#,
    );
    let error = object::object_add(number.unwrap()).map(drop).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Invalid parameter type for 'poller', expected: string"
    );
}

#[test]
fn the_poller_is_for_life() {
    let _context = QContext::builder("for-life")
        .poller(Poller::Poll)
        .build()
        .unwrap();
    let error = tree::set("/objects/for-life", "poller", Value::from("epoll")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Property 'qcontext.poller' is not writable"
    );
    assert_eq!(
        tree::get("/objects/for-life", "poller").unwrap(),
        Value::from("poll")
    );
}

/// A handler that reports each signal, the way of it, and the notifier that it watches.
fn reporter(to: &Sender<&'static str>) -> (Arc<EventNotifier>, FdHandler) {
    let notifier = Arc::new(EventNotifier::new().unwrap());
    let (taken, to) = (Arc::clone(&notifier), to.clone());
    let handler = FdHandler::new().on_read(move || {
        assert!(taken.take());
        to.send("fd").unwrap();
    });
    (notifier, handler)
}

#[test]
fn a_threaded_context_serves_everything_with_every_poller() {
    for poller in Poller::ALL {
        let Some(context) = context("serves", true, poller) else {
            continue;
        };
        let (send, seen) = channel();
        let aio = AioContext::new().unwrap();
        context.attach(&aio, None).unwrap();
        let (notifier, handler) = reporter(&send);
        aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
        let (from_timer, from_bh, from_glib) = (send.clone(), send.clone(), send.clone());
        let timer = aio.timer(Clock::Realtime, move || from_timer.send("timer").unwrap());
        let bh = aio.bh("test", move || from_bh.send("bh").unwrap());
        for _ in 0..50 {
            notifier.signal();
            assert_eq!(receive(&seen), "fd", "{poller}");
            timer.arm_in_ns(10_000);
            assert_eq!(receive(&seen), "timer", "{poller}");
            bh.schedule();
            assert_eq!(receive(&seen), "bh", "{poller}");
        }
        let source = glib::timeout_source_new(
            Duration::from_millis(1),
            None,
            glib::Priority::DEFAULT,
            move || {
                from_glib.send("glib").unwrap();
                glib::ControlFlow::Break
            },
        );
        context.attach_source(&source, None).unwrap();
        assert_eq!(receive(&seen), "glib", "{poller}");
        notifier.signal();
        assert_eq!(receive(&seen), "fd", "{poller}: with a foreign source");
        context.stop().unwrap();
    }
}

#[test]
fn an_unthreaded_context_is_iterated_by_us_and_by_glib_with_every_poller() {
    for poller in Poller::ALL {
        let Some(context) = context("iterated", false, poller) else {
            continue;
        };
        let (send, seen) = channel();
        let (notifier, handler) = reporter(&send);
        context
            .set_fd_handler(notifier.as_raw_fd(), handler)
            .unwrap();
        for round in 0..20 {
            notifier.signal();
            while seen.try_recv().is_err() {
                if round % 2 == 0 {
                    context.iterate(Wait::Block).unwrap();
                } else {
                    context.main_context().iteration(true);
                }
            }
        }
        while context.iterate(Wait::NoBlock).unwrap() {}
        assert!(seen.try_recv().is_err(), "{poller}");
        context.remove_fd_handler(notifier.as_raw_fd());
    }
}

/// As C code does: a callback iterates the GMainContext until the event that it waits for has come.
#[test]
fn a_callback_iterates_the_main_context_of_its_thread_with_every_poller() {
    for poller in Poller::ALL {
        let Some(context) = context("nested", true, poller) else {
            continue;
        };
        let (send, seen) = channel();
        let (notifier, handler) = reporter(&send);
        context
            .set_fd_handler(notifier.as_raw_fd(), handler)
            .unwrap();
        let seen = Arc::new(Mutex::new(seen));
        for _ in 0..20 {
            let (main, signalled) = (context.main_context(), Arc::clone(&notifier));
            let seen = Arc::clone(&seen);
            let nested = context.invoke_sync(move || {
                let helper = std::thread::spawn(move || signalled.signal());
                let mut iterations = 0;
                while seen.lock().unwrap().try_recv().is_err() {
                    main.iteration(true);
                    iterations += 1;
                }
                helper.join().unwrap();
                iterations
            });
            assert!(nested.unwrap() > 0, "{poller}");
        }
        context.stop().unwrap();
    }
}

/// Files are read by requests in the ring, or by the pool; a nested iteration of GLib's sees them end as well.
#[test]
fn requests_end_inside_nested_iterations_with_every_poller() {
    for poller in Poller::ALL {
        let Some(context) = context("requests", true, poller) else {
            continue;
        };
        let aio = AioContext::new().unwrap();
        context.attach(&aio, None).unwrap();
        let (main, there) = (context.main_context(), aio.clone());
        let read = context.invoke_sync(move || {
            let file = there.file(File::open("/proc/self/exe").unwrap());
            let (sum, total) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (counted, done) = (Arc::clone(&sum), Arc::clone(&total));
            let task = there.spawn_local(async move {
                for offset in 0..50 {
                    let (read, _) = file.read_at(vec![0; 512], offset * 512).await;
                    counted.fetch_add(read.unwrap(), Ordering::SeqCst);
                }
                done.store(1, Ordering::SeqCst);
            });
            while total.load(Ordering::SeqCst) == 0 {
                main.iteration(true);
            }
            drop(task);
            sum.load(Ordering::SeqCst)
        });
        assert_eq!(read.unwrap(), 50 * 512, "{poller}");
        assert_eq!(context.invoke_sync(|| 42).unwrap(), 42, "{poller}: goes on");
        context.stop().unwrap();
    }
}

#[test]
fn a_busy_aio_context_moves_between_contexts_of_different_pollers() {
    let contexts: Vec<_> = Poller::ALL
        .into_iter()
        .filter_map(|poller| context("moves", true, poller))
        .collect();
    let (aio, (send, seen)) = (AioContext::new().unwrap(), channel());
    let (notifier, handler) = reporter(&send);
    aio.set_fd_handler(notifier.as_raw_fd(), handler).unwrap();
    for context in contexts.iter().cycle().take(300) {
        notifier.signal();
        context.attach(&aio, None).unwrap();
        assert_eq!(receive(&seen), "fd");
        context.detach_sync(&aio).unwrap();
    }
    for context in &contexts {
        context.stop().unwrap();
    }
}

/// Counts the warnings of our domain, and keeps the last one.
fn watch_warnings() -> Arc<Mutex<Vec<String>>> {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&warnings);
    glib::log_set_handler(
        Some("qcontext"),
        glib::LogLevels::LEVEL_WARNING,
        false,
        false,
        move |_, _, message| kept.lock().unwrap().push(message.to_owned()),
    );
    warnings
}

#[test]
fn a_kernel_that_forbids_io_uring_gives_epoll_and_one_warning_with_the_reason() {
    let warnings = watch_warnings();
    let made = std::thread::spawn(|| {
        forbid(&[libc::SYS_io_uring_setup], Penalty::Errno(libc::ENOSYS))?;
        Ok(QContext::builder("forbidden")
            .threaded(true)
            .poller(Poller::IoUring)
            .build()
            .unwrap())
    });
    let context = match made.join().unwrap() {
        Err::<_, std::io::Error>(error) => return skip(error),
        Ok(context) => context,
    };
    let answer = context.invoke_sync(|| 42).unwrap();
    assert_eq!((context.poller(), answer), (Poller::Epoll, 42));
    // Other tests of this process may warn meanwhile.
    let mut told = warnings.lock().unwrap().clone();
    told.retain(|line| line.contains("'forbidden'"));
    assert_eq!(
        told,
        [
            "context 'forbidden' waits with epoll, not with io_uring: cannot create an io_uring: Function not implemented (os error 38)"
        ]
    );
    context.stop().unwrap();
}
