//! How much a group may do per second.
//!
//! The names are QEMU's: `iops-total`, `iops-total-max`, `iops-total-max-length`, the same for `iops-read`, `iops-write`,
//! `bps-total`, `bps-read` and `bps-write`, and `iops-size`. They are used as `limits.*` and `x-*` of `throttle-group`, as
//! the members of its property `limits`, and as `throttling.*` of `-drive`.
#![forbid(unsafe_code)]

use crate::object::{Options, Value};
use crate::schema::{Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result};

/// The names of all limits behind a prefix, each made by the macro `$each`.
macro_rules! all_limits {
    ($prefix:literal, $each:ident) => {
        all_limits!($prefix, $each: "bps-total" "bps-read" "bps-write" "iops-total" "iops-read" "iops-write")
    };
    ($prefix:literal, $each:ident: $($rate:literal)*) => {
        [
            $(
                $each!(concat!($prefix, $rate)),
                $each!(concat!($prefix, $rate, "-max")),
                $each!(concat!($prefix, $rate, "-max-length")),
            )*
            $each!(concat!($prefix, "iops-size")),
        ]
    };
}

macro_rules! member {
    ($name:expr) => {
        Member::optional($name, ValueType::Int)
    };
}

macro_rules! single_option {
    ($name:expr) => {
        ($name, "int")
    };
}

static LIMITS: [Member; 19] = all_limits!("", member);

/// The type of `limits`.
pub(super) static THROTTLE_LIMITS: ObjectType = ObjectType::new("ThrottleLimits", &LIMITS);

/// The limits as options of their own, with their type.
pub(super) const SINGLES: [(&str, &str); 19] = all_limits!("x-", single_option);

/// What is limited, in the order of [`Limits::rates`].
const NAMES: [&str; 6] = [
    "bps-total",
    "bps-read",
    "bps-write",
    "iops-total",
    "iops-read",
    "iops-write",
];

const BPS: usize = 0;
const IOPS: usize = 3;

/// The largest value of a rate, as QEMU has it.
const RATE_MAX: u64 = 1_000_000_000_000_000;

/// One limit. 0 is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    /// Units per second.
    pub(super) average: f64,
    /// Units per second during a burst; 0 for none.
    pub(super) maximum: f64,
    /// How many seconds a burst may last.
    pub(super) length: f64,
}

/// Which limits a request is subject to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::block) enum Direction {
    Read,
    Write,
}

/// The limits of a group.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::block) struct Limits {
    pub(super) rates: [Rate; 6],
    /// A request of more bytes counts as several operations; 0 for never.
    iops_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let none = Rate {
            average: 0.0,
            maximum: 0.0,
            length: 1.0,
        };
        Limits {
            rates: [none; 6],
            iops_size: 0,
        }
    }
}

impl Limits {
    /// Changes the limits that `keys` give, each with `prefix` before its name, and checks the result.
    ///
    /// # Errors
    /// A value is no number or too large, or two limits contradict each other.
    pub(in crate::block) fn take(&mut self, keys: &mut Options, prefix: &str) -> Result<()> {
        let mut new = self.clone();
        for (rate, name) in new.rates.iter_mut().zip(NAMES) {
            take_number(keys, &format!("{prefix}{name}"), &mut rate.average)?;
            take_number(keys, &format!("{prefix}{name}-max"), &mut rate.maximum)?;
            take_number(
                keys,
                &format!("{prefix}{name}-max-length"),
                &mut rate.length,
            )?;
        }
        let size = keys.take_uint(&format!("{prefix}iops-size"), 0..=u64::MAX)?;
        new.iops_size = size.unwrap_or(new.iops_size);
        new.check()?;
        *self = new;
        Ok(())
    }

    /// QEMU's rules, with its texts.
    fn check(&self) -> Result<()> {
        let contradicts = |first: usize, value: fn(&Rate) -> f64| {
            let [total, read, write] = [0, 1, 2].map(|index| value(&self.rates[first + index]));
            total > 0.0 && (read > 0.0 || write > 0.0)
        };
        for first in [BPS, IOPS] {
            if contradicts(first, |rate| rate.average) || contradicts(first, |rate| rate.maximum) {
                let message = "bps/iops/max total values and read/write values cannot be used at the same time";
                return Err(invalid(message));
            }
        }
        let has_iops = self.rates[IOPS..].iter().any(|rate| rate.average > 0.0);
        if self.iops_size > 0 && !has_iops {
            return Err(invalid("iops size requires an iops value to be set"));
        }
        self.rates.iter().try_for_each(Rate::check)
    }

    /// The limits as the property `limits` shows them.
    pub(super) fn to_value(&self) -> Value {
        let rates = self.rates.iter();
        let numbers = rates.flat_map(|rate| [rate.average, rate.maximum, rate.length]);
        #[allow(clippy::cast_possible_truncation)] // whole numbers up to RATE_MAX
        let numbers = numbers.map(|number| Value::Int(number as i64));
        let size = Value::from(self.iops_size);
        let names = LIMITS.iter().map(|limit| limit.name.to_owned());
        Value::Dict(names.zip(numbers.chain([size])).collect())
    }

