//! The run state of a machine: pause, resume, reset and the power button.
//!
//! Requests are served in the order in which they come, each when the one before is complete. `qcontext-main` never waits: while
//! vcpus park, I/O finishes or a new machine is made, the request is a [`Transition`] that a callback continues.
//!
//! In a paused machine the virtual clock is stopped, the vcpus are parked, and all I/O of the devices has finished, so guest
//! memory and disks do not change. All of that is done before [`MachineEvent::Stopped`] is emitted and the request is answered.
//! I/O requests in a ring that no device has taken stay there until the machine resumes.
#![forbid(unsafe_code)]

use std::sync::{Arc, Weak};

use super::{MicroVm, MicroVmCore, MicroVmState, when_all, with};
use crate::kvm::MachineEnd;
use crate::virtio::notify::Signal;
use crate::{Error, ErrorKind, QContext, Result};

/// The run state of a machine, with QEMU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunState {
    /// It has not run since it was made, or since a reset while it was paused.
    #[default]
    Prelaunch,
    /// It runs.
    Running,
    /// It is paused.
    Paused,
    /// It is paused because a request of a device has failed.
    IoError,
    /// It has ended.
    Shutdown,
    /// It has ended because it could not continue.
    InternalError,
}

impl RunState {
    /// QEMU's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Prelaunch => "prelaunch",
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::IoError => "io-error",
            RunState::Shutdown => "shutdown",
            RunState::InternalError => "internal-error",
        }
    }

    /// Whether the machine has ended.
    fn is_over(self) -> bool {
        matches!(self, RunState::Shutdown | RunState::InternalError)
    }
}

/// Why a machine ended or was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The guest powered off.
    GuestShutdown,
    /// The guest requested a reset, or had a triple fault.
    GuestReset,
    /// [`MicroVm::reset`]
    HostReset,
}

impl ShutdownCause {
    /// QEMU's name of the cause.
    pub fn name(self) -> &'static str {
        match self {
            ShutdownCause::GuestShutdown => "guest-shutdown",
            ShutdownCause::GuestReset => "guest-reset",
            ShutdownCause::HostReset => "host-qmp-system-reset",
        }
    }

    /// Whether the guest caused it.
    pub fn is_guest(self) -> bool {
        self != ShutdownCause::HostReset
    }
}

/// An event of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// It was paused.
    Stopped,
    /// It was resumed.
    Resumed,
    /// It was reset.
    Reset(ShutdownCause),
    /// Its power button was pressed.
    ButtonPressed,
}

/// Called once when a request is complete, or has failed because the machine has ended.
pub(super) type RequestDone = Box<dyn FnOnce(Result<()>) + Send>;

/// See the module.
pub(super) enum RunStateRequest {
    /// The run state is this one then.
    Pause(RunState, RequestDone),
    Resume(RequestDone),
    Reset(RequestDone),
    PressButton(RequestDone),
}

/// A change of the run state that is not complete.
pub(super) enum Transition {
    /// It pauses: vcpus park, then I/O finishes, and the run state is this one.
    Pause(RunState, RequestDone),
    /// It resumes.
    Resume,
    /// The machine ends for a reset that was requested.
    EndForReset,
    /// The new machine is being made.
    Reset,
}

/// How far a request was served.
enum RequestProgress {
    /// It is complete: serve the next one.
    Complete,
    /// A [`Transition`] continues it.
    Pending,
}

impl MicroVm {
    /// The machine's run state.
    pub fn status(&self) -> RunState {
        self.0.lock().status
    }

    /// Pauses the machine, and calls `done` when nothing changes any more; see the module. No effect on a machine that does not
    /// run.
    pub fn pause(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        let request = RunStateRequest::Pause(RunState::Paused, Box::new(done));
        self.0.request(request);
    }

    /// Resumes the machine, and calls `done`.
    pub fn resume(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.request(RunStateRequest::Resume(Box::new(done)));
    }

    /// Resets the machine without asking its guest. Calls `done` when that has begun. A paused machine stays paused. Without
    /// [`super::MicroVmOptions::reboot`] the machine ends.
    pub fn reset(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.request(RunStateRequest::Reset(Box::new(done)));
    }

    /// Presses the ACPI power button, and calls `done`. The guest decides what it does then.
    pub fn press_power_button(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.request(RunStateRequest::PressButton(Box::new(done)));
    }
}

impl RunStateRequest {
    /// Fails the request, because the machine has ended.
    pub(super) fn refuse(self) {
        let (RunStateRequest::Pause(_, done)
        | RunStateRequest::Resume(done)
        | RunStateRequest::Reset(done)
        | RunStateRequest::PressButton(done)) = self;
        done(Err(Error::new(ErrorKind::Closed, "the machine has ended")));
    }
}

