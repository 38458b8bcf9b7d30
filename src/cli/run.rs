//! Serving: creates what the plan describes, runs `qcontext-main` until the end is requested, and removes everything.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use qcontext::block::{Node, allow_image_folder};
use qcontext::device::{self, Device};
use qcontext::export;
use qcontext::job;
use qcontext::kvm::microvm::MicroVm;
use qcontext::monitor::{self, Monitor, emit_export_deleted};
use qcontext::object::{self, Options};
use qcontext::{QContext, Result};

use super::daemon::Daemon;
use super::ending::{Ending, Reason};
use super::failure::Failure;
use super::guest::Guest;
use super::job_control::TerminalJob;
use super::main_loop::{Flag, iterate_for, iterate_until};
use super::output::warn;
use super::pidfile::PidFile;
use super::plan::{Plan, PlannedObject, SerialTarget};
use super::signal::{self, SignalRequest};
use super::{commands, daemon, devices, fd_limit};

/// How long clients have to read the last replies, and the reader of the console to read at least one byte.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves the plan. Returns after `quit`, a signal or the guest's end, with everything removed.
pub(super) fn run(mut plan: Plan) -> Result<(), Failure> {
    // Before there are threads.
    let daemon = match plan.daemonize {
        true => Some(daemon::fork().map_err(|error| Failure::at("-daemonize", &error))?),
        false => None,
    };
    fd_limit::raise();
    // Signals first: threads inherit that they are blocked.
    let ending = Ending::default();
    let job = TerminalJob::default();
    let (asked, stopped) = (ending.clone(), job.clone());
    let signals = signal::watch(uses_terminal(&plan), move |request| match request {
        SignalRequest::End => asked.set(Reason::SIGNAL),
        SignalRequest::Stop => stopped.stop(),
        SignalRequest::Continued => stopped.resume(),
    });
    let signals = signals.map_err(|error| Failure::at("signals", &error))?;
    let pidfile = plan.pidfile.take();
    let mut outcome = serve(plan, Ready { daemon, pidfile }, &ending, &job);
    // While clients are connected: they hear of the end of each export and job.
    remove_exports()?;
    end_jobs()?;
    if let Ok(service) = &mut outcome {
        service.stop();
    }
    // After a failure too: the sockets of the exports and devices that exist must be removed.
    remove_exports()?;
    remove_devices()?;
    Node::close_all();
    let result = outcome.and_then(Service::flush);
    drop(signals);
    result
}

fn remove_exports() -> Result<(), Failure> {
    let gone = Flag::default();
    let last = gone.clone();
    export::shutdown_all(emit_export_deleted, move || last.set());
    iterate_until(|| gone.is_set())
}

fn end_jobs() -> Result<(), Failure> {
    let gone = Flag::default();
    let last = gone.clone();
    job::cancel_all(move || last.set());
    iterate_until(|| gone.is_set())
}

fn uses_terminal(plan: &Plan) -> bool {
    let machine = plan.machine.as_ref();
    machine.is_some_and(|machine| machine.serial.1 == SerialTarget::Stdio)
        && std::io::stdin().is_terminal()
}

fn remove_devices() -> Result<(), Failure> {
    let gone = Flag::default();
    let last = gone.clone();
    Device::shutdown_all(move || last.set());
    iterate_until(|| gone.is_set())
}

/// What is done when everything is there.
struct Ready {
    daemon: Option<Daemon>,
    pidfile: Option<(String, PathBuf)>,
}

impl Ready {
    /// Writes the file with the process id, which is removed when it is dropped, and goes into the background.
    fn tell(self) -> Result<Option<PidFile>, Failure> {
        let write = |(place, path): (String, PathBuf)| {
            PidFile::write(&path).map_err(|error| Failure::at(place, &error))
        };
        let pidfile = self.pidfile.map(write).transpose()?;
        if let Some(daemon) = self.daemon {
            let ready = daemon.ready();
            ready.map_err(|error| Failure::at("-daemonize", &error))?;
        }
        Ok(pidfile)
    }
}

