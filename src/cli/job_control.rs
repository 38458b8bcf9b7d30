//! Job control: a shell stops the program (Ctrl-Z), continues it in the foreground (`fg`) or in the background (`bg`).
//!
//! The mode of the console's terminal is restored before the program stops, and raw again when it is back in the foreground.
#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::rc::Rc;

use qcontext::kvm::serial::JobControl;

use super::output::warn;
use super::signal;

/// The program as a job of a shell. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct TerminalJob(Rc<OnceCell<JobControl>>);

impl TerminalJob {
    /// Takes over the terminal of the console, once there is one.
    pub(super) fn set(&self, control: JobControl) {
        let _ = self.0.set(control);
    }

    /// Stops the program. Returns when it is continued.
    pub(super) fn stop(&self) {
        if let Some(control) = self.0.get() {
            control.suspend();
        }
        if let Err(error) = signal::stop() {
            warn(&format!("qctx: cannot stop: {error}"));
        }
        // Also without a SIGCONT: nothing stops a program whose shell is gone.
        self.resume();
    }

    pub(super) fn resume(&self) {
        if let Some(control) = self.0.get() {
            control.resume();
        }
    }
}