impl MicroVmState {
    /// Cancels the transition of a machine that has ended. True if the machine has ended for a requested reset. A pending pause
    /// becomes a request for the new machine.
    pub(super) fn abandon(&mut self) -> bool {
        match self.transition.take() {
            Some(Transition::Pause(to, done)) => {
                self.requests.push_front(RunStateRequest::Pause(to, done));
            }
            Some(Transition::EndForReset) => return true,
            Some(Transition::Resume | Transition::Reset) | None => {}
        }
        false
    }
}

/// Pauses the machine because a request has failed, soon.
pub(super) fn stop_for_error(machine: &Weak<MicroVmCore>) {
    let machine = Weak::clone(machine);
    let stop = move || {
        with(&machine, |this| {
            let request = RunStateRequest::Pause(RunState::IoError, Box::new(|_| ()));
            this.request(request);
        });
    };
    // Does not fail: the main context cannot be stopped.
    let _ = QContext::main().invoke(stop);
}

impl MicroVmCore {
    fn request(self: &Arc<Self>, request: RunStateRequest) {
        self.lock().requests.push_back(request);
        self.serve();
    }

    /// Serves requests until one is pending or none is left.
    pub(super) fn serve(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            let (over, ready) = (state.status.is_over(), state.machine.is_some());
            if state.transition.is_some() || !(over || ready) {
                return;
            }
            let Some(request) = state.requests.pop_front() else {
                return;
            };
            drop(state);
            let next = match request {
                request if over => {
                    request.refuse();
                    RequestProgress::Complete
                }
                RunStateRequest::Pause(to, done) => self.begin_pause(to, done),
                RunStateRequest::Resume(done) => self.resume(done),
                RunStateRequest::Reset(done) => self.begin_reset(done),
                RunStateRequest::PressButton(done) => self.press_button(done),
            };
            if let RequestProgress::Pending = next {
                return;
            }
        }
    }

    fn begin_pause(self: &Arc<Self>, to: RunState, done: RequestDone) -> RequestProgress {
        let mut state = self.lock();
        if state.status != RunState::Running {
            drop(state);
            done(Ok(()));
            return RequestProgress::Complete;
        }
        state.transition = Some(Transition::Pause(to, done));
        state.stop_clock();
        let generation = state.generation;
        let machine = state.machine.clone();
        drop(state);
        let weak = Arc::downgrade(self);
        if let Some(machine) = machine {
            machine.pause(move || with(&weak, |this| this.vcpus_parked(generation)));
        }
        RequestProgress::Pending
    }

    /// All vcpus are parked: makes the devices finish their I/O.
    fn vcpus_parked(self: &Arc<Self>, generation: u64) {
        let state = self.lock();
        if state.generation != generation {
            return;
        }
        let devices = state.devices.clone();
        drop(state);
        let weak = Arc::downgrade(self);
        let finished = move || with(&weak, |this| this.io_finished(generation));
        let next = when_all(devices.len(), finished);
        for device in devices {
            device.hold(Box::new(next.clone()));
        }
        next();
    }

    /// No I/O is in flight any more.
    fn io_finished(self: &Arc<Self>, generation: u64) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        let Some(Transition::Pause(to, done)) = state.transition.take() else {
            return;
        };
        state.status = to;
        drop(state);
        self.emit(MachineEvent::Stopped);
        done(Ok(()));
        self.serve();
    }

    fn resume(&self, done: RequestDone) -> RequestProgress {
        let mut state = self.lock();
        if state.status != RunState::Running {
            state.status = RunState::Running;
            state.transition = Some(Transition::Resume);
            let (devices, machine) = (state.devices.clone(), state.machine.clone());
            drop(state);
            for device in devices {
                device.release();
            }
            self.lock().start_clock();
            if let Some(machine) = machine {
                machine.resume();
            }
            let is_ours = |transition: &mut Transition| matches!(transition, Transition::Resume);
            self.lock().transition.take_if(is_ours);
            self.emit(MachineEvent::Resumed);
        } else {
            drop(state);
        }
        done(Ok(()));
        RequestProgress::Complete
    }

    /// Ends the machine as a reset by the guest does. [`MicroVmCore::ended`] continues.
    fn begin_reset(&self, done: RequestDone) -> RequestProgress {
        let mut state = self.lock();
        state.transition = Some(Transition::EndForReset);
        let controls = state
            .machine
            .as_ref()
            .map(|machine| machine.controls().clone());
        drop(state);
        done(Ok(()));
        if let Some(controls) = controls {
            controls.end(MachineEnd::Reset);
        }
        RequestProgress::Pending
    }

    fn press_button(&self, done: RequestDone) -> RequestProgress {
        let state = self.lock();
        if let Some(button) = &state.button {
            button.signal();
        }
        drop(state);
        done(Ok(()));
        self.emit(MachineEvent::ButtonPressed);
        RequestProgress::Complete
    }
}