    /// How many units a request of `bytes` takes of each rate.
    pub(super) fn units(&self, direction: Direction, bytes: u64) -> [f64; 6] {
        #[allow(clippy::cast_precision_loss)] // a request is shorter than 2^52
        let bytes = bytes as f64;
        #[allow(clippy::cast_precision_loss)]
        let operations = match self.iops_size {
            0 => 1.0,
            size => (bytes / size as f64).max(1.0),
        };
        let (read, write) = match direction {
            Direction::Read => (1.0, 0.0),
            Direction::Write => (0.0, 1.0),
        };
        [
            bytes,
            bytes * read,
            bytes * write,
            operations,
            operations * read,
            operations * write,
        ]
    }

    /// The rates that requests of a direction wait for, by index.
    pub(super) fn waited_for(direction: Direction) -> [usize; 4] {
        let own = match direction {
            Direction::Read => 1,
            Direction::Write => 2,
        };
        [BPS, BPS + own, IOPS, IOPS + own]
    }
}

impl Rate {
    fn check(&self) -> Result<()> {
        let Rate {
            average,
            maximum,
            length,
        } = *self;
        if length == 0.0 {
            return Err(invalid("the burst length cannot be 0"));
        }
        if length > 1.0 && maximum == 0.0 {
            return Err(invalid("burst length set without burst rate"));
        }
        if maximum > 0.0 && average == 0.0 {
            let message = "bps_max/iops_max require corresponding bps/iops values";
            return Err(invalid(message));
        }
        if maximum > 0.0 && maximum < average {
            return Err(invalid("bps_max/iops_max cannot be lower than bps/iops"));
        }
        #[allow(clippy::cast_precision_loss)] // below 2^52
        if maximum * length > RATE_MAX as f64 {
            return Err(invalid("burst length too high for this burst rate"));
        }
        Ok(())
    }
}

fn take_number(keys: &mut Options, name: &str, number: &mut f64) -> Result<()> {
    let Some(value) = keys.take_int(name)? else {
        return Ok(());
    };
    let value = u64::try_from(value).ok().filter(|value| *value <= RATE_MAX);
    let Some(value) = value else {
        let message = format!("bps/iops/max values must be within [0, {RATE_MAX}]");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    };
    #[allow(clippy::cast_precision_loss)] // below 2^52
    let value = value as f64;
    *number = value;
    Ok(())
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::options;

    fn limits(text: &str) -> Result<Limits> {
        let mut keys = options::parse_dotted("x", &format!("x=1,{text}")).unwrap();
        let mut limits = Limits::default();
        limits.take(&mut keys, "")?;
        Ok(limits)
    }

    #[test]
    fn contradictions_have_qemus_texts() {
        let cases = [
            (
                "bps-total=1,bps-read=1",
                "bps/iops/max total values and read/write values",
            ),
            (
                "iops-read=1,iops-read-max=1,iops-total=1",
                "bps/iops/max total values",
            ),
            (
                "bps-total=1,iops-size=1",
                "iops size requires an iops value to be set",
            ),
            (
                "iops-total=1,iops-total-max=2,iops-total-max-length=0",
                "the burst length cannot be 0",
            ),
            (
                "iops-total=1,iops-total-max-length=2",
                "burst length set without burst rate",
            ),
            (
                "bps-write-max=1",
                "bps_max/iops_max require corresponding bps/iops values",
            ),
            (
                "bps-write-max=1,bps-write=2",
                "bps_max/iops_max cannot be lower than bps/iops",
            ),
            (
                "iops-read=-1",
                "bps/iops/max values must be within [0, 1000000000000000]",
            ),
            ("iops-read=1000000000000001", "must be within"),
            (
                "bps-total=1,bps-total-max=1000000000000000,bps-total-max-length=2",
                "burst length too high for this burst rate",
            ),
        ];
        for (text, expected) in cases {
            let error = limits(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn limits_are_shown_as_they_were_given() {
        let limits =
            limits("iops-total=10,iops-total-max=20,iops-total-max-length=3,iops-size=4096");
        let shown = limits.unwrap().to_value();
        let expected = [
            ("iops-total", 10),
            ("iops-total-max", 20),
            ("iops-total-max-length", 3),
            ("iops-size", 4096),
            ("bps-read", 0),
            ("bps-read-max-length", 1),
        ];
        for (name, number) in expected {
            assert_eq!(shown.member(name), Some(&Value::Int(number)), "{name}");
        }
    }

    #[test]
    fn large_requests_count_as_several_operations() {
        let limits = limits("iops-total=1,iops-size=4096").unwrap();
        let units = |bytes| limits.units(Direction::Read, bytes);
        assert_eq!(units(512), [512.0, 512.0, 0.0, 1.0, 1.0, 0.0]);
        assert_eq!(units(10240)[3..], [2.5, 2.5, 0.0]);
    }
}
