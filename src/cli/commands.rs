//! The QMP commands of the program: `quit`, devices, and the machine.
//!
//! Names, answers and events are QEMU's (qapi/run-state.json, qapi/machine.json, qapi/misc.json). Without a machine, commands
//! that control one fail, except for `cont` if there are devices; `query-status` answers `running` for the program itself, and the list of processors is empty.
#![forbid(unsafe_code)]

use qcontext::device::{self, Device};
use qcontext::kvm::microvm::{CpuInfo, MachineEvent, MicroVm, RunState};
use qcontext::monitor::{self, Commands, Reply};
use qcontext::object::{Dict, Value};
use qcontext::schema::{CommandType, EnumType, EventType, Member, NOTHING, ObjectType, ValueType};
use qcontext::virtio::blk;
use qcontext::{Error, ErrorKind};

use super::devices;
use super::ending::{Ending, Reason};

static QUIT: CommandType = CommandType::new("quit", &NOTHING);
static STOP: CommandType = CommandType::new("stop", &NOTHING);
static CONT: CommandType = CommandType::new("cont", &NOTHING);
static SYSTEM_RESET: CommandType = CommandType::new("system_reset", &NOTHING);
static SYSTEM_POWERDOWN: CommandType = CommandType::new("system_powerdown", &NOTHING);

const ID: Member = Member::new("id", ValueType::Str);

/// What else there is depends on the driver.
static DEVICE_ADD: CommandType = CommandType::new(
    "device_add",
    &ObjectType {
        is_open: true,
        ..ObjectType::new(
            "q_obj_device_add-arg",
            &[
                Member::new("driver", ValueType::Str),
                Member::optional("id", ValueType::Str),
            ],
        )
    },
);
static DEVICE_DEL: CommandType = CommandType::new(
    "device_del",
    &ObjectType::new("q_obj_device_del-arg", &[ID]),
);

static QUERY_STATUS: CommandType = CommandType::returning(
    "query-status",
    &NOTHING,
    ValueType::Object(&ObjectType::new(
        "StatusInfo",
        &[
            Member::new("running", ValueType::Bool),
            Member::new("status", ValueType::Str),
        ],
    )),
);

static QUERY_CPUS_FAST: CommandType = CommandType::returning(
    "query-cpus-fast",
    &NOTHING,
    ValueType::Array(&ValueType::Object(&CPU_INFO)),
);
static CPU_INFO: ObjectType = ObjectType::new(
    "CpuInfoFast",
    &[
        Member::new("cpu-index", ValueType::Int),
        Member::new("qom-path", ValueType::Str),
        Member::new("thread-id", ValueType::Int),
        Member::new("props", ValueType::Object(&CPU_PROPERTIES)),
        Member::new("target", ValueType::Str),
    ],
);
static CPU_PROPERTIES: ObjectType = ObjectType::new(
    "CpuInstanceProperties",
    &[
        Member::new("socket-id", ValueType::Int),
        Member::new("core-id", ValueType::Int),
        Member::new("thread-id", ValueType::Int),
    ],
);

static STOPPED: EventType = EventType::new("STOP", &NOTHING);
static RESUMED: EventType = EventType::new("RESUME", &NOTHING);
static RESET: EventType = EventType::new("RESET", &CAUSE);
static POWERDOWN: EventType = EventType::new("POWERDOWN", &NOTHING);
static SHUTDOWN: EventType = EventType::new("SHUTDOWN", &CAUSE);
static CAUSE: ObjectType = ObjectType::new(
    "q_obj_SHUTDOWN-arg",
    &[
        Member::new("guest", ValueType::Bool),
        Member::new("reason", ValueType::Enum(CAUSES)),
    ],
);
const CAUSES: EnumType = EnumType::new(
    "ShutdownCause",
    &[
        "none",
        "host-error",
        "host-qmp-quit",
        "host-qmp-system-reset",
        "host-signal",
        "host-ui",
        "guest-shutdown",
        "guest-reset",
        "guest-panic",
        "subsystem-reset",
        "snapshot-load",
    ],
);

