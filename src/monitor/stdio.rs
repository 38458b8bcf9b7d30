//! Standard input and output as a client.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gio::prelude::*;

use super::stream::Stream;
use crate::{Error, Result};

/// A pipe that polls as writable takes at least this many bytes without blocking.
const PIPE_CHUNK: usize = 4096;

pub(super) fn stream() -> Result<Stream> {
    let input = duplicate(io::stdin().as_fd())?;
    let output = duplicate(io::stdout().as_fd())?;
    Ok(Stream {
        input: gio_unix::InputStream::take_fd(input).upcast(),
        output: gio_unix::OutputStream::take_fd(output).upcast(),
        chunk: PIPE_CHUNK,
        owner: None,
    })
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned()
        .map_err(|error| Error::os("cannot use standard input and output", error))
}
