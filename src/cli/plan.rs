//! Reads the command line: what is to be made and served, in the order in which it is made.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use qcontext::monitor::ChardevBackend;
use qcontext::object::Options;
use qcontext::object::options::{self, Form};
use qcontext::{Error, ErrorKind, Result};

use super::failure::Failure;
use super::help;

mod chardev;
mod machine;

use chardev::{ChardevOptions, MonitorPlan};
pub(super) use machine::{MachinePlan, SerialTarget};

/// What a command line without subcommand does.
#[derive(Debug)]
pub(super) enum Invocation {
    /// Print this text and end.
    Print(String),
    /// Run the demonstration.
    Demonstrate,
    /// Serve this plan.
    Run(Box<Plan>),
}

/// What to serve; each list in command-line order. Objects are made first, then block devices, drives, devices, the NBD
/// server and exports; the monitors come last.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The only folders with files that images may name, if there are any.
    pub(super) image_folders: Vec<PlannedFolder>,
    pub(super) objects: Vec<PlannedObject>,
    pub(super) blockdevs: Vec<PlannedObject>,
    pub(super) drives: Vec<PlannedObject>,
    pub(super) devices: Vec<PlannedObject>,
    pub(super) nbd_servers: Vec<PlannedObject>,
    pub(super) exports: Vec<PlannedObject>,
    pub(super) monitors: Vec<MonitorPlan>,
    /// The file that gets the process id when everything is ready.
    pub(super) pidfile: Option<(String, PathBuf)>,
    /// The process goes into the background when everything is ready.
    pub(super) daemonize: bool,
    /// The machine that the devices are in, if there is one.
    pub(super) machine: Option<MachinePlan>,
}

/// One option that makes something, with its argument.
#[derive(Debug)]
pub(super) struct PlannedObject {
    /// `-object qcontext,id=ctx1`, for messages.
    pub(super) place: String,
    pub(super) options: Options,
}

/// One `-image-folder`.
#[derive(Debug)]
pub(super) struct PlannedFolder {
    /// For messages.
    pub(super) place: String,
    pub(super) path: PathBuf,
}

/// Parses the command line.
pub(super) fn parse(arguments: &[String]) -> Result<Invocation, Failure> {
    let mut plan = Plan::default();
    let mut machine = machine::MachineOptions::default();
    let mut chardevs = ChardevOptions::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(name) = option_name(argument) else {
            return Err(Failure::new(argument, "unknown command").with_hint(help::HINT));
        };
        match name {
            "h" | "help" | "?" => return Ok(Invocation::Print(help::text())),
            "V" | "version" => return Ok(Invocation::Print(help::version())),
            "daemonize" => {
                plan.daemonize = true;
                continue;
            }
            "object" | "drive" | "blockdev" | "device" | "nbd-server" | "export" | "qmp"
            | "chardev" | "monitor" | "pidfile" | "image-folder" => {}
            "T" | "trace" => {
                let message = "is not supported: the program has no trace events";
                return Err(Failure::new(argument, message));
            }
            name if machine.set(name) => continue,
            name if machine::is_option(name) => {}
            _ => return Err(Failure::new(argument, "invalid option").with_hint(help::HINT)),
        }
        let value = rest
            .next()
            .ok_or_else(|| Failure::new(argument, "requires an argument"))?;
        let place = format!("-{name} {value}");
        if machine::is_option(name) {
            match machine.add(name, value, &place) {
                Ok(None) => continue,
                Ok(Some(text)) => return Ok(Invocation::Print(text)),
                Err(failure) => return Err(failure),
            }
        }
        let added = match name {
            "chardev" => chardevs.add(value),
            "monitor" => chardevs.use_by_monitor(value, &place).map(|()| None),
            _ => plan.add(name, value, &place),
        };
        match added {
            Ok(None) => {}
            Ok(Some(text)) => return Ok(Invocation::Print(text)),
            Err(error) => return Err(Failure::at(place, &error)),
        }
    }
    plan.monitors.append(&mut chardevs.into_monitors());
    if arguments.is_empty() {
        return Ok(Invocation::Demonstrate);
    }
    let stdio_is_taken = plan
        .monitors
        .iter()
        .any(|monitor| monitor.chardev.backend == ChardevBackend::Stdio);
    plan.check_standard_streams(stdio_is_taken)?;
    plan.machine = machine.finish(stdio_is_taken)?;
    Ok(Invocation::Run(Box::new(plan)))
}

/// The name in `-name` or `--name`.
fn option_name(argument: &str) -> Option<&str> {
    let name = argument.strip_prefix('-')?;
    Some(name.strip_prefix('-').unwrap_or(name))
}

impl Plan {
    /// Takes in one option. Returns the text to print if the option asks for help.
    fn add(&mut self, name: &str, value: &str, place: &str) -> Result<Option<String>> {
        match name {
            "qmp" => {
                let number = self.monitors.len();
                self.monitors.push(chardev::qmp(value, number, place)?);
                return Ok(None);
            }
            "image-folder" => {
                self.image_folders.push(PlannedFolder {
                    place: place.to_owned(),
                    path: value.into(),
                });
                return Ok(None);
            }
            "pidfile" => {
                self.pidfile = Some((place.to_owned(), value.into()));
                return Ok(None);
            }
            _ => {}
        }
        let options = match name {
            "object" => options::parse(Some("qom-type"), value)?,
            "device" => options::parse(Some("driver"), value)?,
            "drive" => options::parse(None, value)?,
            "nbd-server" => options::parse_dotted("addr", value)?,
            "export" => options::parse_dotted("type", value)?,
            _ => options::parse_dotted("driver", value)?,
        };
        if options.wants_help() {
            return Ok(Some(help::of(name, &options)));
        }
        let (list, what) = self.list(name);
        check_new_id(list, &options, what)?;
        list.push(PlannedObject {
            place: place.to_owned(),
            options,
        });
        Ok(None)
    }

    /// Checks that the monitor does not use what is gone in the background.
    fn check_standard_streams(&self, stdio_is_taken: bool) -> Result<(), Failure> {
        if self.daemonize && stdio_is_taken {
            let message = "a monitor on standard input and output cannot go into the background";
            return Err(Failure::new("-daemonize", message));
        }
        Ok(())
    }

    fn list(&mut self, name: &str) -> (&mut Vec<PlannedObject>, &'static str) {
        match name {
            "object" => (&mut self.objects, "object"),
            "device" => (&mut self.devices, "device"),
            "drive" => (&mut self.drives, "drive"),
            "nbd-server" => (&mut self.nbd_servers, "nbd-server"),
            "export" => (&mut self.exports, "export"),
            _ => (&mut self.blockdevs, "blockdev"),
        }
    }
}

/// Checks the id of an option string before anything is created.
fn check_new_id(list: &[PlannedObject], options: &Options, what: &str) -> Result<()> {
    let Some(id) = options.peek("id").filter(|_| options.form() == Form::Opts) else {
        return Ok(());
    };
    options::check_id(id, "id")?;
    let same = |item: &PlannedObject| {
        item.options.form() == Form::Opts && item.options.peek("id") == Some(id)
    };
    if !list.iter().any(same) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::AlreadyExists,
        format!("Duplicate ID '{id}' for {what}"),
    ))
}

#[cfg(test)]
mod tests;
