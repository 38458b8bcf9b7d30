//! What the words say, one thread after another.
#![forbid(unsafe_code)]

use super::{BhAction, BhTurn, Flags, Urgency};

const CALL: BhTurn = BhTurn {
    calls: true,
    urgent: true,
};
const IDLE_CALL: BhTurn = BhTurn {
    calls: true,
    urgent: false,
};
const NO_CALL: BhTurn = BhTurn {
    calls: false,
    urgent: false,
};

#[test]
fn schedules_at_home_are_coalesced() {
    let flags = Flags::new();
    assert!(flags.schedule(Urgency::Idle));
    assert!(!flags.is_urgent());
    assert!(!flags.schedule(Urgency::Now));
    assert!(flags.is_urgent());
    assert_eq!(flags.begin(), CALL);
    assert!(!flags.is_scheduled());
    assert!(flags.schedule(Urgency::Idle));
    assert_eq!(flags.begin(), IDLE_CALL);
}

#[test]
fn another_thread_pushes_and_a_greater_urgency_kicks() {
    let flags = Flags::new();
    assert_eq!(flags.request(Urgency::Idle), BhAction::Push);
    assert_eq!(flags.request(Urgency::Idle), BhAction::None);
    assert_eq!(flags.request(Urgency::Now), BhAction::Kick);
    assert!(flags.take_over());
    assert_eq!(flags.begin(), CALL);
}

/// The node is on the list and in the queue; one call serves both.
#[test]
fn what_both_have_scheduled_runs_once() {
    for taken_over_first in [true, false] {
        let flags = Flags::new();
        assert!(flags.schedule(Urgency::Now));
        assert_eq!(flags.request(Urgency::Now), BhAction::Push);
        if taken_over_first {
            assert!(!flags.take_over());
        }
        assert_eq!(flags.begin(), CALL);
        if !taken_over_first {
            assert!(!flags.take_over());
        }
        assert!(!flags.is_scheduled());
        assert_eq!(flags.request(Urgency::Now), BhAction::Push);
    }
}

#[test]
fn a_cancel_from_elsewhere_voids_what_is_held_and_asked_before() {
    let flags = Flags::new();
    assert!(flags.schedule(Urgency::Now));
    assert_eq!(flags.request(Urgency::Now), BhAction::Push);
    flags.cancel();
    assert_eq!(flags.begin(), NO_CALL);
    assert!(!flags.take_over());
    assert!(flags.schedule(Urgency::Now), "it is in no queue");
    assert_eq!(flags.begin(), CALL);
}

#[test]
fn a_schedule_after_a_cancel_stands() {
    let at_home = Flags::new();
    assert!(at_home.schedule(Urgency::Now));
    at_home.cancel();
    assert!(!at_home.schedule(Urgency::Idle));
    assert_eq!(at_home.begin(), IDLE_CALL);

    let elsewhere = Flags::new();
    assert!(elsewhere.schedule(Urgency::Now));
    elsewhere.cancel();
    assert_eq!(elsewhere.request(Urgency::Idle), BhAction::Push);
    assert_eq!(elsewhere.begin(), IDLE_CALL);
}

#[test]
fn a_cancel_at_home_takes_back_what_others_asked() {
    let flags = Flags::new();
    assert_eq!(flags.request(Urgency::Now), BhAction::Push);
    flags.cancel_at_home();
    assert!(!flags.take_over());
}

#[test]
fn a_node_discarded_at_home_is_done_when_it_is_on_no_list() {
    let flags = Flags::new();
    assert_eq!(flags.request(Urgency::Now), BhAction::Push);
    assert!(flags.discard());
    assert!(flags.is_urgent());
    assert_eq!(flags.begin(), NO_CALL);
    assert!(!flags.is_done(), "it is on the remote list");
    assert!(flags.take_over());
    assert_eq!(flags.begin(), NO_CALL);
    assert!(flags.is_done());
}

#[test]
fn a_node_deleted_elsewhere_is_done_after_the_home_took_it() {
    let flags = Flags::new();
    assert!(flags.schedule(Urgency::Now));
    assert_eq!(flags.delete(), BhAction::Push);
    assert_eq!(flags.begin(), NO_CALL);
    assert!(!flags.is_done());
    assert!(flags.take_over());
    assert_eq!(flags.begin(), NO_CALL);
    assert!(flags.is_done());
}

#[test]
fn a_node_without_a_handle_runs_once_and_is_done() {
    let (asked, held) = (Flags::new(), Flags::new());
    asked.request_once();
    assert!(asked.take_over());
    held.schedule_once();
    for flags in [asked, held] {
        assert_eq!(flags.begin(), CALL);
        assert!(flags.is_done());
    }
}

#[test]
fn one_that_panicked_is_called_no_more() {
    let flags = Flags::new();
    flags.panicked();
    assert!(flags.schedule(Urgency::Now));
    assert_eq!(
        flags.begin(),
        BhTurn {
            calls: false,
            urgent: true
        }
    );
}

#[test]
fn a_parked_node_takes_along_what_is_valid() {
    let flags = Flags::new();
    assert!(flags.schedule(Urgency::Idle));
    assert!(flags.park());
    assert!(flags.take_over());
    assert_eq!(flags.begin(), IDLE_CALL);

    assert!(flags.schedule(Urgency::Now));
    flags.cancel();
    let _ = flags.park();
    let _ = flags.take_over();
    assert!(!flags.is_scheduled());

    assert!(!Flags::new().park(), "nothing to take along");
}

#[test]
fn a_released_node_is_freed_if_it_has_no_handle() {
    let flags = Flags::new();
    assert!(flags.schedule(Urgency::Now));
    assert!(!flags.release());
    let gone = Flags::new();
    gone.schedule_once();
    assert!(gone.release());
}

#[test]
fn a_refused_node_is_freed_if_its_handle_is_gone() {
    let flags = Flags::new();
    assert_eq!(flags.request(Urgency::Now), BhAction::Push);
    assert!(!flags.refuse());
    assert_eq!(flags.delete(), BhAction::Push);
    assert!(flags.refuse());
}
