//! Why the program ends.
#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};

use qcontext::kvm::microvm::ShutdownCause;

use super::main_loop::Flag;

/// A reason, with QEMU's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    /// Whether the guest caused it.
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
    pub(super) fn of_machine(cause: ShutdownCause) -> Reason {
        Reason {
            guest: cause.is_guest(),
            name: cause.name(),
        }
    }
}

/// The request to end the program. Any thread may set it; the first reason counts.
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

    /// The reason, once the end is requested.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.reason.get().copied().filter(|_| self.flag.is_set())
    }
}
