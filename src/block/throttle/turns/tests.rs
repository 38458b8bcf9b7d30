//! A group in a time of its own.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::*;
use crate::block::test_waker::WakeCount;
use crate::object::options::parse_dotted;

const SECOND_NS: i64 = 1_000_000_000;

/// A request that asks until it passes.
struct TestRequest {
    asked: Asked,
    ticket: Option<u64>,
    wakes: Arc<WakeCount>,
}

impl TestRequest {
    fn new(member: u64, direction: Direction) -> TestRequest {
        let asked = Asked {
            member,
            queue: usize::try_from(member).unwrap(),
            direction,
            bytes: 4096,
        };
        TestRequest {
            asked,
            ticket: None,
            wakes: Arc::default(),
        }
    }

    fn ask(&mut self, turns: &mut Turns, now_ns: i64) -> Passage {
        let waker = Arc::clone(&self.wakes).into();
        let mut woken = Vec::new();
        let answer = turns.ask(&self.asked, &mut self.ticket, &waker, now_ns, &mut woken);
        woken.into_iter().for_each(Waker::wake);
        answer
    }

    fn was_woken(&self) -> bool {
        self.wakes.take() > 0
    }
}

fn limits(text: &str) -> Limits {
    let mut keys = parse_dotted("x", &format!("x=1,{text}")).unwrap();
    let mut limits = Limits::default();
    limits.take(&mut keys, "").unwrap();
    limits
}

/// Serves members that always have `depth` requests waiting. Returns how many of each passed in `seconds`. A request asks
/// again only when it was woken or its sleep is over.
fn passed(turns: &mut Turns, requests: &mut [TestRequest], seconds: i64) -> Vec<(u64, usize)> {
    let mut counts: Vec<(u64, usize)> = Vec::new();
    let mut now = 0;
    let mut sleeps: Vec<Option<i64>> = vec![Some(0); requests.len()];
    while now < seconds * SECOND_NS {
        let mut has_asked = false;
        for (request, sleep) in requests.iter_mut().zip(&mut sleeps) {
            let is_due = sleep.is_some_and(|until| until <= now);
            if !request.was_woken() && !is_due {
                continue;
            }
            has_asked = true;
            *sleep = match request.ask(turns, now) {
                Passage::Sleep(ns) => Some(now + ns),
                Passage::Wait => None,
                Passage::Pass => {
                    let member = request.asked.member;
                    match counts.iter_mut().find(|count| count.0 == member) {
                        Some(count) => count.1 += 1,
                        None => counts.push((member, 1)),
                    }
                    Some(now)
                }
            };
        }
        if !has_asked {
            now = sleeps
                .iter()
                .flatten()
                .copied()
                .min()
                .expect("the group stands still");
        }
    }
    counts.sort_unstable();
    counts
}

#[test]
fn members_share_the_limit_whatever_they_ask_for() {
    let mut turns = Turns::new(limits("iops-total=1000"), 0);
    let members = [(); 3].map(|()| turns.join().unwrap());
    // The first member asks with 16 requests at a time, the others with one.
    let mut requests: Vec<_> = (0..16)
        .map(|_| TestRequest::new(members[0], Direction::Read))
        .chain(
            members[1..]
                .iter()
                .map(|member| TestRequest::new(*member, Direction::Read)),
        )
        .collect();
    let counts = passed(&mut turns, &mut requests, 10);
    let total: usize = counts.iter().map(|count| count.1).sum();
    assert!((9_990..=10_010).contains(&total), "{counts:?}");
    for (_, count) in &counts {
        assert!((3_300..=3_367).contains(count), "{counts:?}");
    }
}

#[test]
fn reads_and_writes_have_limits_of_their_own_and_one_together() {
    let rates = |text| {
        let mut turns = Turns::new(limits(text), 0);
        let members = [(); 2].map(|()| turns.join().unwrap());
        let mut requests: Vec<_> = (0..4)
            .flat_map(|_| {
                [
                    TestRequest::new(members[0], Direction::Read),
                    TestRequest::new(members[1], Direction::Write),
                ]
            })
            .collect();
        let counts = passed(&mut turns, &mut requests, 10);
        [counts[0].1, counts[1].1]
    };
    let near = |got: usize, expected: usize| got.abs_diff(expected) * 100 <= expected;
    let [reads, writes] = rates("iops-read=100,bps-write=40960");
    assert!(near(reads, 1000) && near(writes, 100), "{reads} {writes}");
    let both = rates("iops-total=300");
    assert!(near(both[0] + both[1], 3000), "{both:?}");
    assert!(both.iter().all(|count| *count > 1000), "{both:?}");
}

/// Two requests of two members, of which the first sleeps and the second waits behind it.
fn one_behind_the_other() -> (Turns, [TestRequest; 2]) {
    let mut turns = Turns::new(limits("iops-total=1"), 0);
    let mut requests = [(); 2].map(|()| TestRequest::new(turns.join().unwrap(), Direction::Read));
    // The bucket holds a tenth of a request, and is full.
    let mut first = TestRequest::new(requests[0].asked.member, Direction::Read);
    assert_eq!(first.ask(&mut turns, 0), Passage::Pass);
    assert!(matches!(requests[0].ask(&mut turns, 0), Passage::Sleep(_)));
    assert_eq!(requests[1].ask(&mut turns, 0), Passage::Wait);
    (turns, requests)
}

#[test]
fn sleeper_that_goes_hands_its_duty_over() {
    type Act = fn(&mut Turns, &TestRequest, &mut Vec<Waker>);
    let acts: [(&str, Act); 3] = [
        ("gives up", |turns, request, woken| {
            turns.give_up(&request.asked, request.ticket.unwrap(), woken);
        }),
        ("passes", |turns, request, woken| {
            turns.let_pass(request.asked.queue, 0, woken);
        }),
        ("leaves", |turns, request, woken| {
            turns.leave(request.asked.member, woken);
        }),
    ];
    for (name, act) in acts {
        let (mut turns, [first, mut second]) = one_behind_the_other();
        let mut woken = Vec::new();
        act(&mut turns, &first, &mut woken);
        woken.into_iter().for_each(Waker::wake);
        assert!(second.was_woken(), "{name}");
        assert!(
            matches!(second.ask(&mut turns, 0), Passage::Sleep(_)),
            "{name}"
        );
    }
}

#[test]
fn new_limits_hold_for_those_that_wait() {
    let (mut turns, [mut first, mut second]) = one_behind_the_other();
    let mut woken = Vec::new();
    turns.set_limits(Limits::default(), 0, &mut woken);
    woken.into_iter().for_each(Waker::wake);
    assert!(first.was_woken() && !second.was_woken());
    assert_eq!(first.ask(&mut turns, 0), Passage::Pass);
    assert!(second.was_woken());
    assert_eq!(second.ask(&mut turns, 0), Passage::Pass);
}

#[test]
fn group_with_members_does_not_retire() {
    let mut turns = Turns::new(Limits::default(), 0);
    let member = turns.join().unwrap();
    assert!(!turns.retire());
    turns.leave(member, &mut Vec::new());
    assert!(turns.retire());
    assert_eq!(turns.join(), None);
}
