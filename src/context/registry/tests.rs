//! Names that are reserved but not published, and names that have passed to another context.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use super::*;
use crate::context::QContextBuilder;

fn unnamed(id: &str) -> QContext {
    let settings = QContextBuilder::named(id);
    QContext::wrap(ContextCore::with_own_main_context(&settings).unwrap())
}

#[test]
fn a_reserved_name_is_refused_to_others_and_found_when_published() {
    let context = unnamed("reserved");
    reserve(&context).unwrap();
    assert_eq!(find("reserved").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(list().iter().all(|other| other.id() != "reserved"));
    let error = reserve(&unnamed("reserved")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    publish(&context);
    assert!(Arc::ptr_eq(&find("reserved").unwrap().0, &context.0));
}

#[test]
fn a_context_that_does_not_start_frees_its_own_name_only() {
    let context = unnamed("failed");
    reserve(&context).unwrap();
    let refused = unnamed("failed");
    reserve(&refused).unwrap_err();
    drop(refused);
    let error = reserve(&unnamed("failed")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "still reserved");
    drop(context);
    reserve(&unnamed("failed")).unwrap();
}

#[test]
fn only_its_own_context_removes_keeps_or_publishes_a_name() {
    let old = unnamed("passed-on");
    reserve(&old).unwrap();
    publish(&old);
    assert!(remove(&old));
    let new = unnamed("passed-on");
    reserve(&new).unwrap();
    publish(&old);
    assert!(find("passed-on").is_err(), "the new one is not published");
    publish(&new);
    keep(&new);
    assert!(!remove(&old));
    keep(&old);
    drop(old);
    let found = find("passed-on").unwrap();
    assert!(Arc::ptr_eq(&found.0, &new.0));
    drop((new, found));
    assert!(remove(&find("passed-on").unwrap()), "it was kept");
    assert!(find("passed-on").is_err());
}