/// What the program serves.
struct Service {
    /// Removed last.
    _pidfile: Option<PidFile>,
    monitor: Monitor,
    machine: Option<MicroVm>,
    /// How the machine ended, if it ended by itself.
    ended: Result<(), Failure>,
}

impl Service {
    /// Accepts no more requests, and stops the machine.
    fn stop(&mut self) {
        self.monitor.shut_down();
        if let Some(machine) = &self.machine {
            machine.stop();
        }
    }

    /// Writes the last replies and the rest of the console's output.
    fn flush(self) -> Result<(), Failure> {
        let unsent = || self.machine.as_ref().map_or(0, MicroVm::unsent);
        flush_until(|| self.monitor.is_quiet() && unsent() == 0, unsent)?;
        if unsent() > 0 {
            warn(&format!(
                "qctx: -serial: {} bytes were not read in time",
                unsent()
            ));
        }
        self.ended
    }
}

/// Iterates until `is_quiet`. Gives up when `unsent` has not become less for the time of [`FAREWELL`].
fn flush_until(is_quiet: impl Fn() -> bool, unsent: impl Fn() -> usize) -> Result<(), Failure> {
    loop {
        let before = unsent();
        iterate_for(FAREWELL, &is_quiet)?;
        if is_quiet() || unsent() >= before {
            return Ok(());
        }
    }
}

/// Creates everything in the plan, and runs the loop until the end is requested.
fn serve(plan: Plan, ready: Ready, ending: &Ending, job: &TerminalJob) -> Result<Service, Failure> {
    // The main context takes the default GMainContext before anything attaches to it.
    QContext::main();
    device::on_event(|event| monitor::emit(event.event, event.data));
    for folder in plan.image_folders {
        allow_image_folder(&folder.path).map_err(|error| Failure::at(folder.place, &error))?;
    }
    make(plan.objects, |options| {
        object::object_add(options).map(drop)
    })?;
    make(plan.blockdevs, |options| {
        Node::open_blockdev(options).map(drop)
    })?;
    make(plan.drives, |options| Node::open_drive(options).map(drop))?;
    let guest = plan.machine.map(|wanted| Guest::new(wanted, job));
    let guest = guest.transpose()?;
    make(plan.devices, |options| match &guest {
        Some(guest) => devices::create_on(guest.machine(), options),
        None => devices::create(options),
    })?;
    make(plan.nbd_servers, export::start_nbd_server)?;
    make(plan.exports, export::add)?;
    let commands = commands::commands(ending, guest.as_ref().map(Guest::machine));
    let mut monitor = Monitor::new(commands);
    for wanted in plan.monitors {
        let (id, wait) = (wanted.chardev.id.clone(), wanted.wait);
        let opened = monitor.open(wanted.chardev);
        opened.map_err(|error| Failure::at(wanted.place, &error))?;
        if wait {
            warn(&format!("qctx: waiting for a client of chardev '{id}'"));
            iterate_until(|| monitor.is_connected(&id) || ending.reason().is_some())?;
        }
    }
    let pidfile = ready.tell()?;
    if let Some(guest) = &guest {
        guest.start(ending)?;
    }
    iterate_until(|| ending.reason().is_some())?;
    if let (Some(_), Some(reason)) = (&guest, ending.reason()) {
        commands::emit_shutdown(reason);
    }
    let ended = guest.as_ref().map_or(Ok(()), Guest::outcome);
    Ok(Service {
        _pidfile: pidfile,
        monitor,
        machine: guest.map(Guest::into_machine),
        ended,
    })
}

fn make(items: Vec<PlannedObject>, create: impl Fn(Options) -> Result<()>) -> Result<(), Failure> {
    for item in items {
        for warning in item.options.warnings() {
            warn(&format!("qctx: {}: warning: {warning}", item.place));
        }
        create(item.options).map_err(|error| Failure::at(item.place, &error))?;
    }
    Ok(())
}
