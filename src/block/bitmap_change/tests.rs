//! What users do with bitmaps happens as a whole or not at all.
#![forbid(unsafe_code)]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::block::drain;
use crate::block::options::blockdev;
use crate::object::options::parse_dotted;

const GRANULE: u64 = 1 << 16;
const ADD: BitmapAction = BitmapAction::Add {
    granularity: None,
    is_disabled: false,
    is_persistent: false,
};

fn open(name: &str) -> Arc<Node> {
    let text = format!("null-co,node-name={name},size=1048576");
    blockdev(parse_dotted("driver", &text).unwrap()).unwrap()
}

fn at(node: &Arc<Node>, name: &str) -> BitmapRef {
    BitmapRef {
        node: Arc::clone(node),
        name: name.to_owned(),
    }
}

/// No queue uses the nodes, so they are quiet at once.
fn make(actions: Vec<(BitmapRef, BitmapAction)>) -> Result<MadeBitmaps> {
    let change = BitmapChange(actions);
    let draining = pin!(drain(&change.nodes()));
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(drained) = draining.poll(&mut context) else {
        panic!("a request is in flight");
    };
    change.make(&drained)
}

fn keep(actions: Vec<(BitmapRef, BitmapAction)>) {
    make(actions).unwrap().keep();
}

/// The names of the bitmaps, whether they record, and how much is dirty.
fn state(node: &Node) -> Vec<(String, bool, u64)> {
    let bitmaps = node.dirty_bitmaps().into_iter();
    let one = |bitmap: Arc<DirtyBitmap>| {
        let name = bitmap.name().unwrap_or_default().to_owned();
        (name, bitmap.is_recording(), bitmap.count() / GRANULE)
    };
    bitmaps.map(one).collect()
}

#[test]
fn a_change_that_is_not_kept_changes_nothing() {
    let (node, other) = (open("undone"), open("undone-other"));
    keep(vec![
        (at(&node, "a"), ADD),
        (at(&node, "b"), ADD),
        (at(&other, "a"), ADD),
    ]);
    at(&node, "a").find().unwrap().record(0..GRANULE);
    at(&node, "b").find().unwrap().record(GRANULE..3 * GRANULE);
    at(&other, "a")
        .find()
        .unwrap()
        .record(3 * GRANULE..4 * GRANULE);
    let actions = || {
        vec![
            (at(&node, "c"), ADD),
            (
                at(&node, "c"),
                BitmapAction::Merge(vec![at(&node, "a"), at(&other, "a")]),
            ),
            (
                at(&node, "a"),
                BitmapAction::Merge(vec![at(&node, "c"), at(&node, "b")]),
            ),
            (at(&node, "b"), BitmapAction::Clear),
            (at(&other, "a"), BitmapAction::Remove),
            (at(&node, "b"), BitmapAction::Record(false)),
        ]
    };
    let before = (state(&node), state(&other));
    drop(make(actions()).unwrap());
    assert_eq!((state(&node), state(&other)), before);
    // Each action that fails undoes those before it.
    for failing in 0..actions().len() {
        let mut some = actions();
        some.truncate(failing);
        some.push((at(&node, "none"), BitmapAction::Clear));
        let error = make(some).unwrap_err();
        assert_eq!(error.to_string(), "Dirty bitmap 'none' not found");
        assert_eq!((state(&node), state(&other)), before, "{failing}");
    }
    keep(actions());
    let after = [("a", true, 4), ("b", false, 0), ("c", true, 2)];
    let after = after.map(|(name, records, count)| (name.to_owned(), records, count));
    assert_eq!((state(&node), state(&other)), (after.to_vec(), vec![]));
}

#[test]
fn a_bitmap_that_a_job_copies_is_left_alone() {
    let node = open("frozen");
    keep(vec![(at(&node, "a"), ADD), (at(&node, "b"), ADD)]);
    let frozen = at(&node, "a").find().unwrap().freeze().unwrap();
    let merge = BitmapAction::Merge(vec![at(&node, "a")]);
    for (name, action) in [
        ("a", BitmapAction::Clear),
        ("a", BitmapAction::Remove),
        ("a", BitmapAction::Record(false)),
        ("b", merge),
    ] {
        let error = make(vec![(at(&node, name), action)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Bitmap 'a' is currently in use by another operation and cannot be used"
        );
    }
    drop(frozen);
    keep(vec![(at(&node, "a"), BitmapAction::Remove)]);
    assert_eq!(state(&node).len(), 1);
}

#[test]
fn a_bitmap_that_lacks_something_can_only_be_removed() {
    let node = open("lossy");
    keep(vec![(at(&node, "a"), ADD), (at(&node, "b"), ADD)]);
    at(&node, "a").find().unwrap().record(0..u64::MAX);
    let merge = BitmapAction::Merge(vec![at(&node, "a")]);
    for (name, action) in [("a", BitmapAction::Clear), ("b", merge)] {
        let error = make(vec![(at(&node, name), action)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Bitmap 'a' is inconsistent and cannot be used"
        );
    }
    keep(vec![(at(&node, "a"), BitmapAction::Remove)]);
}
