//! `blockdev-create`: images are made, as a job.
//!
//! A protocol such as `file` makes the file; a format such as `qcow2` makes a file that is there an image. Texts of errors are QEMU's.
//! The job runs on `qcontext-main`. What may block goes to a worker.
//!
//! * `file`: makes a file
//! * `preallocation`: how much space they take at once
//! * `qcow2`: makes a qcow2 image in another node
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::drivers;
use crate::job::{self, JobOptions, JobType, JobWork};
use crate::object::{Options, Value};
use crate::schema::{Case, Member, ObjectType, ValueType, Variants};
use crate::{Error, ErrorKind, QContext, Result};

mod file;
mod preallocation;
mod qcow2;

pub(super) use file::make_file;
pub(super) use qcow2::write_image;

/// A driver that makes images.
struct Creator {
    driver: &'static str,
    members: &'static [Member],
    /// Reads the options, for a job of this name.
    work: fn(Options, &str) -> Result<Arc<dyn JobWork>>,
}

const CREATORS: [&Creator; 2] = [&file::CREATOR, &qcow2::CREATOR];

/// What describes an image to be made. All drivers are there, although some make none.
static CREATE_OPTIONS: ObjectType = ObjectType::tagged(
    "BlockdevCreateOptions",
    &[],
    Variants {
        tag: "driver",
        tag_type: "BlockdevDriver",
        cases: || {
            let members = |name| {
                let creator = CREATORS.iter().find(|creator| creator.driver == name);
                creator.map_or(&[][..], |creator| creator.members)
            };
            let names = drivers::names().into_iter();
            names.map(|name| Case::new(name, members(name))).collect()
        },
    },
);

/// What `blockdev-create` takes.
pub static BLOCKDEV_CREATE_OPTIONS: ObjectType = ObjectType::new(
    "q_obj_blockdev-create-arg",
    &[
        Member::new("job-id", ValueType::Str),
        Member::new("options", ValueType::Object(&CREATE_OPTIONS)),
    ],
);

/// Starts the job that the arguments of `blockdev-create` describe.
///
/// # Errors
/// The job's id is taken or not well-formed; the driver makes no images. What else is wrong is the job's error.
pub fn create(mut arguments: Options) -> Result<()> {
    let id = arguments.need_str("job-id")?;
    let mut options = match arguments.need("options")? {
        Value::Dict(options) => Options::from_dict(options),
        _ => Options::from_dict(Vec::new()),
    };
    let driver = options.need_str("driver")?;
    let creator = CREATORS.iter().find(|creator| creator.driver == driver);
    let creator = creator.ok_or_else(|| {
        let message = "Driver does not support blockdev-create";
        Error::new(ErrorKind::Unsupported, message)
    })?;
    let work = (creator.work)(options, &id)?;
    let new = JobOptions {
        id,
        kind: JobType::Create,
        auto_finalize: true,
        auto_dismiss: false,
        speed: 0,
    };
    job::start(new, &QContext::main(), work)
}
