//! `vhost-user-blk`: a node as a virtio disk for virtual machines of other processes.
//!
//! It is the device that `-device virtio-blk,vhost-user=PATH` makes, without a place in the tree of devices.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use super::kind::{EndedCallback, ExportType, Exported, NewExport};
use crate::block::OnError;
use crate::device::{Device, DeviceOptions};
use crate::inherited_socket;
use crate::object::Options;
use crate::schema::{Member, ValueType};
use crate::socket_address::{SOCKET_ADDRESS, take_path};
use crate::unix_socket::{ListenError, ListeningSocket, SocketAccess};
use crate::virtio::blk::{BlkOptions, BlockSizes};
use crate::{Error, ErrorKind, Result};

/// The largest `logical-block-size`.
const BLOCK_SIZE_MAX: u64 = 2 << 20;
/// The most queues.
const QUEUES_MAX: u64 = 64;
/// What a guest reads as the disk's serial number. It is QEMU's.
const SERIAL: &str = "vhost_user_blk";

/// The type `vhost-user-blk`.
pub(super) const VHOST_USER_BLK: ExportType = ExportType {
    name: "vhost-user-blk",
    members: &MEMBERS,
    ends_at_once: false,
    open,
};

static MEMBERS: [Member; 3] = [
    Member::new("addr", ValueType::Object(&SOCKET_ADDRESS)),
    Member::optional("logical-block-size", ValueType::Size),
    Member::optional("num-queues", ValueType::Uint(16)),
];

/// A disk on offer.
struct VhostUserBlk(Arc<Device>);

impl Exported for VhostUserBlk {
    fn shut_down(&self, ended: EndedCallback) {
        // It is called once, so the end has not begun.
        let _ = self.0.shutdown(ended);
    }
}

fn open(new: NewExport, options: &mut Options) -> Result<Arc<dyn Exported>> {
    let disk = disk(&new, options)?;
    let socket = socket(&new.id, &mut options.take_group("addr")?)?;
    let mut device = DeviceOptions::new(new.id, disk, socket.path());
    device.context = new.context.as_ref().map(|context| context.id().to_owned());
    device.data_plane = device.context.is_some();
    Ok(Arc::new(VhostUserBlk(Device::private(device, socket)?)))
}

fn disk(new: &NewExport, options: &mut Options) -> Result<BlkOptions> {
    let queues = options
        .take_uint("num-queues", 0..=u16::MAX.into())?
        .unwrap_or(1);
    if queues == 0 {
        return Err(invalid("num-queues must be greater than 0".to_owned()));
    }
    if queues > QUEUES_MAX {
        return Err(invalid(format!(
            "num-queues must not be greater than {QUEUES_MAX}"
        )));
    }
    let mut disk = BlkOptions::new(new.node.name());
    disk.num_queues = u16::try_from(queues).unwrap_or(1);
    disk.serial = Some(SERIAL.to_owned());
    disk.read_only = !new.writable;
    if let Some(size) = block_size(options)? {
        disk.sizes = BlockSizes::of_blocks(size);
    }
    disk.shares_writes = true;
    disk.kind = "export";
    // As in QEMU: nobody stops the machine of an export.
    disk.read_errors = Some(OnError::Report);
    disk.write_errors = Some(OnError::Report);
    Ok(disk)
}

fn block_size(options: &mut Options) -> Result<Option<u32>> {
    let size = options.take_size("logical-block-size")?;
    match size {
        Some(size) if !size.is_power_of_two() || !(512..=BLOCK_SIZE_MAX).contains(&size) => {
            let range = format!("between 512 and {BLOCK_SIZE_MAX}");
            let message = format!("parameter logical-block-size must be a power of 2 {range}");
            Err(invalid(message))
        }
        Some(size) => Ok(u32::try_from(size).ok()),
        None => Ok(None),
    }
}

/// The socket that front ends connect to.
fn socket(id: &str, address: &mut Options) -> Result<ListeningSocket> {
    match address.need_str("type")?.as_str() {
        "unix" => listen(id, &take_path(address)?),
        "fd" => take_over(&address.need_str("str")?),
        _ => {
            let message = "Only socket address types 'unix' and 'fd' are supported";
            Err(invalid(message.to_owned()))
        }
    }
}

fn listen(id: &str, path: &Path) -> Result<ListeningSocket> {
    ListeningSocket::open(path, SocketAccess::Umask).map_err(|error| match error {
        ListenError::Os(error) => Error::os(
            format!("Failed to bind socket to {}", path.display()),
            error,
        ),
        other => other.describe(
            &format!("export '{id}': "),
            &format!("'{}'", path.display()),
        ),
    })
}

/// The socket that the process has inherited under this number.
fn take_over(number: &str) -> Result<ListeningSocket> {
    let fd = inherited_socket::parse_number(number)?;
    ListeningSocket::inherited(fd).map_err(|error| {
        let what = format!("File descriptor '{number}' is not a listening Unix socket");
        Error::os(what, error)
    })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
