//! What is measured: devices with some work to do, in an arrangement.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

/// How a device is loaded, and what it makes of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// The requests that its driver makes at once, before it waits for all of them.
    pub(crate) depth: usize,
    /// The processor time that the device takes for a dispatch, beside what virtio-blk takes.
    pub(crate) work: Duration,
    /// The longest time that the driver rests before it makes the next batch; how long, chance decides.
    pub(crate) rest: Duration,
}

/// The load of several devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Null disks: waking and being woken is all there is.
    Null,
    /// Disks with work to do for each request, as image formats, checksums or encryption give it to them.
    Busy,
    /// A slow device, and a fast one beside it.
    Neighbours,
}

/// Some devices of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) kind: Kind,
    pub(crate) devices: usize,
}

/// Where the devices of [`Kind::Neighbours`] stand among the devices of their case.
pub(crate) const SLOW: usize = 0;
pub(crate) const FAST: usize = 1;

/// What a dispatch of the slow device takes.
pub(crate) const SLOW_WORK: Duration = Duration::from_micros(200);

/// Without it the driver of the fast device would make most requests just when the slow one is idle.
const FAST_REST: Duration = Duration::from_micros(400);

impl Case {
    pub(crate) fn all() -> Vec<Case> {
        let mut all = Vec::new();
        for kind in [Kind::Null, Kind::Busy] {
            all.extend([1, 2, 4, 8].map(|devices| Case { kind, devices }));
        }
        all.push(Case {
            kind: Kind::Neighbours,
            devices: 2,
        });
        all
    }

    /// The load of the device of that number.
    pub(crate) fn load(self, device: usize) -> Load {
        let (depth, work, rest) = match self.kind {
            Kind::Null => (4, Duration::ZERO, Duration::ZERO),
            Kind::Busy => (4, Duration::from_micros(40), Duration::ZERO),
            Kind::Neighbours if device == SLOW => (1, SLOW_WORK, Duration::ZERO),
            Kind::Neighbours => (1, Duration::ZERO, FAST_REST),
        };
        Load { depth, work, rest }
    }

    /// Every word is one of the case's own; no word chooses all.
    pub(crate) fn is_chosen(self, words: &[String]) -> bool {
        let name = self.to_string();
        words
            .iter()
            .all(|word| name.split(' ').any(|own| own == word))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Null => "null",
            Kind::Busy => "busy",
            Kind::Neighbours => "neighbours",
        };
        write!(out, "{kind} {}", self.devices)
    }
}

/// Which context drives which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// All devices on one context.
    One,
    /// Each device on a context of its own.
    Each,
    /// As `Each`, and every dispatch of a device takes the big lock.
    Locked,
    /// As `Locked` without the lock: tells what the way in which the lock is taken costs by itself.
    Unlocked,
}

impl Arrangement {
    pub(crate) const ALL: [Arrangement; 4] = [
        Arrangement::One,
        Arrangement::Each,
        Arrangement::Locked,
        Arrangement::Unlocked,
    ];

    /// Its place in [`Arrangement::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Arrangement::One => "one context",
            Arrangement::Each => "a context each",
            Arrangement::Locked => "each, big lock",
            Arrangement::Unlocked => "each, lock left out",
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) warm_up: Duration,
    pub(crate) slice: Duration,
    /// Slices of each arrangement and case.
    pub(crate) rounds: usize,
    pub(crate) real_time: bool,
}

impl Effort {
    pub(crate) const FULL: Effort = Effort {
        warm_up: Duration::from_millis(2),
        slice: Duration::from_millis(20),
        rounds: 60,
        real_time: true,
    };
    /// Enough to see that everything works.
    pub(crate) const QUICK: Effort = Effort {
        warm_up: Duration::from_millis(1),
        slice: Duration::from_millis(5),
        rounds: 1,
        real_time: false,
    };
}
