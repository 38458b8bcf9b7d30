//! Reads the command line: what is to be made and served, in the order in which it is made.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use qcontext::object::Options;
use qcontext::object::options::{self, Form};
use qcontext::{Error, ErrorKind, Result};

use super::failure::Failure;
use super::help;

mod machine;

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

/// What to serve; each list in command-line order. Objects are made first, then block devices, drives, devices and exports;
/// the monitors come last.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) objects: Vec<PlannedObject>,
    pub(super) blockdevs: Vec<PlannedObject>,
    pub(super) drives: Vec<PlannedObject>,
    pub(super) devices: Vec<PlannedObject>,
    pub(super) exports: Vec<PlannedObject>,
    pub(super) monitors: Vec<MonitorPlan>,
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

/// One `-qmp`.
#[derive(Debug)]
pub(super) struct MonitorPlan {
    /// `-qmp unix:...`, for messages.
    pub(super) place: String,
    pub(super) channel: MonitorChannel,
}

/// Where a monitor is reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MonitorChannel {
    Stdio,
    Unix(PathBuf),
}

/// Parses the command line.
pub(super) fn parse(arguments: &[String]) -> Result<Invocation, Failure> {
    let mut plan = Plan::default();
    let mut machine = machine::MachineOptions::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(name) = option_name(argument) else {
            return Err(Failure::new(argument, "unknown command").with_hint(help::HINT));
        };
        match name {
            "h" | "help" | "?" => return Ok(Invocation::Print(help::text())),
            "V" | "version" => return Ok(Invocation::Print(help::version())),
            "object" | "drive" | "blockdev" | "device" | "export" | "qmp" => {}
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
        match plan.add(name, value, &place) {
            Ok(None) => {}
            Ok(Some(text)) => return Ok(Invocation::Print(text)),
            Err(error) => return Err(Failure::at(place, &error)),
        }
    }
    if arguments.is_empty() {
        return Ok(Invocation::Demonstrate);
    }
    let stdio_is_taken = plan
        .monitors
        .iter()
        .any(|monitor| monitor.channel == MonitorChannel::Stdio);
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
        if name == "qmp" {
            self.monitors.push(MonitorPlan {
                place: place.to_owned(),
                channel: channel(value)?,
            });
            return Ok(None);
        }
        let options = match name {
            "object" => options::parse(Some("qom-type"), value)?,
            "device" => options::parse(Some("driver"), value)?,
            "drive" => options::parse(None, value)?,
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

    fn list(&mut self, name: &str) -> (&mut Vec<PlannedObject>, &'static str) {
        match name {
            "object" => (&mut self.objects, "object"),
            "device" => (&mut self.devices, "device"),
            "drive" => (&mut self.drives, "drive"),
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

fn channel(value: &str) -> Result<MonitorChannel> {
    if value == "stdio" {
        return Ok(MonitorChannel::Stdio);
    }
    let Some(address) = value.strip_prefix("unix:") else {
        return Err(unsupported(
            "expects 'stdio' or 'unix:PATH,server=on,wait=off'",
        ));
    };
    let mut options = options::parse(Some("path"), address)?;
    let path = options.need_str("path")?;
    let server = options.take_bool("server")?.unwrap_or(false);
    let wait = options.take_bool("wait")?.unwrap_or(false);
    options.finish()?;
    if !server {
        return Err(unsupported("cannot connect to a client, add 'server=on'"));
    }
    if wait {
        return Err(unsupported("cannot wait for a client, use 'wait=off'"));
    }
    Ok(MonitorChannel::Unix(path.into()))
}

fn unsupported(message: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests;
