//! A QMP client that executes one command at a time.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use qcontext::json::{self, Framer, ValueLimits};
use qcontext::object::Value;
use qcontext::{Error, ErrorKind, Result};

/// A negotiated connection to a running `qctx`.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    framer: Framer,
    /// Received bytes that are not framed yet.
    pending: Vec<u8>,
}

impl Client {
    /// Connects to the socket and negotiates.
    pub(super) fn connect(socket: &str) -> Result<Client> {
        let path = socket.strip_prefix("unix:").unwrap_or(socket);
        let stream = UnixStream::connect(path)
            .map_err(|error| Error::os(format!("cannot connect to '{socket}'"), error))?;
        let mut client = Client {
            stream,
            framer: Framer::new(ValueLimits {
                bytes: 64 << 20,
                depth: 1024,
                tokens: 8 << 20,
            }),
            pending: Vec::new(),
        };
        if client.receive()?.member("QMP").is_none() {
            return Err(protocol("the server does not speak QMP"));
        }
        client.execute("qmp_capabilities", Value::empty())?;
        Ok(client)
    }

    /// Executes a command and waits for its answer.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = Value::dict([("execute", command.into()), ("arguments", arguments)]);
        let mut text = json::to_string(&request);
        text.push('\n');
        self.stream.write_all(text.as_bytes()).map_err(lost)?;
        loop {
            let answer = self.receive()?;
            if let Some(error) = answer.member("error") {
                return Err(refusal(error));
            }
            // Anything else is an event.
            if let Some(value) = answer.member("return") {
                return Ok(value.clone());
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        loop {
            let mut rest = self.pending.as_slice();
            let frame = self.framer.feed(&mut rest);
            let framed = self.pending.len() - rest.len();
            self.pending.drain(..framed);
            if let Some(frame) = frame {
                return frame;
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk).map_err(lost)? {
                0 => return Err(protocol("the server closed the connection")),
                count => self.pending.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

/// The server's error as one of ours. The classes that callers distinguish are kept.
fn refusal(error: &Value) -> Error {
    let text = |name| error.member(name).and_then(Value::as_str);
    let kind = match text("class") {
        Some("DeviceNotFound") => ErrorKind::DeviceNotFound,
        Some("DeviceNotActive") => ErrorKind::DeviceNotActive,
        Some("CommandNotFound") => ErrorKind::CommandNotFound,
        _ => ErrorKind::InvalidArgument,
    };
    Error::new(kind, text("desc").unwrap_or("unknown error").to_owned())
}

fn lost(error: io::Error) -> Error {
    Error::os("lost the connection", error)
}

fn protocol(message: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, message)
}
