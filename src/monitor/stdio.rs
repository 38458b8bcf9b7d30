//! Standard input and output as a client. While they are a terminal and the program is in its background, the client is not read from.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gio::prelude::*;

use super::stream::Stream;
use crate::{Error, Result};

/// A pipe that polls as writable takes at least this many bytes without blocking.
const PIPE_CHUNK: usize = 4096;

pub(super) fn stream() -> Result<Stream> {
    let input = duplicate(io::stdin().as_fd())?;
    let terminal = input.is_terminal().then(|| duplicate(input.as_fd()));
    let output = duplicate(io::stdout().as_fd())?;
    Ok(Stream {
        input: gio_unix::InputStream::take_fd(input).upcast(),
        output: gio_unix::OutputStream::take_fd(output).upcast(),
        chunk: PIPE_CHUNK,
        owner: None,
        terminal: terminal.transpose()?,
    })
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned()
        .map_err(|error| Error::os("cannot use standard input and output", error))
}
