//! The options of a machine: `-machine`, `-m`, `-smp`, `-kernel`, `-initrd`, `-append`, `-serial`, `-no-reboot`, `-S`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use qcontext::kvm::microvm::{self, CPUS_MAX};
use qcontext::object::options;
use qcontext::{Error, Result};

use super::super::failure::Failure;

/// The one machine type.
const TYPE: &str = "microvm";
const TYPES: &str = "Supported machines are:\nmicrovm              processors, memory, virtio-mmio devices, a serial port\n";

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// What a machine has if `-m` does not say.
const MEMORY_DEFAULT: u64 = 128 * MIB;
/// More than any machine has; physical addresses have 52 bits at most.
const MEMORY_MAX: u64 = 1 << 48;

const SIZE_HINT: &str = "Optional suffixes k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta- and exabytes, respectively.";
const TYPE_HINT: &str = "Use -machine help to list supported machines";

/// A machine to be made.
#[derive(Debug)]
pub(in crate::cli) struct MachinePlan {
    /// `-machine microvm`, for messages, as all the places that follow.
    pub(in crate::cli) place: String,
    pub(in crate::cli) options: microvm::MicroVmOptions,
    pub(in crate::cli) kernel: (String, PathBuf),
    pub(in crate::cli) initrd: Option<(String, PathBuf)>,
    pub(in crate::cli) append: Option<(String, String)>,
    pub(in crate::cli) serial: (String, SerialTarget),
    /// Whether it waits for `cont` before its first instruction.
    pub(in crate::cli) paused: bool,
}

/// Where the serial port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum SerialTarget {
    Stdio,
    File(PathBuf),
    None,
}

/// The options as they come. The last one of a kind counts.
#[derive(Debug, Default)]
pub(super) struct MachineOptions {
    machine: Option<String>,
    memory: Option<u64>,
    cpus: Option<u8>,
    kernel: Option<(String, PathBuf)>,
    initrd: Option<(String, PathBuf)>,
    append: Option<(String, String)>,
    serial: Option<(String, SerialTarget)>,
    no_reboot: bool,
    paused: bool,
    /// The first option that means nothing without a machine.
    first: Option<String>,
}

/// Whether `name` is an option of a machine that has an argument.
pub(super) fn is_option(name: &str) -> bool {
    matches!(
        name,
        "machine" | "M" | "m" | "smp" | "kernel" | "initrd" | "append" | "serial"
    )
}

impl MachineOptions {
    /// Takes one option in; returns the text to print if the option asks for help.
    pub(super) fn add(
        &mut self,
        name: &str,
        value: &str,
        place: &str,
    ) -> Result<Option<String>, Failure> {
        let failed = |error: Error| Failure::at(place, &error);
        if matches!(name, "machine" | "M") {
            return self.add_machine(value, place);
        }
        self.first.get_or_insert_with(|| place.to_owned());
        match name {
            "m" => self.memory = Some(memory(value, place)?),
            "smp" => self.cpus = Some(cpus(value).map_err(failed)?),
            "kernel" => self.kernel = Some((place.to_owned(), value.into())),
            "initrd" => self.initrd = Some((place.to_owned(), value.into())),
            "append" => self.append = Some((place.to_owned(), value.to_owned())),
            _ => self.serial = Some((place.to_owned(), serial(value, place)?)),
        }
        Ok(None)
    }

    /// Takes in an option without argument. False if it is none of the machine's.
    pub(super) fn set(&mut self, name: &str) -> bool {
        match name {
            "no-reboot" => self.no_reboot = true,
            "S" => self.paused = true,
            _ => return false,
        }
        self.first.get_or_insert_with(|| format!("-{name}"));
        true
    }

