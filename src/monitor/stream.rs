//! The two byte streams of a client, and the sources that wait for them.
#![forbid(unsafe_code)]

use gio::prelude::*;

/// Where a session reads and writes.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) input: gio::PollableInputStream,
    pub(super) output: gio::PollableOutputStream,
    /// The largest single write that cannot block.
    pub(super) chunk: usize,
    /// Closes both directions when the session ends.
    pub(super) owner: Option<gio::IOStream>,
}

impl Stream {
    /// The streams of a socket.
    pub(super) fn of(connection: gio::SocketConnection) -> Option<Stream> {
        Some(Stream {
            input: connection.input_stream().dynamic_cast().ok()?,
            output: connection.output_stream().dynamic_cast().ok()?,
            chunk: usize::MAX,
            owner: Some(connection.upcast()),
        })
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
