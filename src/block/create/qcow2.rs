//! Makes a qcow2 image in a node that is there.
//!
//! What the tables are is computed first ([`layout`]) and written table by table, the header last.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use super::Creator;
use super::preallocation::{PREALLOCATION, Preallocation};
use crate::block::backend::BlockBackend;
use crate::block::common::CommonOptions;
use crate::block::drivers::{BLOCKDEV_REF, child};
use crate::block::graph::{Edge, Parent};
use crate::block::io_buffer::IoBuffer;
use crate::block::node::Node;
use crate::block::permission::{Access, Permissions};
use crate::job::{JobWork, RunningJob, WorkFuture};
use crate::object::Options;
use crate::schema::{EnumType, Member, ValueType};
use crate::{Error, Result};

mod at_once;
mod header;
mod layout;
#[cfg(test)]
mod tests;

pub(in crate::block) use at_once::write_image;
use header::Qcow2Recipe;
use layout::Qcow2Layout;

const VERSION: EnumType = EnumType::new("BlockdevQcow2Version", &["v2", "v3"]);
const COMPRESSION: EnumType = EnumType::new("Qcow2CompressionType", &["zlib", "zstd"]);

pub(super) const CREATOR: Creator = Creator {
    driver: "qcow2",
    members: &[
        Member::new("file", ValueType::Alternate(&BLOCKDEV_REF)),
        Member::optional("data-file", ValueType::Alternate(&BLOCKDEV_REF)),
        Member::optional("data-file-raw", ValueType::Bool),
        Member::optional("extended-l2", ValueType::Bool),
        Member::new("size", ValueType::Size),
        Member::optional("version", ValueType::Enum(VERSION)),
        Member::optional("backing-file", ValueType::Str),
        Member::optional("backing-fmt", ValueType::Str),
        Member::optional("cluster-size", ValueType::Size),
        Member::optional("preallocation", ValueType::Enum(PREALLOCATION)),
        Member::optional("lazy-refcounts", ValueType::Bool),
        Member::optional("refcount-bits", ValueType::Int),
        Member::optional("compression-type", ValueType::Enum(COMPRESSION)),
    ],
    work,
};

/// How much space is taken at once. A cancellation waits no longer.
const RESERVED: u64 = 64 << 20;
const WRITTEN: usize = 1 << 20;

#[derive(Debug)]
struct CreateQcow2 {
    job: String,
    /// With the nodes, which are opened by the job.
    options: Vec<(String, crate::object::Value)>,
}

/// The nodes of an image.
struct ImageFiles {
    file: Edge,
    data: Option<Edge>,
}

fn work(options: Options, job: &str) -> Result<Arc<dyn JobWork>> {
    Ok(Arc::new(CreateQcow2 {
        job: job.to_owned(),
        options: options.into_entries(),
    }))
}

impl JobWork for CreateQcow2 {
    fn run(self: Arc<Self>, control: Arc<RunningJob>) -> WorkFuture {
        Box::pin(async move {
            control.add_total(1);
            let made = self.make(&control).await;
            control.add_done(1);
            made
        })
    }
}

impl CreateQcow2 {
    async fn make(self: &Arc<Self>, control: &RunningJob) -> Result<()> {
        let this = Arc::clone(self);
        let opened = control.aio().run_in_pool(move || this.open());
        let (files, recipe, preallocation) = opened.await??;
        let layout = Qcow2Layout::new(&recipe, preallocation != Preallocation::Off)?;
        let data = files.data.as_ref();
        let image = Qcow2Writer {
            control,
            kept: data.map_or(0, |data| data.node().length()),
            file: BlockBackend::open(&files.file, control.aio()),
            data: data.map(|data| BlockBackend::open(data, control.aio())),
            recipe,
            layout,
        };
        let hurry = || image.backends().for_each(BlockBackend::hurry);
        let made = control.hurried_by_cancel(image.make(preallocation), hurry);
        made.await
    }

    /// Opens the nodes and checks the options. On a worker.
    fn open(&self) -> Result<(ImageFiles, Qcow2Recipe, Preallocation)> {
        let mut options = Options::from_dict(self.options.clone()).into_dotted();
        let file = child::take_with(&mut options, "file", &CommonOptions::default())?;
        let has_data = options
            .remaining()
            .any(|key| key.starts_with("data-file") && key != "data-file-raw");
        let data = has_data
            .then(|| child::take_with(&mut options, "data-file", &CommonOptions::default()))
            .transpose()?;
        let preallocation = Preallocation::take(&mut options)?;
        let data_name = data.as_ref().map(|data| name_of(data));
        let recipe = Qcow2Recipe::take(&mut options, data_name, preallocation)?;
        options.finish()?;
        let files = ImageFiles {
            file: self.attach(&file)?,
            data: data.map(|data| self.attach(&data)).transpose()?,
        };
        // A data file that shows the guest's data as they are has an address for each cluster.
        let preallocation = match preallocation {
            Preallocation::Off if recipe.data_file_raw => Preallocation::Metadata,
            other => other,
        };
        Ok((files, recipe, preallocation))
    }

