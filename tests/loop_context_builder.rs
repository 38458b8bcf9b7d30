//! Making a context from settings: each arrives, a wrong one leaves nothing behind and is never seen by other threads.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use qcontext::object::options;
use qcontext::{ErrorKind, PollParams, Poller, PoolLimits, QContext};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use support::deadline::deadline;

const POLLING: PollParams = PollParams {
    max_ns: 77,
    grow: 3,
    shrink: 4,
};

const POOL: PoolLimits = PoolLimits { min: 1, max: 5 };

#[test]
fn each_setting_arrives() {
    let context = QContext::builder("all-set")
        .threaded(true)
        .poller(Poller::Poll)
        .poll_params(POLLING)
        .pool_limits(POOL)
        .build()
        .unwrap();
    assert_eq!((context.id(), context.is_threaded()), ("all-set", true));
    assert_eq!(context.poller(), Poller::Poll);
    assert_eq!(context.poll_params(), POLLING);
    assert_eq!(context.pool_limits(), POOL);
    assert_eq!(context.invoke_sync(|| 6 * 7).unwrap(), 42);
}

#[test]
fn the_defaults_are_those_of_new() {
    let (new, built) = (
        QContext::new("default-new", false).unwrap(),
        QContext::builder("default-built").build().unwrap(),
    );
    assert!(!built.is_threaded());
    assert_eq!(built.poller(), new.poller());
    assert_eq!(built.poll_params(), new.poll_params());
    assert_eq!(built.poll_params().max_ns, 32_768);
    assert_eq!(built.pool_limits(), new.pool_limits());
    drop(built);
    assert!(QContext::find("default-built").is_err(), "it is not kept");
}

#[test]
fn a_kept_context_lasts_until_it_is_deleted() {
    let context = QContext::builder("kept-by-builder").kept(true).build();
    let raw = context.unwrap().as_raw();
    assert_eq!(QContext::find("kept-by-builder").unwrap().as_raw(), raw);
    QContext::delete("kept-by-builder").unwrap();
    assert!(QContext::find("kept-by-builder").is_err());
}

#[test]
fn a_wrong_setting_is_refused_and_leaves_the_name_free() {
    let wrong = || QContext::builder("refused").threaded(true);
    let negative = PollParams {
        max_ns: -1,
        ..POLLING
    };
    let errors = [
        wrong().poll_params(negative).build().unwrap_err(),
        wrong()
            .pool_limits(PoolLimits { min: 0, max: 0 })
            .build()
            .unwrap_err(),
        wrong()
            .pool_limits(PoolLimits { min: 6, max: 5 })
            .build()
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    for bad in ["", "1a", "a b", "#ctx1"] {
        let error = QContext::builder(bad).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidId, "{bad}");
    }
    let context = QContext::builder("refused").build().unwrap();
    let error = QContext::builder("refused").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    drop(context);
}

#[test]
fn a_context_with_a_wrong_option_is_never_found() {
    let _deadline = deadline("a_context_with_a_wrong_option_is_never_found");
    let (ended, found) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(SeqCst) {
                found.fetch_add(usize::from(QContext::find("glimpsed").is_ok()), SeqCst);
            }
        });
        for _ in 0..500 {
            let text = "qcontext,id=glimpsed,threaded=on,thread-pool-max=0";
            let options = options::parse(Some("qom-type"), text).unwrap();
            let error = QContext::from_options(options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        ended.store(true, SeqCst);
    });
    assert_eq!(found.load(SeqCst), 0);
}
