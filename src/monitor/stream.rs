//! The two byte streams of a client, and the sources that wait for them.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use gio::prelude::*;

use crate::foreground::{is_foreground, read_unstopped};

/// How often a session whose terminal is in another foreground looks at it.
const FOREGROUND: Duration = Duration::from_millis(250);

/// Where a session reads and writes.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) input: gio::PollableInputStream,
    pub(super) output: gio::PollableOutputStream,
    /// The largest single write that cannot block.
    pub(super) chunk: usize,
    /// Closes both directions when the session ends.
    pub(super) owner: Option<gio::IOStream>,
    /// The input, if it may be a terminal.
    pub(super) terminal: Option<OwnedFd>,
}

impl Stream {
    /// The streams of a socket.
    pub(super) fn of(connection: gio::SocketConnection) -> Option<Stream> {
        Some(Stream {
            input: connection.input_stream().dynamic_cast().ok()?,
            output: connection.output_stream().dynamic_cast().ok()?,
            chunk: usize::MAX,
            owner: Some(connection.upcast()),
            terminal: None,
        })
    }

    /// Whether the input is a terminal whose foreground is another process group's. It must not be read then.
    pub(super) fn is_away(&self) -> bool {
        let terminal = self.terminal.as_ref();
        terminal.is_some_and(|terminal| !is_foreground(terminal.as_raw_fd()))
    }

    /// Reads what is there, and never stops the process.
    pub(super) fn read(&self, bytes: &mut [u8]) -> Result<usize, glib::Error> {
        let mut read = || {
            let count = self
                .input
                .read_nonblocking(bytes, None::<&gio::Cancellable>)?;
            Ok(usize::try_from(count).unwrap_or(0))
        };
        match self.terminal {
            Some(_) => read_unstopped(read),
            None => read(),
        }
    }

    /// A source that calls `action` from time to time, to look whether the terminal is back.
    pub(super) fn returning_source(
        action: impl Fn() -> glib::ControlFlow + Send + 'static,
    ) -> glib::Source {
        let name = Some("qcontext-monitor-foreground");
        glib::timeout_source_new(FOREGROUND, name, glib::Priority::DEFAULT, action)
    }

    /// A source that calls `action` while the input is readable.
    pub(super) fn reading_source(
        &self,
        action: impl Fn() -> glib::ControlFlow + 'static,
    ) -> glib::Source {
        self.input.create_source(
            None::<&gio::Cancellable>,
            Some("qcontext-monitor-read"),
            glib::Priority::DEFAULT,
            move |_| action(),
        )
    }

    /// A source that calls `action` while the output is writable.
    pub(super) fn writing_source(
        &self,
        action: impl Fn() -> glib::ControlFlow + 'static,
    ) -> glib::Source {
        self.output.create_source(
            None::<&gio::Cancellable>,
            Some("qcontext-monitor-write"),
            glib::Priority::DEFAULT,
            move |_| action(),
        )
    }
}
