//! One limit as a leaky bucket.
//!
//! Each request pours its units, bytes or operations, into the bucket, which leaks at the average rate. While the bucket is
//! full, requests wait. A bucket without a burst rate holds a tenth of a second of the average rate. One with a burst rate
//! holds as much as the burst brings in its length, and then a second, smaller bucket limits the burst rate itself; it holds
//! a tenth of a second of that rate. This is QEMU's algorithm (docs/throttle.txt there) with one difference: a bucket without a
//! burst rate begins full, so that the first second of a disk is no faster than the others.
#![forbid(unsafe_code)]

use super::limits::Rate;

/// How long a bucket without a burst takes to fill, in parts of a second.
const SHARE_OF_SECOND: f64 = 10.0;

const NS_PER_SECOND: f64 = 1e9;

/// What was poured into the bucket of a [`Rate`] and has not leaked yet, in units.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bucket {
    level: f64,
    /// That of the bucket that limits the burst rate.
    burst_level: f64,
}

impl Bucket {
    /// The bucket of a new limit.
    pub(super) fn new(rate: &Rate) -> Bucket {
        let level = if rate.maximum > 0.0 {
            0.0
        } else {
            capacity(rate)
        };
        Bucket {
            level,
            burst_level: 0.0,
        }
    }

    /// Lets `elapsed_ns` pass.
    pub(super) fn leak(&mut self, rate: &Rate, elapsed_ns: i64) {
        #[allow(clippy::cast_precision_loss)] // 52 bits of nanoseconds are 52 days
        let seconds = elapsed_ns as f64 / NS_PER_SECOND;
        self.level = (self.level - rate.average * seconds).max(0.0);
        self.burst_level = (self.burst_level - rate.maximum * seconds).max(0.0);
    }

    /// How long the next request has to wait, in ns; 0 if it may go.
    pub(super) fn wait_ns(&self, rate: &Rate) -> i64 {
        if rate.average == 0.0 {
            return 0;
        }
        let long = wait_ns(self.level - capacity(rate), rate.average);
        if rate.length <= 1.0 {
            return long;
        }
        let burst_capacity = rate.maximum / SHARE_OF_SECOND;
        long.max(wait_ns(self.burst_level - burst_capacity, rate.maximum))
    }

    /// Pours `units` in.
    pub(super) fn pour(&mut self, rate: &Rate, units: f64) {
        if rate.average == 0.0 {
            return;
        }
        self.level += units;
        if rate.length > 1.0 {
            self.burst_level += units;
        }
    }
}

/// How much the bucket holds.
fn capacity(rate: &Rate) -> f64 {
    if rate.maximum > 0.0 {
        rate.maximum * rate.length
    } else {
        rate.average / SHARE_OF_SECOND
    }
}

/// How long `excess` takes to leak.
fn wait_ns(excess: f64, per_second: f64) -> i64 {
    if excess <= 0.0 {
        return 0;
    }
    #[allow(clippy::cast_possible_truncation)]
    // a float that is too large becomes the largest integer
    let ns = (excess / per_second * NS_PER_SECOND).ceil() as i64;
    ns
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: i64 = 1_000_000_000;

    /// How many requests of `units` pass in `seconds`, if as many as may do come at once.
    fn passed(rate: &Rate, units: f64, seconds: i64) -> u64 {
        let mut bucket = Bucket::new(rate);
        let (mut now, mut count) = (0, 0);
        while now < seconds * SECOND_NS {
            let wait = bucket.wait_ns(rate);
            if wait > 0 {
                bucket.leak(rate, wait);
                now += wait;
            } else {
                bucket.pour(rate, units);
                count += 1;
            }
        }
        count
    }

    fn rate(average: f64, maximum: f64, length: f64) -> Rate {
        Rate {
            average,
            maximum,
            length,
        }
    }

    #[test]
    fn average_holds_from_the_first_second_on() {
        for (average, units, seconds) in [(100.0, 1.0, 1), (100.0, 1.0, 10), (1e6, 4096.0, 10)] {
            let expected = average / units * f64::from(seconds);
            let got = passed(&rate(average, 0.0, 1.0), units, seconds.into());
            let error = (f64::from(u32::try_from(got).unwrap()) - expected).abs();
            assert!(error <= expected / 100.0, "{average}/{units}: {got}");
        }
    }

    #[test]
    fn burst_passes_once_and_at_its_own_rate() {
        // A second of 1000 at once, then 100 a second.
        assert_eq!(passed(&rate(100.0, 1000.0, 1.0), 1.0, 10) / 100, 20);
        // 1000 a second for 3 s, while the bucket leaks.
        let long = rate(100.0, 1000.0, 3.0);
        assert_eq!(passed(&long, 1.0, 2) / 100, 21);
        assert_eq!(passed(&long, 1.0, 30) / 100, 60);
    }

    #[test]
    fn bucket_that_rests_earns_no_more_than_it_holds() {
        let rate = rate(100.0, 0.0, 1.0);
        let mut bucket = Bucket::new(&rate);
        bucket.leak(&rate, 1000 * SECOND_NS);
        let mut count = 0;
        while bucket.wait_ns(&rate) == 0 {
            bucket.pour(&rate, 1.0);
            count += 1;
        }
        assert_eq!(count, 11);
    }

    #[test]
    fn no_limit_never_waits() {
        let rate = rate(0.0, 0.0, 1.0);
        let mut bucket = Bucket::new(&rate);
        bucket.pour(&rate, 1e18);
        assert_eq!(bucket.wait_ns(&rate), 0);
    }
}
