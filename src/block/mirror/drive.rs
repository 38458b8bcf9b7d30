//! `drive-mirror`: a mirror whose target the command makes or opens by itself.
//!
//! The target goes when nobody uses it any more: at the end of a mirror that is let go, or with the disk that it has become. With the
//! sync mode `top`, a new target has the backing file of the source from the beginning on.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::options::{COPY_MODE, MIRROR_SYNC, replaced, start};
use crate::block::chain::check_root;
use crate::block::common::{CommonOptions, check_name, duplicate_node};
use crate::block::create::{make_file, write_image};
use crate::block::drivers::qcow2::BackingName;
use crate::block::drivers::{child, nbd};
use crate::block::error_policy::ON_ERROR;
use crate::block::format::{PROBE_LEN, probe};
use crate::block::image::first_bytes;
use crate::block::node::Node;
use crate::object::{Dict, Options, Value};
use crate::schema::{EnumType, Member, ObjectType, ValueType};
use crate::{Error, ErrorKind, Result};

const NEW_IMAGE_MODE: EnumType = EnumType::new("NewImageMode", &["existing", "absolute-paths"]);

/// What `drive-mirror` takes.
pub static DRIVE_MIRROR_OPTIONS: ObjectType = ObjectType::new(
    "DriveMirror",
    &[
        Member::optional("job-id", ValueType::Str),
        Member::new("device", ValueType::Str),
        Member::new("target", ValueType::Str),
        Member::optional("format", ValueType::Str),
        Member::optional("node-name", ValueType::Str),
        Member::optional("replaces", ValueType::Str),
        Member::new("sync", ValueType::Enum(MIRROR_SYNC)),
        Member::optional("mode", ValueType::Enum(NEW_IMAGE_MODE)),
        Member::optional("speed", ValueType::Int),
        Member::optional("granularity", ValueType::Int),
        Member::optional("buf-size", ValueType::Int),
        Member::optional("on-source-error", ValueType::Enum(ON_ERROR)),
        Member::optional("on-target-error", ValueType::Enum(ON_ERROR)),
        Member::optional("unmap", ValueType::Bool),
        Member::optional("copy-mode", ValueType::Enum(COPY_MODE)),
        Member::optional("auto-finalize", ValueType::Bool),
        Member::optional("auto-dismiss", ValueType::Bool),
    ],
);

/// Starts the job that the arguments of `drive-mirror` describe. It makes and opens files, so the thread may have to wait.
///
/// # Errors
/// As for [`mirror`](super::mirror); the target cannot be made or opened.
pub fn drive_mirror(mut arguments: Options) -> Result<()> {
    let source = Node::find(&arguments.need_str("device")?)?;
    check_root(&source)?;
    let name = arguments.take_str("node-name")?;
    if name.is_none() && arguments.peek("replaces").is_some() {
        let message = "a node-name must be provided when replacing a named node of the graph";
        return Err(invalid(message));
    }
    let replaces = replaced(&mut arguments, &source)?;
    if let Some(name) = &name {
        check_name(name)?;
        Node::check_unused(name, duplicate_node)?;
    }
    let target = Target::take(&mut arguments, &source)?;
    let target = target.open(name, &source)?;
    start(arguments, source, target, replaces)
}

/// What is to be the target.
struct Target {
    path: String,
    format: String,
    is_new: bool,
    /// The backing file of a new image.
    backing: Option<Arc<Node>>,
}

impl Target {
    fn take(arguments: &mut Options, source: &Arc<Node>) -> Result<Target> {
        let path = arguments.need_str("target")?;
        let is_new = arguments.take_str("mode")?.as_deref() != Some("existing");
        let format = match (arguments.take_str("format")?, is_new) {
            (Some(format), _) => format,
            (None, true) => source.driver().name().to_owned(),
            (None, false) => probed(&path)?,
        };
        let backing = match arguments.peek("sync") {
            Some("top") if is_new => source.child_of("backing"),
            Some("none") if is_new && format != "raw" => {
                let message = "sync mode 'none' needs mode 'existing' if the target is not raw";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            _ => None,
        };
        Ok(Target {
            path,
            format,
            is_new,
            backing,
        })
    }

    fn open(&self, name: Option<String>, source: &Arc<Node>) -> Result<Arc<Node>> {
        if self.is_new {
            self.make(source)?;
        }
        let mut keys: Dict = vec![("target.driver".to_owned(), self.format.as_str().into())];
        let mut set = |key: &str, value: Value| keys.push((key.to_owned(), value));
        if let Some(name) = name {
            set("target.node-name", name.into());
        }
        let server = nbd::parse_file_name(&self.path)?;
        let common = CommonOptions::default();
        let export = server.map(|server| {
            let export = Node::child(None, common.clone(), |_| nbd::connect(server, &common))?;
            export.enter(duplicate_node)?;
            Result::Ok(export)
        });
        let export = export.transpose()?;
        if let Some(export) = &export {
            set("target.file", export.name().into());
        } else {
            set("target.file.driver", "file".into());
            set("target.file.filename", self.path.as_str().into());
        }
        if self.is_new && self.format == "qcow2" {
            let backing = self.backing.as_ref();
            set(
                "target.backing",
                backing.map_or(Value::Null, |one| one.name().into()),
            );
        }
        child::take_with(&mut Options::from_dict(keys), "target", &common)
    }

    /// Makes an empty image that is as long as the source.
    fn make(&self, source: &Arc<Node>) -> Result<()> {
        let backing = self.backing.as_ref().map(|backing| {
            let missing = || invalid("the source's backing file has no file name");
            let format = backing.driver().name().to_owned();
            let file = backing.filename().ok_or_else(missing)?;
            Result::Ok(BackingName { file, format })
        });
        let backing = backing.transpose()?;
        match self.format.as_str() {
            "raw" if backing.is_none() => {
                let file = make_file(&self.path)?;
                let resized = file.set_len(source.length());
                resized.map_err(|error| Error::os("Could not resize file", error))
            }
            "raw" => {
                let message = "Backing file not supported for file format 'raw'";
                Err(Error::new(ErrorKind::Unsupported, message))
            }
            "qcow2" => write_image(&make_file(&self.path)?, source.length(), backing.as_ref()),
            other => {
                let message = format!("Unknown file format '{other}'");
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }
}

/// The format of a file that is there.
fn probed(path: &str) -> Result<String> {
    if nbd::parse_file_name(path)?.is_some() {
        return Err(invalid("an NBD export needs 'format'"));
    }
    let start = first_bytes(path, PROBE_LEN)?;
    match probe(&start) {
        None => Ok("raw".to_owned()),
        Some(format) => Ok(format.to_owned()),
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
