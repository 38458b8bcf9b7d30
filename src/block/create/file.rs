//! Makes a file.
//!
//! A file that is there already is made empty first. No other program may be using it. The options `nocow` and `extent-size-hint`
//! are hints to file systems, and not taken.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use super::Creator;
use super::preallocation::{PREALLOCATION, Preallocation};
use crate::block::image::{lock_for_writing, reserve};
use crate::job::{JobWork, RunningJob, WorkFuture};
use crate::object::Options;
use crate::schema::{Member, ValueType};
use crate::{Error, ErrorKind, Result};

pub(super) const CREATOR: Creator = Creator {
    driver: "file",
    members: &[
        Member::new("filename", ValueType::Str),
        Member::new("size", ValueType::Size),
        Member::optional("preallocation", ValueType::Enum(PREALLOCATION)),
        Member::optional("nocow", ValueType::Bool),
        Member::optional("extent-size-hint", ValueType::Size),
    ],
    work,
};

/// How much is reserved or written at once. A cancellation waits no longer.
const RESERVED: u64 = 64 << 20;
const WRITTEN: u64 = 1 << 20;

#[derive(Debug)]
struct CreateFile {
    path: String,
    size: u64,
    preallocation: Preallocation,
}

fn work(mut options: Options, _: &str) -> Result<Arc<dyn JobWork>> {
    Ok(Arc::new(CreateFile {
        path: options.need_str("filename")?,
        size: options.take_size("size")?.unwrap_or(0),
        preallocation: Preallocation::take(&mut options)?,
    }))
}

impl JobWork for CreateFile {
    fn run(self: Arc<Self>, control: Arc<RunningJob>) -> WorkFuture {
        Box::pin(async move {
            control.add_total(1);
            let made = self.make(&control).await;
            control.add_done(1);
            made
        })
    }
}

/// Makes an empty file, which no other program may be using. It blocks the thread.
///
/// # Errors
/// The host's; `Busy` if it is used.
pub(in crate::block) fn make_file(path: &str) -> Result<File> {
    let new = CreateFile {
        path: path.to_owned(),
        size: 0,
        preallocation: Preallocation::Off,
    };
    new.open()
}

impl CreateFile {
    async fn make(self: &Arc<Self>, control: &RunningJob) -> Result<()> {
        if self.preallocation == Preallocation::Metadata {
            let message = "Unsupported preallocation mode: metadata";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let this = Arc::clone(self);
        let opened = control.aio().run_in_pool(move || this.open());
        let file = Arc::new(opened.await??);
        let step = match self.preallocation {
            Preallocation::Off | Preallocation::Metadata => return Ok(()),
            Preallocation::Falloc => RESERVED,
            Preallocation::Full => WRITTEN,
        };
        let mut offset = 0;
        while offset < self.size && !control.is_cancelled() {
            control.pause_point().await;
            let (work, part) = (Arc::clone(self), Arc::clone(&file));
            let length = step.min(self.size - offset);
            let taken = control
                .aio()
                .run_in_pool(move || work.take_space(&part, offset, length));
            taken.await??;
            offset += length;
        }
        Ok(())
    }

    /// Makes the file, with its length. On a worker.
    fn open(&self) -> Result<File> {
        let failed = |error| Error::os(format!("Could not create '{}'", self.path), error);
        // Opening a FIFO would wait for its other end.
        if std::fs::metadata(&self.path).is_ok_and(|known| !known.is_file()) {
            return Err(failed(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o644).custom_flags(libc::O_NONBLOCK);
        let file = file.open(&self.path).map_err(failed)?;
        lock_for_writing(&file, &self.path)?;
        let resized = file.set_len(0).and_then(|()| file.set_len(self.size));
        resized.map_err(|error| Error::os("Could not resize file", error))?;
        Ok(file)
    }

    /// Takes the space of a range. On a worker.
    fn take_space(&self, file: &File, offset: u64, length: u64) -> Result<()> {
        let taken = match self.preallocation {
            Preallocation::Full => write_zeroes(file, offset, length),
            _ => reserve(file, offset, length),
        };
        taken.map_err(|error| Error::os("Could not preallocate data for the new file", error))
    }
}

fn write_zeroes(file: &File, offset: u64, length: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let zeroes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.write_all_at(&zeroes, offset)
}
