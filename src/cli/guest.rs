//! The machine that `-machine` asks for, from its options to its end.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use qcontext::kvm::KernelImage;
use qcontext::kvm::microvm::MicroVm;
use qcontext::kvm::serial::{Backend, Console};
use qcontext::{Error, QContext, Result};

use super::commands;
use super::ending::{Ending, Reason};
use super::failure::Failure;
use super::job_control::TerminalJob;
use super::plan::{MachinePlan, SerialTarget};

/// A machine, and how it ended.
#[derive(Debug)]
pub(super) struct Guest {
    place: String,
    machine: MicroVm,
    paused: bool,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Guest {
    /// The machine that the options describe, without devices.
    /// The program's job control gets the console's terminal.
    pub(super) fn new(wanted: MachinePlan, job: &TerminalJob) -> Result<Guest, Failure> {
        let image = image(&wanted)?;
        let (serial_place, serial) = wanted.serial;
        let console = console(&serial).map_err(|error| Failure::at(serial_place, &error))?;
        if let Some(control) = console.as_ref().and_then(Console::job_control) {
            job.set(control);
        }
        let (place, paused) = (wanted.place, wanted.paused);
        let machine = MicroVm::new(wanted.options, image, console);
        Ok(Guest {
            machine: machine.map_err(|error| Failure::at(&place, &error))?,
            place,
            paused,
            failure: Arc::default(),
        })
    }

    /// The machine, for its devices.
    pub(super) fn machine(&self) -> &MicroVm {
        &self.machine
    }

    /// Boots the machine. Its changes become events on the monitors. When it ends, the program ends.
    pub(super) fn start(&self, ending: &Ending) -> Result<(), Failure> {
        let (ending, failure) = (ending.clone(), Arc::clone(&self.failure));
        let started = self
            .machine
            .start(self.paused, commands::emit, move |outcome| {
                let reason = match &outcome {
                    Ok(cause) => Reason::of_machine(*cause),
                    Err(_) => Reason::FAILURE,
                };
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = outcome.err();
                ending.set(reason);
            });
        started.map_err(|error| Failure::at(&self.place, &error))
    }

    /// How it has ended, if by itself.
    pub(super) fn outcome(&self) -> Result<(), Failure> {
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(Ok(()), |error| Err(Failure::at(&self.place, &error)))
    }

    pub(super) fn into_machine(self) -> MicroVm {
        self.machine
    }
}

/// What is booted, each file looked at.
fn image(wanted: &MachinePlan) -> Result<KernelImage, Failure> {
    let (kernel_place, kernel) = &wanted.kernel;
    let mut image = KernelImage::open(kernel).map_err(|error| Failure::at(kernel_place, &error))?;
    if let Some((place, initrd)) = &wanted.initrd {
        let set = image.set_initrd(initrd);
        set.map_err(|error| Failure::at(place, &error))?;
    }
    if let Some((place, line)) = &wanted.append {
        let set = image.set_command_line(line);
        set.map_err(|error| Failure::at(place, &error))?;
    }
    Ok(image)
}

fn console(serial: &SerialTarget) -> Result<Option<Console>> {
    let backend = match serial {
        SerialTarget::Stdio => Backend::stdio()?,
        SerialTarget::File(path) => Backend::file(path)?,
        SerialTarget::None => return Ok(None),
    };
    Console::new(backend, &QContext::main()).map(Some)
}
