//! The two byte streams of a client.
#![forbid(unsafe_code)]

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