    fn attach(&self, node: &Arc<Node>) -> Result<Edge> {
        let access = Access {
            needs: Permissions::WRITE.and(Permissions::RESIZE),
            shares: Permissions::ALL,
        };
        node.attach(Parent::new("job", self.job.clone()), access)
    }
}

/// The name by which an image finds its data file.
fn name_of(data: &Node) -> String {
    data.filename().unwrap_or_else(|| data.name().to_owned())
}

/// An image that is being written.
struct Qcow2Writer<'a> {
    control: &'a RunningJob,
    file: BlockBackend,
    data: Option<BlockBackend>,
    /// How much the data file had before. It stays.
    kept: u64,
    recipe: Qcow2Recipe,
    layout: Qcow2Layout,
}

impl Qcow2Writer<'_> {
    fn backends(&self) -> impl Iterator<Item = &BlockBackend> {
        [&self.file].into_iter().chain(&self.data)
    }

    async fn make(&self, preallocation: Preallocation) -> Result<()> {
        self.resize(preallocation).await?;
        let written = self.write(preallocation).await;
        written.map_err(|error| Error::os("Could not write the qcow2 image", error))
    }

    /// Gives the nodes their lengths. What was in the image's own file goes, if that can be made shorter. A data file
    /// whose clusters all have an address may be longer than the disk.
    async fn resize(&self, preallocation: Preallocation) -> Result<()> {
        let length = self.layout.file_length();
        self.resize_one(&self.file, length, |node| node.set_length(0))
            .await?;
        let is_exact = preallocation == Preallocation::Off;
        match &self.data {
            Some(data) if is_exact || self.kept < self.recipe.size => {
                self.resize_one(data, self.recipe.size, |_| Ok(())).await
            }
            _ => Ok(()),
        }
    }

    /// Gives a node its length after `prepare`.
    async fn resize_one(
        &self,
        backend: &BlockBackend,
        length: u64,
        prepare: fn(&Node) -> Result<()>,
    ) -> Result<()> {
        let node = backend.node();
        let length = length.next_multiple_of(node.block_size());
        let resized = self.control.aio().run_in_pool(move || {
            let resized = prepare(&node).and_then(|()| node.set_length(length));
            match resized {
                // A device keeps its length.
                Err(_) if node.length() >= length => Ok(()),
                resized => resized,
            }
        });
        resized.await?
    }

    async fn write(&self, preallocation: Preallocation) -> io::Result<()> {
        self.write_tables().await?;
        match preallocation {
            Preallocation::Off | Preallocation::Metadata => {}
            Preallocation::Falloc => self.reserve_data().await?,
            Preallocation::Full => self.write_data().await?,
        }
        if self.control.is_cancelled() {
            return Ok(());
        }
        if let Some(data) = &self.data {
            data.flush().await?;
        }
        self.file.flush().await?;
        // A file with a header is an image.
        let header = IoBuffer::copy_of(&self.layout.header(&self.recipe));
        self.file.write(0, header, true).await.0
    }

    /// Writes everything but the header, a cluster at a time.
    async fn write_tables(&self) -> io::Result<()> {
        let cluster_size = self.layout.cluster_size();
        let mut buffer = IoBuffer::zeroed(cluster_size);
        for index in 0..self.layout.table_clusters() {
            if self.control.is_cancelled() {
                return Ok(());
            }
            self.control.pause_point().await;
            buffer.fill(0);
            self.layout.fill(index, &mut buffer);
            let (result, back) = self
                .file
                .write(index * cluster_size as u64, buffer, false)
                .await;
            result?;
            buffer = back;
        }
        Ok(())
    }

    /// The node with the guest's data, and where those that are new begin and end in it.
    fn data_area(&self) -> (&BlockBackend, u64, u64) {
        match &self.data {
            Some(data) => (data, self.kept.min(self.recipe.size), self.recipe.size),
            None => {
                let (start, end) = self.layout.data_area();
                (&self.file, start, end)
            }
        }
    }

    async fn reserve_data(&self) -> io::Result<()> {
        let (node, mut offset, end) = self.data_area();
        while offset < end && !self.control.is_cancelled() {
            self.control.pause_point().await;
            let length = RESERVED.min(end - offset);
            node.write_zeroes(offset, length, false, false).await?;
            offset += length;
        }
        Ok(())
    }

    async fn write_data(&self) -> io::Result<()> {
        let (node, mut offset, end) = self.data_area();
        let mut zeroes = IoBuffer::zeroed(WRITTEN);
        while offset < end && !self.control.is_cancelled() {
            self.control.pause_point().await;
            let length = (WRITTEN as u64).min(end - offset);
            zeroes.set_len(usize::try_from(length).unwrap_or(0));
            let (result, back) = node.write(offset, zeroes, false).await;
            result?;
            zeroes = back;
            offset += length;
        }
        Ok(())
    }
}
