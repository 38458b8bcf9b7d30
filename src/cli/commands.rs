//! The QMP commands of the program: `quit`, devices, and the machine.
//!
//! Names, answers and events are QEMU's (qapi/run-state.json, qapi/machine.json, qapi/misc.json). Without a machine, commands
//! that control one fail, `query-status` answers `running` for the program itself, and the list of processors is empty.
#![forbid(unsafe_code)]

use qcontext::kvm::microvm::{CpuInfo, MachineEvent, MicroVm, RunState};
use qcontext::monitor::{self, Commands, Reply};
use qcontext::object::{Dict, Options, Value};
use qcontext::{Error, ErrorKind};

use super::devices;
use super::ending::{Ending, Reason};

/// All commands.
pub(super) fn commands(ending: &Ending, guest: Option<&MicroVm>) -> Commands {
    let mut commands = Commands::new();
    let ending = ending.clone();
    commands.add("quit", move |arguments| {
        arguments.finish()?;
        ending.set(Reason::QUIT);
        Ok(Value::empty())
    });
    add_devices(&mut commands);
    add_queries(&mut commands, guest);
    add_machine_command(&mut commands, "stop", guest, |guest, reply| {
        guest.pause(|outcome| reply.done(outcome));
    });
    add_machine_command(&mut commands, "cont", guest, |guest, reply| {
        guest.resume(|outcome| reply.done(outcome));
    });
    add_machine_command(&mut commands, "system_reset", guest, |guest, reply| {
        guest.reset(|outcome| reply.done(outcome));
    });
    add_machine_command(&mut commands, "system_powerdown", guest, |guest, reply| {
        guest.press_power_button(|outcome| reply.done(outcome));
    });
    commands
}

fn add_devices(commands: &mut Commands) {
    commands.add_later("device_add", |arguments, reply| {
        reply.done(devices::create(arguments));
    });
    commands.add_later("device_del", |mut arguments, reply| {
        let id = arguments.need_str("id");
        match id.and_then(|id| arguments.finish().map(|()| id)) {
            Ok(id) => devices::remove(&id, move |outcome| reply.done(outcome)),
            Err(error) => reply.done(Err(error)),
        }
    });
}

fn add_queries(commands: &mut Commands, guest: Option<&MicroVm>) {
    let asked = guest.cloned();
    commands.add("query-status", move |arguments| {
        arguments.finish()?;
        let status = asked.as_ref().map_or(RunState::Running, MicroVm::status);
        Ok(Value::dict([
            ("status", status.name().into()),
            ("running", (status == RunState::Running).into()),
        ]))
    });
    let guest = guest.cloned();
    commands.add("query-cpus-fast", move |arguments| {
        arguments.finish()?;
        let cpus = guest.as_ref().map(MicroVm::cpus).unwrap_or_default();
        Ok(cpus.iter().map(describe).collect())
    });
}

/// A processor. All processors are cores of one package, with one thread each.
fn describe(cpu: &CpuInfo) -> Value {
    let place = Value::dict([
        ("core-id", i64::from(cpu.index).into()),
        ("thread-id", Value::Int(0)),
        ("socket-id", Value::Int(0)),
    ]);
    Value::dict([
        ("thread-id", cpu.thread_id.into()),
        ("props", place),
        ("qom-path", cpu.path.as_str().into()),
        ("cpu-index", i64::from(cpu.index).into()),
        ("target", "x86_64".into()),
    ])
}

/// Adds a command without arguments that controls the machine.
fn add_machine_command(
    commands: &mut Commands,
    name: &'static str,
    guest: Option<&MicroVm>,
    run: fn(&MicroVm, Reply),
) {
    let guest = guest.cloned();
    commands.add_later(name, move |arguments: Options, reply| {
        match (arguments.finish(), &guest) {
            (Err(error), _) => reply.done(Err(error)),
            (Ok(()), Some(guest)) => run(guest, reply),
            (Ok(()), None) => reply.done(Err(no_machine(name))),
        }
    });
}

fn no_machine(command: &str) -> Error {
    let message =
        format!("There is no machine for '{command}', start qctx with '-machine microvm'");
    Error::new(ErrorKind::Unsupported, message)
}

/// Sends the event of a change of the machine to all clients.
pub(super) fn emit(event: MachineEvent) {
    match event {
        MachineEvent::Stopped => monitor::emit("STOP", Dict::new()),
        MachineEvent::Resumed => monitor::emit("RESUME", Dict::new()),
        MachineEvent::Reset(cause) => monitor::emit("RESET", because(Reason::of_machine(cause))),
        MachineEvent::ButtonPressed => monitor::emit("POWERDOWN", Dict::new()),
    }
}

/// Sends SHUTDOWN to all clients: the machine ends, and the program with it.
pub(super) fn emit_shutdown(reason: Reason) {
    monitor::emit("SHUTDOWN", because(reason));
}

fn because(reason: Reason) -> Dict {
    vec![
        ("guest".to_owned(), reason.guest.into()),
        ("reason".to_owned(), reason.name.into()),
    ]
}
