//! One queue's part of an image that is only read.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::file::ImageFile;
use super::tables::ImageTables;
use super::{BlockMap, Content, MappedImage, corrupt};
use crate::block::gate::Gate;
use crate::block::request::{Finished, Op, Request};
use crate::block::status::BlockStatus;
use crate::block::way::Way;
use crate::block::way::task::{Layer, Task, TaskWay};

/// See the head of this file.
#[derive(Debug)]
pub(super) struct MappedLayer<M> {
    image: Arc<MappedImage<M>>,
    files: Vec<ImageFile>,
}

impl<M: BlockMap> MappedLayer<M> {
    pub(super) fn open(image: &Arc<MappedImage<M>>, gate: &Arc<Gate>) -> Way {
        TaskWay::open(gate, |new| {
            let files = image.files.iter().map(|file| ImageFile::open(file, new));
            Arc::new(MappedLayer {
                files: files.collect(),
                image: Arc::clone(image),
            })
        })
    }

    async fn read(&self, request: &mut Request) -> io::Result<()> {
        while request.remaining() > 0 {
            self.read_some(request).await?;
        }
        Ok(())
    }

    /// Reads up to the end of an extent.
    async fn read_some(&self, request: &mut Request) -> io::Result<()> {
        let tables = ImageTables::new(&self.image.tables, &self.files);
        let extent = self.image.map.find(&tables, request.position()).await?;
        let count = extent.length.min(request.remaining());
        if count == 0 {
            return Err(corrupt("data behind the end of the disk"));
        }
        match extent.content {
            Content::Zeroes => request.fill_with_zeroes(count),
            Content::Plain { file, offset } => {
                let file = self.file(file)?;
                file.read_into(request, count, offset).await?;
            }
            Content::Packed { grain, skip } => {
                let file = self.file(grain.file)?;
                let bytes = self.image.unpacked.read(&grain, file).await?;
                let skip = usize::try_from(skip).map_err(io::Error::other)?;
                let len = usize::try_from(count).map_err(io::Error::other)?;
                let end = skip.checked_add(len);
                let piece = end.and_then(|end| bytes.get(skip..end));
                request.scatter(piece.ok_or_else(|| corrupt("a compressed grain is too short"))?);
                request.advance(count);
            }
        }
        Ok(())
    }

    /// Says what the range is up to the end of an extent.
    async fn status(&self, request: &mut Request) -> io::Result<()> {
        let tables = ImageTables::new(&self.image.tables, &self.files);
        let extent = self.image.map.find(&tables, request.offset).await?;
        let length = extent.length.min(request.length);
        if length == 0 {
            return Err(corrupt("data behind the end of the disk"));
        }
        request.set_status(match extent.content {
            Content::Zeroes => BlockStatus::zeroes(length),
            Content::Plain { .. } | Content::Packed { .. } => BlockStatus::data(length),
        });
        Ok(())
    }

    fn file(&self, index: usize) -> io::Result<&ImageFile> {
        let file = self.files.get(index);
        file.ok_or_else(|| corrupt("data in no file of the image"))
    }

    /// The errno of a failed request. The first one of an image is reported.
    fn errno(&self, request: &Request, error: &io::Error) -> i32 {
        self.image.report(request, error);
        -error.raw_os_error().unwrap_or(libc::EIO)
    }
}

impl<M: BlockMap> Layer for MappedLayer<M> {
    fn run(self: Arc<Self>, mut request: Box<Request>) -> Task {
        Box::pin(async move {
            let result = match request.op {
                Op::Read => match self.read(&mut request).await {
                    Ok(()) => 0,
                    Err(error) => self.errno(&request, &error),
                },
                Op::BlockStatus => match self.status(&mut request).await {
                    Ok(()) => 0,
                    Err(error) => self.errno(&request, &error),
                },
                Op::Flush => 0,
                Op::Write | Op::Discard | Op::WriteZeroes { .. } | Op::Populate => -libc::EPERM,
            };
            Finished { request, result }
        })
    }
}
