//! The speed limit of a job: so many bytes per second, with a burst of a tenth of a second.
//!
//! The caller has the clock, so nothing here waits.
#![forbid(unsafe_code)]

/// What passes at once after a rest.
const BURST_NS: u64 = 100_000_000;
const SECOND_NS: u128 = 1_000_000_000;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct SpeedLimit {
    /// Bytes per second; 0 for no limit.
    speed: u64,
    /// When the bytes so far are paid for.
    paid_at_ns: u64,
}

impl SpeedLimit {
    /// A limit; 0 is none.
    pub(super) fn new(speed: u64) -> SpeedLimit {
        SpeedLimit {
            speed,
            paid_at_ns: 0,
        }
    }

    /// Sets another limit. What was to be paid is forgiven.
    pub(super) fn set(&mut self, speed: u64) {
        *self = SpeedLimit::new(speed);
    }

    /// Takes `bytes` that were moved. Returns when the next ones may be.
    pub(super) fn charge(&mut self, bytes: u64, now_ns: u64) -> u64 {
        if self.speed == 0 {
            return now_ns;
        }
        let cost = u128::from(bytes) * SECOND_NS / u128::from(self.speed);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        self.paid_at_ns = self.paid_at_ns.max(now_ns).saturating_add(cost);
        self.paid_at_ns.saturating_sub(BURST_NS).max(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_but_for_the_burst() {
        let mut limit = SpeedLimit::new(0);
        assert_eq!(limit.charge(1 << 40, 5), 5);
        limit.set(1000);
        assert_eq!(limit.charge(100, 0), 0);
        assert_eq!(limit.charge(100, 0), 100_000_000);
        assert_eq!(limit.charge(1000, 100_000_000), 1_100_000_000);
        // A rest gives no more than one burst.
        assert_eq!(limit.charge(200, 60_000_000_000), 60_100_000_000);
    }

    #[test]
    fn sizes_and_times_beyond_all_limits_do_not_overflow() {
        let mut limit = SpeedLimit::new(0);
        limit.set(1);
        assert_eq!(limit.charge(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_new_limit_forgives_what_was_to_be_paid() {
        let mut limit = SpeedLimit::new(0);
        limit.set(1);
        limit.charge(1 << 30, 0);
        limit.set(1 << 30);
        assert_eq!(limit.charge(1 << 20, 7), 7);
    }
}
