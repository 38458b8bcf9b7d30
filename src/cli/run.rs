//! Serving: makes what the plan says, then runs `qcontext-main` until somebody ends it.
#![forbid(unsafe_code)]

use std::time::Duration;

use qcontext::block::Node;
use qcontext::device::Device;
use qcontext::kvm::microvm::MicroVm;
use qcontext::monitor::Monitor;
use qcontext::object::{self, Options};
use qcontext::{QContext, Result};

use super::ending::{Ending, Reason};
use super::failure::Failure;
use super::guest::Guest;
use super::main_loop::{Flag, iterate_for, iterate_until};
use super::output::warn;
use super::plan::{MonitorChannel, Plan, PlannedObject};
use super::signal;
use super::{commands, devices};

/// How long clients may take to read the last replies, and the other side of the console to read something.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves the plan; returns after `quit`, SIGTERM or SIGINT, with everything taken down.
pub(super) fn run(plan: Plan) -> Result<(), Failure> {
    // Signals first: threads inherit what is blocked.
    let ending = Ending::default();
    let asked = ending.clone();
    let signals = signal::watch(move || asked.set(Reason::SIGNAL))
        .map_err(|error| Failure::at("signals", &error))?;
    let mut outcome = serve(plan, &ending);
    // Nobody asks for anything new while everything goes.
    if let Ok(served) = &mut outcome {
        served.monitor.shut_down();
        if let Some(machine) = &served.machine {
            machine.stop();
        }
    }
    // Also after a failure: sockets of devices that were made must go.
    let gone = Flag::default();
    let told = gone.clone();
    Device::shutdown_all(move || told.set());
    iterate_until(|| gone.is_set())?;
    let said = outcome.and_then(|served| {
        let Service {
            monitor,
            machine,
            ended,
        } = served;
        let unsent = || machine.as_ref().map_or(0, MicroVm::unsent);
        say_goodbye(|| monitor.is_quiet() && unsent() == 0, unsent)?;
        if unsent() > 0 {
            warn(&format!(
                "qctx: -serial: {} bytes were not read in time",
                unsent()
            ));
        }
        ended
    });
    drop(signals);
    said
}

/// What was served, and is to be taken down.
struct Service {
    monitor: Monitor,
    machine: Option<MicroVm>,
    /// How the machine ended, if it did so by itself.
    ended: Result<(), Failure>,
}

/// Makes everything and runs the loop; gives it back when it is time to end.
fn serve(plan: Plan, ending: &Ending) -> Result<Service, Failure> {
    // The main context takes the default GMainContext before anything attaches to it.
    QContext::main();
    make(plan.objects, |options| {
        object::object_add(options).map(drop)
    })?;
    make(plan.blockdevs, |options| {
        Node::open_blockdev(options).map(drop)
    })?;
    make(plan.drives, |options| Node::open_drive(options).map(drop))?;
    let guest = plan.machine.map(Guest::new).transpose()?;
    make(plan.devices, |options| match &guest {
        Some(guest) => devices::create_on(guest.machine(), options),
        None => devices::create(options),
    })?;
    let commands = commands::commands(ending, guest.as_ref().map(Guest::machine));
    let mut monitor = Monitor::new(commands);
    for wanted in plan.monitors {
        let opened = match &wanted.channel {
            MonitorChannel::Stdio => monitor.serve_stdio(),
            MonitorChannel::Unix(path) => monitor.listen(path),
        };
        opened.map_err(|error| Failure::at(wanted.place, &error))?;
    }
    if let Some(guest) = &guest {
        guest.start(ending)?;
    }
    iterate_until(|| ending.reason().is_some())?;
    if let (Some(_), Some(reason)) = (&guest, ending.reason()) {
        commands::tell_end(reason);
    }
    let ended = guest.as_ref().map_or(Ok(()), Guest::outcome);
    Ok(Service {
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

/// Lets the last replies out, and what the guest has sent for as long as somebody reads it.
fn say_goodbye(is_quiet: impl Fn() -> bool, unsent: impl Fn() -> usize) -> Result<(), Failure> {
    loop {
        let before = unsent();
        iterate_for(FAREWELL, &is_quiet)?;
        if is_quiet() || unsent() >= before {
            return Ok(());
        }
    }
}
