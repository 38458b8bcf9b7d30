//! What somebody outside asks of a machine, and what is told of it.
//!
//! Orders are served in the order in which they come, each when the one before is done. Nothing waits on `qcontext-main`:
//! an order that takes its time (vcpus park, requests finish, a machine is made anew) calls back.
//!
//! A stopped machine stands still as a whole: its virtual clock stands, its vcpus are parked, and the requests of its
//! devices that were in flight have finished, so that guest memory and disks do not change any more. That is so before
//! [`MachineEvent::Stopped`] is told and the order is answered. Requests that the guest had put into a ring, but no device had
//! taken, stay there until the machine goes on.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::{MicroVm, MicroVmCore, MicroVmState, when_all, with};
use crate::kvm::MachineEnd;
use crate::virtio::notify::Signal;
use crate::{Error, ErrorKind, Result};

/// How a machine is, under QEMU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunState {
    /// It has not run since it was made, or since it was reset while it was stopped.
    #[default]
    Prelaunch,
    /// It runs.
    Running,
    /// It was stopped.
    Paused,
    /// It has ended.
    Shutdown,
    /// It could not go on.
    InternalError,
}

impl RunState {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Prelaunch => "prelaunch",
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Shutdown => "shutdown",
            RunState::InternalError => "internal-error",
        }
    }

    /// Whether it is the end.
    fn is_over(self) -> bool {
        matches!(self, RunState::Shutdown | RunState::InternalError)
    }
}

/// Who made a machine end, or begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The guest switched it off.
    GuestShutdown,
    /// The guest reset it, with or without intention.
    GuestReset,
    /// [`MicroVm::reset`]
    HostReset,
}

impl ShutdownCause {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            ShutdownCause::GuestShutdown => "guest-shutdown",
            ShutdownCause::GuestReset => "guest-reset",
            ShutdownCause::HostReset => "host-qmp-system-reset",
        }
    }

    /// Whether it was the guest.
    pub fn is_guest(self) -> bool {
        self != ShutdownCause::HostReset
    }
}

/// What has happened to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// It stands still.
    Stopped,
    /// It runs again.
    Resumed,
    /// It has begun anew.
    Reset(ShutdownCause),
    /// Somebody has pressed the power button.
    ButtonPressed,
}

/// Called once when an order was carried out, or cannot be any more.
pub(super) type RequestDone = Box<dyn FnOnce(Result<()>) + Send>;

/// See the head of this file.
pub(super) enum RunStateRequest {
    Stop(RequestDone),
    GoOn(RequestDone),
    Reset(RequestDone),
    PressButton(RequestDone),
}

/// What a machine is at.
pub(super) enum Transition {
    /// To a standstill, for whoever asked.
    Stop(RequestDone),
    /// On, after a standstill.
    GoOn,
    /// Ends in order to begin anew, because somebody asked for it.
    MachineEnd,
    /// From one machine to the next.
    Reset,
}

/// How far a machine's order has come.
enum RequestProgress {
    /// The next one.
    Go,
    /// The next one when this one is done.
    Wait,
}

impl MicroVm {
    /// How the machine is.
    pub fn status(&self) -> RunState {
        self.0.lock().status
    }

    /// Stops the machine, and calls `done` when it stands still; see [`MachineEvent::Stopped`]. A machine that does not run is not
    /// touched.
    pub fn pause(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.order(RunStateRequest::Stop(Box::new(done)));
    }

    /// Lets the machine run on, and calls `done`.
    pub fn resume(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.order(RunStateRequest::GoOn(Box::new(done)));
    }

    /// Resets the machine, whatever its guest does; `done` is called when that has begun. One that was stopped does not
    /// run afterwards either. Without [`super::MicroVmOptions::reboot`] it is the machine's end.
    pub fn reset(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.order(RunStateRequest::Reset(Box::new(done)));
    }

    /// Presses the power button (ACPI), and calls `done`. What comes of it is the guest's business.
    pub fn press_power_button(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.order(RunStateRequest::PressButton(Box::new(done)));
    }
}

impl RunStateRequest {
    /// For a machine that has ended.
    pub(super) fn refuse(self) {
        let (RunStateRequest::Stop(done)
        | RunStateRequest::GoOn(done)
        | RunStateRequest::Reset(done)
        | RunStateRequest::PressButton(done)) = self;
        done(Err(Error::new(ErrorKind::Closed, "the machine has ended")));
    }
}