    fn add_machine(&mut self, value: &str, place: &str) -> Result<Option<String>, Failure> {
        let failed = |error: Error| Failure::at(place, &error);
        let mut options = options::parse(Some("type"), value).map_err(failed)?;
        if options.wants_help() {
            return Ok(Some(TYPES.to_owned()));
        }
        let name = options.need_str("type").map_err(failed)?;
        let accel = options.take_str("accel").map_err(failed)?;
        options.finish().map_err(failed)?;
        if name != TYPE {
            let message = format!("unsupported machine type: \"{name}\"");
            return Err(Failure::new(place, message).with_hint(TYPE_HINT));
        }
        if let Some(accel) = accel.filter(|accel| accel != "kvm") {
            let message = format!("invalid accelerator {accel}, expected kvm");
            return Err(Failure::new(place, message));
        }
        self.machine = Some(place.to_owned());
        Ok(None)
    }

    /// The machine, if there is to be one. Its serial port leads to standard input and output unless that is taken.
    pub(super) fn finish(self, stdio_is_taken: bool) -> Result<Option<MachinePlan>, Failure> {
        let initrd = self.initrd.as_ref().map(|(place, _)| place);
        let append = self.append.as_ref().map(|(place, _)| place);
        if let (None, Some(place)) = (&self.kernel, initrd.or(append)) {
            return Err(Failure::new(place, "only allowed with -kernel"));
        }
        let Some(machine) = self.machine else {
            let alone = |place| {
                Err(Failure::new(
                    place,
                    "needs a machine, add '-machine microvm'",
                ))
            };
            return self.first.map_or(Ok(None), alone);
        };
        let Some(kernel) = self.kernel else {
            return Err(Failure::new(
                machine,
                "has nothing to boot, add '-kernel FILE'",
            ));
        };
        let default = match stdio_is_taken {
            true => SerialTarget::None,
            false => SerialTarget::Stdio,
        };
        let serial = self.serial.unwrap_or(("-serial".to_owned(), default));
        if stdio_is_taken && serial.1 == SerialTarget::Stdio {
            let message = "standard input and output belong to '-qmp stdio'";
            return Err(Failure::new(serial.0, message));
        }
        Ok(Some(MachinePlan {
            place: machine,
            options: microvm::MicroVmOptions {
                cpus: self.cpus.unwrap_or(1),
                memory: self.memory.unwrap_or(MEMORY_DEFAULT),
                reboot: !self.no_reboot,
            },
            kernel,
            initrd: self.initrd,
            append: self.append,
            serial,
            paused: self.paused,
        }))
    }
}

/// `[size=]SIZE`, in MiB if there is no suffix, rounded up to whole pages.
fn memory(value: &str, place: &str) -> Result<u64, Failure> {
    let failed = |error: Error| Failure::at(place, &error);
    let wrong = |message: String| Failure::new(place, message).with_hint(SIZE_HINT);
    let mut options = options::parse(Some("size"), value).map_err(failed)?;
    let plain = options
        .peek("size")
        .and_then(|size| size.parse::<u64>().ok());
    let size = match plain {
        Some(mebibytes) => options.take("size").and(mebibytes.checked_mul(MIB)),
        None => options
            .take_size("size")
            .map_err(|error| wrong(error.to_string()))?,
    };
    options.finish().map_err(failed)?;
    let size = size.filter(|size| (1..=MEMORY_MAX).contains(size));
    let size =
        size.ok_or_else(|| wrong("invalid RAM size, expected 1 byte to 256 TiB".to_owned()))?;
    Ok(size.next_multiple_of(PAGE))
}

/// `[cpus=]N`
fn cpus(value: &str) -> Result<u8> {
    let mut options = options::parse(Some("cpus"), value)?;
    let count = options.take_uint("cpus", 1..=CPUS_MAX.into())?;
    options.finish()?;
    let count = count.ok_or_else(|| options::missing("cpus"))?;
    Ok(u8::try_from(count).unwrap_or(CPUS_MAX))
}

fn serial(value: &str, place: &str) -> Result<SerialTarget, Failure> {
    match (value, value.strip_prefix("file:")) {
        ("stdio", _) => Ok(SerialTarget::Stdio),
        ("none", _) => Ok(SerialTarget::None),
        (_, Some(path)) if !path.is_empty() => Ok(SerialTarget::File(path.into())),
        _ => Err(Failure::new(
            place,
            "expects 'stdio', 'file:PATH' or 'none'",
        )),
    }
}
