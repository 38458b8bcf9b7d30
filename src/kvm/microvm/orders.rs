//! What somebody outside asks of a machine, and what is told of it.
//!
//! Orders are served in the order in which they come, each when the one before is done. Nothing waits on `qcontext-main`:
//! an order that takes its time (vcpus park, requests finish, a machine is made anew) calls back.
//!
//! A stopped machine stands still as a whole: its virtual clock stands, its vcpus are parked, and the requests of its
//! devices that were in flight have finished, so that guest memory and disks do not change any more. That is so before
//! [`Event::Stopped`] is told and the order is answered. Requests that the guest had put into a ring, but no device had
//! taken, stay there until the machine goes on.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::{MicroVm, Shared, State, when_all, with};
use crate::kvm::End;
use crate::virtio::notify::Signal;
use crate::{Error, ErrorKind, Result};

/// How a machine is, under QEMU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
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

impl Status {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Prelaunch => "prelaunch",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Shutdown => "shutdown",
            Status::InternalError => "internal-error",
        }
    }

    /// Whether it is the end.
    fn is_over(self) -> bool {
        matches!(self, Status::Shutdown | Status::InternalError)
    }
}

/// Who made a machine end, or begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The guest switched it off.
    GuestShutdown,
    /// The guest reset it, with or without intention.
    GuestReset,
    /// [`MicroVm::reset`]
    HostReset,
}

impl Cause {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Cause::GuestShutdown => "guest-shutdown",
            Cause::GuestReset => "guest-reset",
            Cause::HostReset => "host-qmp-system-reset",
        }
    }

    /// Whether it was the guest.
    pub fn is_guest(self) -> bool {
        self != Cause::HostReset
    }
}

/// What has happened to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It stands still.
    Stopped,
    /// It runs again.
    Resumed,
    /// It has begun anew.
    Reset(Cause),
    /// Somebody has pressed the power button.
    ButtonPressed,
}

/// Called once when an order was carried out, or cannot be any more.
pub(super) type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// See the head of this file.
pub(super) enum Order {
    Stop(Done),
    GoOn(Done),
    Reset(Done),
    PressButton(Done),
}

/// What a machine is at.
pub(super) enum Doing {
    /// To a standstill, for whoever asked.
    Stop(Done),
    /// On, after a standstill.
    GoOn,
    /// Ends in order to begin anew, because somebody asked for it.
    End,
    /// From one machine to the next.
    Reset,
}

/// How far a machine's order has come.
enum Next {
    /// The next one.
    Go,
    /// The next one when this one is done.
    Wait,
}

impl MicroVm {
    /// How the machine is.
    pub fn status(&self) -> Status {
        self.0.lock().status
    }

    /// Stops the machine, and calls `done` when it stands still; see [`Event::Stopped`]. A machine that does not run is not
    /// touched.
    pub fn pause(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.order(Order::Stop(Box::new(done)));
    }

    /// Lets the machine run on, and calls `done`.
    pub fn resume(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.order(Order::GoOn(Box::new(done)));
    }

    /// Resets the machine, whatever its guest does; `done` is called when that has begun. One that was stopped does not
    /// run afterwards either. Without [`super::Options::reboot`] it is the machine's end.
    pub fn reset(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.order(Order::Reset(Box::new(done)));
    }

    /// Presses the power button (ACPI), and calls `done`. What comes of it is the guest's business.
    pub fn press_power_button(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.0.order(Order::PressButton(Box::new(done)));
    }
}

impl Order {
    /// For a machine that has ended.
    pub(super) fn refuse(self) {
        let (Order::Stop(done) | Order::GoOn(done) | Order::Reset(done) | Order::PressButton(done)) =
            self;
        done(Err(Error::new(ErrorKind::Closed, "the machine has ended")));
    }
}

impl State {
    /// The machine has ended amid what it was at; whether that was because somebody has ordered it. Who waits for it to
    /// stand still waits for the next one to do so.
    pub(super) fn abandon(&mut self) -> bool {
        match self.doing.take() {
            Some(Doing::Stop(done)) => self.orders.push_front(Order::Stop(done)),
            Some(Doing::End) => return true,
            Some(Doing::GoOn | Doing::Reset) | None => {}
        }
        false
    }
}

impl Shared {
    fn order(self: &Arc<Self>, order: Order) {
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
                    Next::Go
                }
                Order::Stop(done) => self.begin_stop(done),
                Order::GoOn(done) => self.go_on(done),
                Order::Reset(done) => self.begin_reset(done),
                Order::PressButton(done) => self.press_button(done),
            };
            if let Next::Wait = next {
                return;
            }
        }
    }

    fn begin_stop(self: &Arc<Self>, done: Done) -> Next {
        let mut state = self.lock();
        if state.status != Status::Running {
            drop(state);
            done(Ok(()));
            return Next::Go;
        }
        state.doing = Some(Doing::Stop(done));
        state.let_clock_stand();
        let generation = state.generation;
        let machine = state.machine.clone();
        drop(state);
        let there = Arc::downgrade(self);
        if let Some(machine) = machine {
            machine.pause(move || with(&there, |this| this.parked(generation)));
        }
        Next::Wait
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
        let Some(Doing::Stop(done)) = state.doing.take() else {
            return;
        };
        state.status = Status::Paused;
        drop(state);
        self.tell(Event::Stopped);
        done(Ok(()));
        self.serve();
    }

    fn go_on(&self, done: Done) -> Next {
        let mut state = self.lock();
        if state.status != Status::Running {
            state.status = Status::Running;
            state.doing = Some(Doing::GoOn);
            let (devices, machine) = (state.devices.clone(), state.machine.clone());
            drop(state);
            for device in devices {
                device.release();
            }
            self.lock().let_clock_run();
            if let Some(machine) = machine {
                machine.resume();
            }
            let is_ours = |doing: &mut Doing| matches!(doing, Doing::GoOn);
            self.lock().doing.take_if(is_ours);
            self.tell(Event::Resumed);
        } else {
            drop(state);
        }
        done(Ok(()));
        Next::Go
    }

    /// The rest is [`Shared::ended`]'s, as if the guest had done it.
    fn begin_reset(&self, done: Done) -> Next {
        let mut state = self.lock();
        state.doing = Some(Doing::End);
        let controls = state
            .machine
            .as_ref()
            .map(|machine| machine.controls().clone());
        drop(state);
        done(Ok(()));
        if let Some(controls) = controls {
            controls.end(End::Reset);
        }
        Next::Wait
    }

    fn press_button(&self, done: Done) -> Next {
        let state = self.lock();
        if let Some(button) = &state.button {
            button.signal();
        }
        drop(state);
        done(Ok(()));
        self.tell(Event::ButtonPressed);
        Next::Go
    }
}
