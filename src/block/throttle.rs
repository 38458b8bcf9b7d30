//! I/O limits: leaky buckets, and groups of nodes that share them.
//!
//! Used by the `throttle` driver and by `throttling.*` of `-drive`. Names, values and rules are QEMU's.
//!
//! * [`limits`]: how much per second, as options and as the property `limits`
//! * [`bucket`]: the arithmetic of one limit
//! * [`group`]: the users of the same limits, which take turns
//! * [`turns`]: whose turn it is, without time and threads
//! * [`object`]: a group as `-object throttle-group`
#![forbid(unsafe_code)]

mod bucket;
mod group;
mod limits;
mod object;
mod turns;

pub(super) use group::{ThrottleGroup, ThrottleMember};
pub(super) use limits::{Direction, Limits};
pub(crate) use object::register;
