//! Which requests fail or wait.
//!
//! A rule names an event and a state. When the event occurs in that state, the rule becomes active, and the active rules of
//! its kind before are active no more. It then holds for all requests that fit, until another event of a rule comes; with
//! `once`, for one request. Other rules change the state.
#![forbid(unsafe_code)]

use crate::block::request::{Op, Request, SECTOR};

/// What a node sees in its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Occurs once, when the node is opened.
    None,
    ReadAio,
    WriteAio,
    Pwritev,
    PwritevZero,
    PwritevDone,
    FlushToOs,
    FlushToDisk,
}

impl Event {
    /// What occurs when a request comes.
    fn of(op: Op) -> &'static [Event] {
        match op {
            Op::Read => &[Event::ReadAio],
            Op::Write => &[Event::WriteAio, Event::Pwritev],
            Op::WriteZeroes { .. } => &[Event::PwritevZero],
            Op::Flush => &[Event::FlushToOs, Event::FlushToDisk],
            Op::Discard | Op::BlockStatus | Op::Populate => &[],
        }
    }
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IoType {
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
    BlockStatus,
}

impl IoType {
    fn of(op: Op) -> IoType {
        match op {
            Op::Read => IoType::Read,
            Op::Write | Op::Populate => IoType::Write,
            Op::WriteZeroes { .. } => IoType::WriteZeroes,
            Op::Discard => IoType::Discard,
            Op::Flush => IoType::Flush,
            Op::BlockStatus => IoType::BlockStatus,
        }
    }
}

/// When something becomes true.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trigger {
    pub(super) event: Event,
    /// 0 for any.
    pub(super) state: i64,
}

impl Trigger {
    fn fits(self, event: Event, state: i64) -> bool {
        self.event == event && (self.state == 0 || self.state == state)
    }
}

/// Something that is done to requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule<T> {
    pub(super) trigger: Trigger,
    /// `None` for any.
    pub(super) io_type: Option<IoType>,
    /// `None` for any.
    pub(super) sector: Option<u64>,
    pub(super) once: bool,
    pub(super) effect: T,
}

impl<T> Rule<T> {
    fn fits(&self, request: &Request) -> bool {
        let is_inside = |sector: u64| {
            let start = sector.checked_mul(SECTOR);
            let inside = start.and_then(|start| start.checked_sub(request.offset));
            inside.is_some_and(|inside| inside < request.length)
        };
        let kind = IoType::of(request.op);
        self.io_type.is_none_or(|io_type| io_type == kind) && self.sector.is_none_or(is_inside)
    }
}

/// How a request fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct InjectedError {
    pub(super) errno: i32,
    /// In the same iteration.
    pub(super) is_immediate: bool,
}

/// A change of the state.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateChange {
    pub(super) trigger: Trigger,
    pub(super) new_state: i64,
}

/// Rules of one kind.
#[derive(Debug)]
struct RuleSet<T> {
    rules: Vec<Rule<T>>,
    /// Those that are active, by their place, the latest first.
    active: Vec<usize>,
}

impl<T: Copy> RuleSet<T> {
    fn occur(&mut self, event: Event, state: i64) {
        let rules = self.rules.iter().enumerate().rev();
        let fitting = rules.filter(|(_, rule)| rule.trigger.fits(event, state));
        let fitting: Vec<usize> = fitting.map(|(index, _)| index).collect();
        if !fitting.is_empty() {
            self.active = fitting;
        }
    }

    fn judge(&mut self, request: &Request) -> Option<T> {
        let fits = |&index: &usize| self.rules[index].fits(request);
        let at = self.active.iter().position(fits)?;
        let index = self.active[at];
        let rule = self.rules[index];
        if rule.once {
            self.remove(index);
        }
        Some(rule.effect)
    }

    fn remove(&mut self, index: usize) {
        self.rules.remove(index);
        self.active.retain(|&active| active != index);
        let behind = self.active.iter_mut().filter(|active| **active > index);
        behind.for_each(|active| *active -= 1);
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    pub(super) delay_ns: Option<i64>,
    pub(super) failure: Option<InjectedError>,
}

/// The rules of a node, and its state.
#[derive(Debug)]
pub(super) struct Rules {
    failures: RuleSet<InjectedError>,
    delays: RuleSet<i64>,
    transitions: Vec<StateChange>,
    state: i64,
}

impl Rules {
    /// The rules of a node that is being opened.
    pub(super) fn new(
        failures: Vec<Rule<InjectedError>>,
        delays: Vec<Rule<i64>>,
        transitions: Vec<StateChange>,
    ) -> Rules {
        let mut rules = Rules {
            failures: RuleSet {
                rules: failures,
                active: Vec::new(),
            },
            delays: RuleSet {
                rules: delays,
                active: Vec::new(),
            },
            transitions,
            state: 1,
        };
        rules.occur(Event::None);
        rules
    }

    pub(super) fn occur(&mut self, event: Event) {
        let state = self.state;
        self.failures.occur(event, state);
        self.delays.occur(event, state);
        let transitions = self.transitions.iter();
        let mut fitting = transitions.filter(|transition| transition.trigger.fits(event, state));
        if let Some(last) = fitting.next_back() {
            self.state = last.new_state;
        }
    }

    /// What becomes of a request that has come.
    pub(super) fn judge(&mut self, request: &Request) -> Verdict {
        for event in Event::of(request.op) {
            self.occur(*event);
        }
        Verdict {
            delay_ns: self.delays.judge(request),
            failure: self.failures.judge(request),
        }
    }
}