/// All commands.
pub(super) fn commands(ending: &Ending, guest: Option<&MicroVm>) -> Commands {
    let mut commands = Commands::new();
    let ending = ending.clone();
    for event in [&STOPPED, &RESUMED, &RESET, &POWERDOWN, &SHUTDOWN] {
        commands.add_event(event);
    }
    for event in [
        &devices::DEVICE_DELETED,
        &device::DEVICE_FAULT,
        &blk::BLOCK_IO_ERROR,
    ] {
        commands.add_event(event);
    }
    commands.add(&QUIT, move |_| {
        ending.set(Reason::QUIT);
        Ok(Value::empty())
    });
    add_devices(&mut commands);
    add_queries(&mut commands, guest);
    add_machine_command(&mut commands, &STOP, guest, |guest, reply| {
        guest.pause(|outcome| reply.done(outcome));
    });
    add_cont(&mut commands, guest);
    add_machine_command(&mut commands, &SYSTEM_RESET, guest, |guest, reply| {
        guest.reset(|outcome| reply.done(outcome));
    });
    add_machine_command(&mut commands, &SYSTEM_POWERDOWN, guest, |guest, reply| {
        guest.press_power_button(|outcome| reply.done(outcome));
    });
    commands
}

/// `cont` is for the machine, and for devices of other machines that take no more requests because one has failed.
fn add_cont(commands: &mut Commands, guest: Option<&MicroVm>) {
    let guest = guest.cloned();
    commands.add_later(&CONT, move |_, reply| {
        let devices = Device::list();
        devices.iter().for_each(|device| device.go_on());
        match &guest {
            Some(guest) => guest.resume(|outcome| reply.done(outcome)),
            None if !devices.is_empty() => reply.done(Ok(())),
            None => reply.done(Err(no_machine(CONT.name))),
        }
    });
}

fn add_devices(commands: &mut Commands) {
    commands.add_later(&DEVICE_ADD, |arguments, reply| {
        reply.done(devices::create(arguments));
    });
    commands.add_later(&DEVICE_DEL, |mut arguments, reply| {
        match arguments.need_str("id") {
            Ok(id) => devices::remove(&id, move |outcome| reply.done(outcome)),
            Err(error) => reply.done(Err(error)),
        }
    });
}

fn add_queries(commands: &mut Commands, guest: Option<&MicroVm>) {
    let asked = guest.cloned();
    commands.add(&QUERY_STATUS, move |_| {
        let status = asked.as_ref().map_or(RunState::Running, MicroVm::status);
        Ok(Value::dict([
            ("status", status.name().into()),
            ("running", (status == RunState::Running).into()),
        ]))
    });
    let guest = guest.cloned();
    commands.add(&QUERY_CPUS_FAST, move |_| {
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
    command: &'static CommandType,
    guest: Option<&MicroVm>,
    run: fn(&MicroVm, Reply),
) {
    let guest = guest.cloned();
    commands.add_later(command, move |_, reply| match &guest {
        Some(guest) => run(guest, reply),
        None => reply.done(Err(no_machine(command.name))),
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
        MachineEvent::Stopped => monitor::emit(&STOPPED, Dict::new()),
        MachineEvent::Resumed => monitor::emit(&RESUMED, Dict::new()),
        MachineEvent::Reset(cause) => monitor::emit(&RESET, because(Reason::of_machine(cause))),
        MachineEvent::ButtonPressed => monitor::emit(&POWERDOWN, Dict::new()),
    }
}

/// Sends SHUTDOWN to all clients: the machine ends, and the program with it.
pub(super) fn emit_shutdown(reason: Reason) {
    monitor::emit(&SHUTDOWN, because(reason));
}

fn because(reason: Reason) -> Dict {
    vec![
        ("guest".to_owned(), reason.guest.into()),
        ("reason".to_owned(), reason.name.into()),
    ]
}
