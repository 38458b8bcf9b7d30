//! Names of contexts while threads make, find, keep and delete them at once: no destructor runs under a lock of the registry,
//! and a name belongs to one context.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use qcontext::object::{options, tree};
use qcontext::{ErrorKind, QContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use support::deadline::deadline;

/// How often each thread of a race does its part.
const ROUNDS: usize = 2_000;

/// Takes the locks of every registry when it is dropped.
struct Busybody(Arc<AtomicUsize>);

impl Drop for Busybody {
    fn drop(&mut self) {
        assert!(!QContext::list().is_empty());
        assert!(tree::resolve("/machine/peripheral/nosuch").is_err());
        let made = QContext::new("made-by-a-destructor", false).unwrap();
        made.keep();
        QContext::delete("made-by-a-destructor").unwrap();
        self.0.fetch_add(1, SeqCst);
    }
}

impl Busybody {
    /// One that `context` drops when it ends.
    fn attach_to(context: &QContext, drops: &Arc<AtomicUsize>) {
        let busybody = Busybody(Arc::clone(drops));
        context
            .invoke(move || unreachable!("{:p} never runs", &busybody))
            .unwrap();
    }
}

fn add(text: &str) -> qcontext::Result<QContext> {
    QContext::from_options(options::parse(Some("qom-type"), text)?)
}

#[test]
fn keeping_a_deleted_context_leaves_the_new_one_of_its_name_alone() {
    let _deadline = deadline("keeping_a_deleted_context_leaves_the_new_one_of_its_name_alone");
    let drops = Arc::new(AtomicUsize::new(0));
    let old = QContext::new("kept", false).unwrap();
    QContext::delete("kept").unwrap();
    let new = QContext::new("kept", false).unwrap();
    Busybody::attach_to(&new, &drops);
    new.keep();
    let raw = new.as_raw();
    drop(new);
    // The registry has the only handle of the new context.
    old.keep();
    drop(old);
    assert_eq!(QContext::find("kept").unwrap().as_raw(), raw);
    assert_eq!(drops.load(SeqCst), 0);
    QContext::delete("kept").unwrap();
    assert_eq!(drops.load(SeqCst), 1);
}

#[test]
fn each_way_to_end_a_context_runs_its_destructors_without_a_lock() {
    let _deadline = deadline("each_way_to_end_a_context_runs_its_destructors_without_a_lock");
    let drops = Arc::new(AtomicUsize::new(0));
    let named = |id: &str| {
        let context = QContext::new(id, false).unwrap();
        Busybody::attach_to(&context, &drops);
        context
    };
    drop(named("ends-by-drop"));
    assert_eq!(drops.load(SeqCst), 1);
    named("ends-by-delete").keep();
    QContext::delete("ends-by-delete").unwrap();
    assert_eq!(drops.load(SeqCst), 2);
    let twice = named("kept-twice");
    twice.keep();
    twice.keep();
    drop(twice);
    QContext::delete("kept-twice").unwrap();
    assert_eq!(drops.load(SeqCst), 3);
    named("ends-by-stop").stop().unwrap();
    assert_eq!(drops.load(SeqCst), 4);
}

#[test]
fn each_added_context_is_deleted_once_and_an_add_answers_what_it_made() {
    let _deadline = deadline("each_added_context_is_deleted_once_and_an_add_answers_what_it_made");
    let (added, deleted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let adding = AtomicUsize::new(6);
    let add_for_a_while = |thread: usize| {
        for round in 0..ROUNDS {
            let mark = i64::try_from(thread * ROUNDS + round).unwrap();
            match add(&format!("qcontext,id=contended,poll-max-ns={mark}")) {
                Ok(context) => {
                    added.fetch_add(1, SeqCst);
                    assert_eq!(context.poll_params().max_ns, mark, "another one");
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
            }
        }
        adding.fetch_sub(1, SeqCst);
    };
    let delete = || match QContext::delete("contended") {
        Ok(()) => deleted.fetch_add(1, SeqCst),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            usize::MAX
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..6 {
            scope.spawn(move || add_for_a_while(thread));
            scope.spawn(|| {
                while adding.load(SeqCst) > 0 {
                    delete();
                }
            });
        }
    });
    delete();
    assert!(added.load(SeqCst) > 0);
    assert_eq!(added.load(SeqCst), deleted.load(SeqCst));
    assert!(QContext::find("contended").is_err());
}

#[test]
fn a_context_that_others_find_and_acquire_at_once_starts_all_the_same() {
    let _deadline = deadline("a_context_that_others_find_and_acquire_at_once_starts_all_the_same");
    let mut failed = 0;
    let (ended, early) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(SeqCst) {
                    let Ok(context) = QContext::find("starting") else {
                        continue;
                    };
                    let gmain = context.main_context();
                    let acquired = gmain.acquire().is_ok();
                    let runs = context.thread_id() != -1;
                    early.fetch_add(usize::from(acquired && runs), SeqCst);
                }
            });
        }
        for _ in 0..ROUNDS {
            match QContext::new("starting", true) {
                Ok(_context) => QContext::delete("starting").unwrap(),
                Err(_) => failed += 1,
            }
        }
        ended.store(true, SeqCst);
    });
    assert_eq!((failed, early.load(SeqCst)), (0, 0), "of {ROUNDS}");
}
