//! At most so many reports in a time, whatever a guest or a client does.
//!
//! Used for messages and events that others can cause. Of the reports that are held back, the last one is kept; it comes at
//! the end of the interval, with the number of those before it.
//!
//! The caller has the clock and the timer, so nothing here waits.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The time in which reports are counted.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// A limit for reports of one kind.
#[derive(Debug)]
pub(crate) struct RateLimit<T> {
    /// How many reports pass in an interval.
    most: u32,
    /// The end of the interval, and how many have passed in it.
    interval: Option<(Instant, u32)>,
    held: Option<HeldReport<T>>,
}

#[derive(Debug)]
struct HeldReport<T> {
    last: T,
    /// How many were held back before it.
    before: u64,
}

/// What becomes of a report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RateVerdict<T> {
    /// It passes.
    Pass(T),
    /// It is held back. The caller asks again at the end of the interval.
    Hold,
    /// It is held back, and so are others already.
    HoldOn,
}

impl<T> RateLimit<T> {
    /// Lets `most` reports pass in each interval.
    pub(crate) fn new(most: u32) -> RateLimit<T> {
        RateLimit {
            most,
            interval: None,
            held: None,
        }
    }

    /// Takes a report that comes `now`.
    pub(crate) fn offer(&mut self, report: T, now: Instant) -> RateVerdict<T> {
        if let Some(held) = &mut self.held {
            held.before += 1;
            held.last = report;
            return RateVerdict::HoldOn;
        }
        match &mut self.interval {
            Some((end, passed)) if now < *end => {
                if *passed < self.most {
                    *passed += 1;
                    return RateVerdict::Pass(report);
                }
                self.held = Some(HeldReport {
                    last: report,
                    before: 0,
                });
                RateVerdict::Hold
            }
            _ => {
                self.interval = Some((now + INTERVAL, 1));
                RateVerdict::Pass(report)
            }
        }
    }

    /// When what is held back may pass, if something is.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.held.as_ref().and(self.interval).map(|(end, _)| end)
    }

    /// If the interval is over: the last report that was held back, and how many were before it. It counts as the first one
    /// of the next interval.
    pub(crate) fn release(&mut self, now: Instant) -> Option<(T, u64)> {
        self.held_until().filter(|end| now >= *end)?;
        self.interval = Some((now + INTERVAL, 1));
        self.flush()
    }

    /// What is held back, whatever the time is.
    pub(crate) fn flush(&mut self) -> Option<(T, u64)> {
        self.held.take().map(|held| (held.last, held.before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_pass_and_the_last_one_comes_later_with_a_count() {
        let start = Instant::now();
        let mut limit = RateLimit::new(2);
        assert_eq!(limit.offer('a', start), RateVerdict::Pass('a'));
        assert_eq!(limit.offer('b', start), RateVerdict::Pass('b'));
        assert_eq!(limit.offer('c', start), RateVerdict::Hold);
        assert_eq!(limit.held_until(), Some(start + INTERVAL));
        assert_eq!(limit.offer('d', start), RateVerdict::HoldOn);
        assert_eq!(limit.release(start), None);
        // Late: the timer has not fired yet, and the order stays.
        let late = start + 2 * INTERVAL;
        assert_eq!(limit.offer('e', late), RateVerdict::HoldOn);
        assert_eq!(limit.release(late), Some(('e', 2)));
        assert_eq!((limit.release(late), limit.held_until()), (None, None));
    }

    #[test]
    fn a_released_report_counts_in_the_next_interval() {
        let start = Instant::now();
        let mut limit = RateLimit::new(1);
        limit.offer('a', start);
        limit.offer('b', start);
        let next = start + INTERVAL;
        assert_eq!(limit.release(next), Some(('b', 0)));
        assert_eq!(limit.offer('c', next), RateVerdict::Hold);
        assert_eq!(limit.release(next + INTERVAL), Some(('c', 0)));
        let quiet = next + 5 * INTERVAL;
        assert_eq!(limit.offer('d', quiet), RateVerdict::Pass('d'));
        limit.offer('e', quiet);
        assert_eq!(limit.flush(), Some(('e', 0)));
    }
}
