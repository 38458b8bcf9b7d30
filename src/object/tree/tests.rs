//! Objects whose destructors use the tree.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const PATH: &str = "/machine/peripheral/busybody";

/// Looks at the whole tree when it is dropped.
struct Busybody(Arc<AtomicUsize>);

impl Drop for Busybody {
    fn drop(&mut self) {
        assert!(resolve("/machine/peripheral/nosuch").is_err());
        self.0.fetch_add(1, SeqCst);
    }
}

impl Object for Busybody {
    fn type_name(&self) -> &'static str {
        "busybody"
    }

    fn properties(&self) -> Vec<Property> {
        Vec::new()
    }

    fn get(&self, name: &str) -> Result<Value> {
        Err(not_found("busybody", name))
    }

    fn set(&self, name: &str, _: Value) -> Result<()> {
        Err(not_found("busybody", name))
    }
}

#[test]
fn an_object_that_is_refused_or_removed_is_dropped_without_the_lock() {
    let drops = Arc::new(AtomicUsize::new(0));
    let busybody = || Arc::new(Busybody(Arc::clone(&drops)));
    add_child(PATH, busybody()).unwrap();
    add_child(PATH, busybody()).unwrap_err();
    assert_eq!(drops.load(SeqCst), 1);
    // Another thread has added the path after `add_child` has looked for it.
    let refused = insert(Child {
        path: PATH.to_owned(),
        object: busybody(),
    });
    assert!(refused.is_some());
    drop(refused);
    assert_eq!(drops.load(SeqCst), 2);
    drop(remove_child(PATH));
    assert_eq!(drops.load(SeqCst), 3);
}
