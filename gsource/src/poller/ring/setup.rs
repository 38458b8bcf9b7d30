//! What kind of ring this kernel gives, and what it can do.
#![forbid(unsafe_code)]

use super::{HomeRing, RingStage, Watch};
use crate::poller::Drivers;
use crate::{Error, ErrorKind, Resource, Result};
use io_uring::register::Probe;
use io_uring::{Builder, IoUring, opcode};
use std::collections::VecDeque;

const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 4096;

/// Features that not every io_uring has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// Completions are posted when their thread asks, not when they happen (6.1).
    pub(crate) deferred: bool,
    /// The epoll set's events come with the completion (6.15). Otherwise the completion only says that there are some.
    pub(crate) epoll_wait: bool,
    /// An idle wait in the ring need not count as waiting for I/O (6.15); else it is done in the epoll set.
    pub(crate) no_iowait: bool,
}

impl Abilities {
    /// All that the kernel has.
    pub(crate) const ALL: Abilities = Abilities {
        deferred: true,
        epoll_wait: true,
        no_iowait: true,
    };
    /// None of them.
    pub(crate) const NONE: Abilities = Abilities {
        deferred: false,
        epoll_wait: false,
        no_iowait: false,
    };
}

impl HomeRing {
    /// A ring for requests, whose fd is watched by a poller.
    pub(crate) fn for_requests() -> Result<HomeRing> {
        let uring = sized()
            .setup_submit_all()
            .setup_coop_taskrun()
            .build(SUBMISSIONS)
            .or_else(|_| sized().build(SUBMISSIONS))
            .map_err(refused)?;
        Ok(HomeRing::new(uring, Abilities::NONE))
    }

    /// A ring that waits for a home's fds as well, with what the kernel has of `allowed`. It is enabled by its first use.
    pub(crate) fn for_waiting(drivers: Drivers, allowed: Abilities) -> Result<HomeRing> {
        let deferred = (drivers == Drivers::One && allowed.deferred)
            .then(|| {
                sized()
                    .setup_submit_all()
                    .setup_single_issuer()
                    .setup_defer_taskrun()
                    .setup_taskrun_flag()
                    .setup_r_disabled()
                    .build(SUBMISSIONS)
            })
            .and_then(std::result::Result::ok);
        let is_deferred = deferred.is_some();
        let uring = deferred.map_or_else(cooperative, Ok).map_err(refused)?;
        let known = uring.params();
        if !known.is_feature_ext_arg() || !known.is_feature_nodrop() {
            let message = "this kernel's io_uring has no timeouts (IORING_FEAT_EXT_ARG), expected Linux 5.11 or later";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let abilities = Abilities {
            deferred: is_deferred,
            epoll_wait: allowed.epoll_wait && has_epoll_wait(&uring),
            no_iowait: allowed.no_iowait && known.is_feature_no_iowait(),
        };
        Ok(HomeRing::new(uring, abilities))
    }

    fn new(uring: IoUring, abilities: Abilities) -> HomeRing {
        HomeRing {
            uring,
            abilities,
            stage: if abilities.deferred {
                RingStage::Disabled
            } else {
                RingStage::Open
            },
            slots: Vec::new(),
            in_flight: 0,
            taken: VecDeque::new(),
            stuck: false,
            refused: false,
            watch: Watch::new(),
        }
    }
}

fn sized() -> Builder {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETIONS).setup_clamp();
    builder
}

fn cooperative() -> std::io::Result<IoUring> {
    sized()
        .setup_submit_all()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(SUBMISSIONS)
        .or_else(|_| sized().build(SUBMISSIONS))
}

fn refused(error: std::io::Error) -> Error {
    Error::limited("cannot create an io_uring", error, Resource::Ring)
}

fn has_epoll_wait(uring: &IoUring) -> bool {
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe).is_ok()
        && probe.is_supported(opcode::EpollWait::CODE)
}
