//! Why the program ends.
#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};

use qcontext::kvm::microvm::Cause;

use super::main_loop::Flag;

/// A reason under QEMU's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    /// Whether the guest wanted it.
    pub(super) guest: bool,
    pub(super) name: &'static str,
}

impl Reason {
    /// The command `quit`.
    pub(super) const QUIT: Reason = Reason::host("host-qmp-quit");
    /// SIGTERM and the like.
    pub(super) const SIGNAL: Reason = Reason::host("host-signal");
    /// The machine cannot go on.
    pub(super) const FAILURE: Reason = Reason::host("host-error");

    const fn host(name: &'static str) -> Reason {
        Reason { guest: false, name }
    }

    /// The machine has ended by itself.
    pub(super) fn of_machine(cause: Cause) -> Reason {
        Reason {
            guest: cause.is_guest(),
            name: cause.name(),
        }
    }
}

/// Set once, on any thread, when the program is to end; the first reason counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    flag: Flag,
    reason: Arc<OnceLock<Reason>>,
}

impl Ending {
    pub(super) fn set(&self, reason: Reason) {
        let _ = self.reason.set(reason);
        self.flag.set();
    }

    /// The reason, once there is one.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.reason.get().copied().filter(|_| self.flag.is_set())
    }
}
