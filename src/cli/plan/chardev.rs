//! Monitors and their character devices: `-chardev`, `-monitor`, `-qmp`.
#![forbid(unsafe_code)]

use std::time::Duration;

use qcontext::monitor::{Chardev, ChardevAddress, ChardevBackend};
use qcontext::object::Options;
use qcontext::object::options;
use qcontext::schema::{self, EnumType, Member, ObjectType, ValueType};
use qcontext::{Error, ErrorKind, Result};

/// One `-qmp` or `-monitor`.
#[derive(Debug)]
pub(in crate::cli) struct MonitorPlan {
    /// `-qmp unix:...`, for messages.
    pub(in crate::cli) place: String,
    pub(in crate::cli) chardev: Chardev,
    /// The program waits for a client.
    pub(in crate::cli) wait: bool,
}

const BACKENDS: &str = "Available chardev backend types: \n  socket\n  stdio\n";

static MONITOR_OPTIONS: ObjectType = ObjectType::new(
    "MonitorOptions",
    &[
        Member::optional("id", ValueType::Str),
        Member::optional(
            "mode",
            ValueType::Enum(EnumType::new("MonitorMode", &["control"])),
        ),
        Member::optional("pretty", ValueType::Bool),
        Member::new("chardev", ValueType::Str),
    ],
);

/// The character devices so far, each with its monitor if it has one.
#[derive(Debug, Default)]
pub(super) struct ChardevOptions {
    known: Vec<WantedChardev>,
    /// The uses by monitors, in their order: index of the device, place.
    used: Vec<(usize, String)>,
}

#[derive(Debug)]
struct WantedChardev {
    chardev: Chardev,
    wait: bool,
    is_used: bool,
}

impl ChardevOptions {
    /// Takes a `-chardev` in. Returns the text to print if it asks for help.
    pub(super) fn add(&mut self, value: &str) -> Result<Option<String>> {
        let mut options = options::parse(Some("backend"), value)?;
        if options.wants_help() {
            return Ok(Some(BACKENDS.to_owned()));
        }
        let id = options.take_str("id")?;
        let id = id.ok_or_else(|| missing("chardev: no id specified"))?;
        if self.known.iter().any(|known| known.chardev.id == id) {
            let message =
                format!("attempt to add duplicate property '{id}' to object (type 'container')");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let (backend, wait) = backend(&mut options)?;
        options.finish()?;
        self.known.push(WantedChardev {
            chardev: Chardev {
                id,
                backend,
                is_pretty: false,
            },
            wait,
            is_used: false,
        });
        Ok(None)
    }

    /// Takes a `-monitor` in.
    pub(super) fn use_by_monitor(&mut self, value: &str, place: &str) -> Result<()> {
        let options = options::parse_dotted("chardev", value)?;
        let mut options = schema::check(&MONITOR_OPTIONS, options)?;
        let name = options.need_str("chardev")?;
        let index = self.known.iter().position(|known| known.chardev.id == name);
        let index = index.ok_or_else(|| {
            let message = format!("chardev \"{name}\" not found");
            Error::new(ErrorKind::NotFound, message)
        })?;
        let known = &mut self.known[index];
        if std::mem::replace(&mut known.is_used, true) {
            let message = format!("chardev '{name}' is already in use");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        known.chardev.is_pretty = options.take_bool("pretty")?.unwrap_or(false);
        self.used.push((index, place.to_owned()));
        Ok(())
    }

    /// The monitors, in the order of the command line.
    pub(super) fn into_monitors(self) -> Vec<MonitorPlan> {
        let known = self.known;
        let plan = |(index, place): (usize, String)| MonitorPlan {
            place,
            chardev: known[index].chardev.clone(),
            wait: known[index].wait,
        };
        self.used.into_iter().map(plan).collect()
    }
}

/// What a `-chardev` is, and whether to wait for a client.
fn backend(options: &mut Options) -> Result<(ChardevBackend, bool)> {
    match options.take_str("backend")?.as_deref() {
        Some("stdio") => {
            // Signals of a terminal are the program's.
            options.take_bool("signal")?;
            Ok((ChardevBackend::Stdio, false))
        }
        Some("socket") => socket(options),
        Some(other) => {
            let message = format!("'{other}' is not a valid char driver name");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
        None => Err(missing("chardev: \"backend\" is missing")),
    }
}

fn socket(options: &mut Options) -> Result<(ChardevBackend, bool)> {
    let address = address(options)?;
    let server = options.take_bool("server")?.unwrap_or(false);
    let wait = options.take_bool("wait")?;
    let reconnect = reconnect(options)?;
    if server && reconnect.is_some() {
        return Err(invalid(
            "'reconnect' option is incompatible with socket in server listen mode",
        ));
    }
    if !server && wait.is_some() {
        return Err(invalid(
            "'wait' option is incompatible with socket in client connect mode",
        ));
    }
    Ok(match server {
        true => (ChardevBackend::Server(address), wait.unwrap_or(true)),
        false => (ChardevBackend::Client(address, reconnect), false),
    })
}

fn address(options: &mut Options) -> Result<ChardevAddress> {
    let (path, host) = (options.take_str("path")?, options.take_str("host")?);
    let port = options.take_uint("port", 0..=u16::MAX.into())?;
    match (path, host, port) {
        (Some(path), None, None) => Ok(ChardevAddress::Unix(path.into())),
        (None, host, Some(port)) => Ok(ChardevAddress::Inet {
            host: host
                .filter(|host| !host.is_empty())
                .unwrap_or_else(|| "0.0.0.0".to_owned()),
            port: u16::try_from(port).unwrap_or(0),
        }),
        (None, Some(_), None) => Err(missing("chardev: socket: no port given")),
        (None, None, None) => Err(missing("chardev: socket: no path and no port given")),
        _ => Err(invalid(
            "chardev: socket: either path or host and port, not both",
        )),
    }
}

/// `reconnect` is in seconds; 0 means never.
fn reconnect(options: &mut Options) -> Result<Option<Duration>> {
    let milliseconds = options.take_uint("reconnect-ms", 0..=u32::MAX.into())?;
    let seconds = options.take_uint("reconnect", 0..=u32::MAX.into())?;
    let pause = match (milliseconds, seconds) {
        (Some(_), Some(_)) => {
            let message = "'reconnect' and 'reconnect-ms' are mutually exclusive";
            return Err(invalid(message));
        }
        (Some(milliseconds), None) => Some(Duration::from_millis(milliseconds)),
        (None, Some(seconds)) => Some(Duration::from_secs(seconds)),
        (None, None) => None,
    };
    Ok(pause.filter(|pause| !pause.is_zero()))
}

/// The monitor of the `number`th `-qmp`.
pub(super) fn qmp(value: &str, number: usize, place: &str) -> Result<MonitorPlan> {
    Ok(MonitorPlan {
        place: place.to_owned(),
        chardev: Chardev {
            id: format!("compat_monitor{number}"),
            backend: qmp_backend(value)?,
            is_pretty: false,
        },
        wait: false,
    })
}

fn qmp_backend(value: &str) -> Result<ChardevBackend> {
    if value == "stdio" {
        return Ok(ChardevBackend::Stdio);
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
    Ok(ChardevBackend::Server(ChardevAddress::Unix(path.into())))
}

fn unsupported(message: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

fn missing(message: &'static str) -> Error {
    Error::new(ErrorKind::MissingArgument, message)
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
