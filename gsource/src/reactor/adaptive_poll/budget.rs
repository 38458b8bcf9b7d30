//! How long the home polls before its next wait, learned from the waits before it.
//!
//! The time grows and shrinks as QEMU's does (`poll-grow`, `poll-shrink`). A wait that ended within `max_ns` makes it grow, a
//! longer one makes it shrink, so an idle machine soon does not poll at all. After several polls in a row that found nothing,
//! polling rests, and rests twice as long each time: if the peer needs this very processor, polling only delays it, but each
//! wait looks as if a little more polling would have saved it.
#![forbid(unsafe_code)]

use super::PollParams;

/// The first polling time after a wait that polling could have saved.
const FIRST_NS: i64 = 4_000;
/// Polls in a row that find nothing before polling rests.
const VAIN: u32 = 16;
/// How many waits the first rest takes, and the longest.
const RESTS: (u32, u32) = (32, 4096);

/// The polling time, and what it was learned from.
#[derive(Default)]
pub(super) struct PollBudget {
    now_ns: i64,
    /// Polls in a row that found nothing.
    vain: u32,
    /// Waits that are left of this rest.
    left: u32,
    /// Waits of the last rest.
    rest: u32,
}

impl PollBudget {
    /// Nanoseconds to poll before the next wait.
    pub(super) fn now_ns(&self) -> i64 {
        self.now_ns
    }

    /// Polling has found something.
    pub(super) fn found(&mut self) {
        (self.vain, self.rest) = (0, 0);
    }

    /// Polling found nothing, or did not take place; with it, the wait took `waited` nanoseconds.
    pub(super) fn waited(&mut self, waited: i64, params: PollParams) {
        if self.left > 0 {
            self.left -= 1;
            return;
        }
        self.vain += u32::from(self.now_ns > 0);
        if self.vain < VAIN {
            self.now_ns = adapted(self.now_ns, waited, params);
            return;
        }
        self.rest = (self.rest * 2).clamp(RESTS.0, RESTS.1);
        (self.now_ns, self.vain, self.left) = (0, 0, self.rest);
    }
}

/// QEMU's rule: a wait that more polling within the limit would have covered makes the time grow, a longer one shrinks it.
fn adapted(now_ns: i64, waited: i64, params: PollParams) -> i64 {
    if waited <= now_ns {
        return now_ns;
    }
    if waited > params.max_ns {
        return now_ns.checked_div(params.shrink).unwrap_or(0);
    }
    let factor = if params.grow == 0 { 2 } else { params.grow };
    let grown = if now_ns == 0 {
        FIRST_NS
    } else {
        now_ns.saturating_mul(factor)
    };
    grown.min(params.max_ns)
}

#[cfg(test)]
mod tests {
    use super::{PollBudget, PollParams, RESTS, VAIN, adapted};

    const PARAMS: PollParams = PollParams {
        max_ns: 32_768,
        grow: 0,
        shrink: 0,
    };

    #[test]
    fn the_time_grows_while_waits_are_short_and_never_beyond_the_limit() {
        assert_eq!(adapted(0, 10_000, PARAMS), 4_000);
        assert_eq!(adapted(4_000, 10_000, PARAMS), 8_000);
        assert_eq!(adapted(30_000, 31_000, PARAMS), 32_768);
        let tripling = PollParams { grow: 3, ..PARAMS };
        assert_eq!(adapted(8_000, 10_000, tripling), 24_000);
    }

    #[test]
    fn a_wait_that_polling_covered_changes_nothing() {
        assert_eq!(adapted(8_000, 8_000, PARAMS), 8_000);
    }

    #[test]
    fn a_long_wait_shrinks_the_time() {
        assert_eq!(adapted(8_000, 1_000_000, PARAMS), 0);
        let halving = PollParams {
            shrink: 2,
            ..PARAMS
        };
        assert_eq!(adapted(8_000, 1_000_000, halving), 4_000);
    }

    /// Waits that look as if more polling would help; the number of those that were polled for.
    fn polled(budget: &mut PollBudget, waits: u32) -> u32 {
        (0..waits)
            .filter(|_| {
                let polled = budget.now_ns() > 0;
                budget.waited(20_000, PARAMS);
                polled
            })
            .count()
            .try_into()
            .unwrap()
    }

    #[test]
    fn polling_in_vain_is_given_up_for_longer_and_longer() {
        let mut budget = PollBudget::default();
        let mut rest = RESTS.0;
        for _ in 0..12 {
            assert_eq!(polled(&mut budget, VAIN + 1), VAIN);
            assert_eq!(polled(&mut budget, rest), 0);
            rest = (rest * 2).min(RESTS.1);
        }
    }

    #[test]
    fn one_find_makes_up_for_all_that_was_in_vain() {
        let mut budget = PollBudget::default();
        for _ in 0..100 {
            assert!(polled(&mut budget, VAIN - 1) >= VAIN - 2);
            budget.found();
        }
        polled(&mut budget, VAIN + 1 + RESTS.0);
        budget.found();
        assert_eq!(polled(&mut budget, VAIN + 1), VAIN);
        assert_eq!(
            polled(&mut budget, RESTS.0),
            0,
            "the first rest is short again"
        );
    }
}