impl MicroVmState {
    /// The machine has ended amid what it was at; whether that was because somebody has ordered it. Who waits for it to
    /// stand still waits for the next one to do so.
    pub(super) fn abandon(&mut self) -> bool {
        match self.doing.take() {
            Some(Transition::Stop(done)) => self.orders.push_front(RunStateRequest::Stop(done)),
            Some(Transition::MachineEnd) => return true,
            Some(Transition::GoOn | Transition::Reset) | None => {}
        }
        false
    }
}

impl MicroVmCore {
    fn order(self: &Arc<Self>, order: RunStateRequest) {
        self.lock().orders.push_back(order);
        self.serve();
    }

    /// Carries out what is to be done, as far as it can be done now.
    pub(super) fn serve(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            let (over, ready) = (state.status.is_over(), state.machine.is_some());
            if state.doing.is_some() || !(over || ready) {
                return;
            }
            let Some(order) = state.orders.pop_front() else {
                return;
            };
            drop(state);
            let next = match order {
                order if over => {
                    order.refuse();
                    RequestProgress::Go
                }
                RunStateRequest::Stop(done) => self.begin_stop(done),
                RunStateRequest::GoOn(done) => self.go_on(done),
                RunStateRequest::Reset(done) => self.begin_reset(done),
                RunStateRequest::PressButton(done) => self.press_button(done),
            };
            if let RequestProgress::Wait = next {
                return;
            }
        }
    }

    fn begin_stop(self: &Arc<Self>, done: RequestDone) -> RequestProgress {
        let mut state = self.lock();
        if state.status != RunState::Running {
            drop(state);
            done(Ok(()));
            return RequestProgress::Go;
        }
        state.doing = Some(Transition::Stop(done));
        state.let_clock_stand();
        let generation = state.generation;
        let machine = state.machine.clone();
        drop(state);
        let there = Arc::downgrade(self);
        if let Some(machine) = machine {
            machine.pause(move || with(&there, |this| this.parked(generation)));
        }
        RequestProgress::Wait
    }

    /// No vcpu runs any more.
    fn parked(self: &Arc<Self>, generation: u64) {
        let state = self.lock();
        if state.generation != generation {
            return;
        }
        let devices = state.devices.clone();
        drop(state);
        let there = Arc::downgrade(self);
        let stopped = move || with(&there, |this| this.stopped(generation));
        let next = when_all(devices.len(), stopped);
        for device in devices {
            device.hold(Box::new(next.clone()));
        }
        next();
    }

    /// Nothing is in flight any more.
    fn stopped(self: &Arc<Self>, generation: u64) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        let Some(Transition::Stop(done)) = state.doing.take() else {
            return;
        };
        state.status = RunState::Paused;
        drop(state);
        self.tell(MachineEvent::Stopped);
        done(Ok(()));
        self.serve();
    }

    fn go_on(&self, done: RequestDone) -> RequestProgress {
        let mut state = self.lock();
        if state.status != RunState::Running {
            state.status = RunState::Running;
            state.doing = Some(Transition::GoOn);
            let (devices, machine) = (state.devices.clone(), state.machine.clone());
            drop(state);
            for device in devices {
                device.release();
            }
            self.lock().let_clock_run();
            if let Some(machine) = machine {
                machine.resume();
            }
            let is_ours = |doing: &mut Transition| matches!(doing, Transition::GoOn);
            self.lock().doing.take_if(is_ours);
            self.tell(MachineEvent::Resumed);
        } else {
            drop(state);
        }
        done(Ok(()));
        RequestProgress::Go
    }

    /// The rest is [`MicroVmCore::ended`]'s, as if the guest had done it.
    fn begin_reset(&self, done: RequestDone) -> RequestProgress {
        let mut state = self.lock();
        state.doing = Some(Transition::MachineEnd);
        let controls = state
            .machine
            .as_ref()
            .map(|machine| machine.controls().clone());
        drop(state);
        done(Ok(()));
        if let Some(controls) = controls {
            controls.end(MachineEnd::Reset);
        }
        RequestProgress::Wait
    }

    fn press_button(&self, done: RequestDone) -> RequestProgress {
        let state = self.lock();
        if let Some(button) = &state.button {
            button.signal();
        }
        drop(state);
        done(Ok(()));
        self.tell(MachineEvent::ButtonPressed);
        RequestProgress::Go
    }
}
