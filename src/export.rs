//! Exports: nodes that are offered outside of the process, by name.
//!
//! Used by the command line (`--export`) and the monitor (`block-export-add`). What every export has is here: its id, its node,
//! whether it may be written, its context, its end. How a node is offered is the matter of its type.
//!
//! * `options`: what `--export` and `block-export-add` take
//! * `kind`: what a type of export is
//! * `nbd`: exports for NBD clients, and the server; `nbd_server`: how it is started and stopped
//! * `vhost_user_blk`: a virtio disk for virtual machines; the same device as `-device virtio-blk,vhost-user=`
//! * `fuse`: a file, which is mounted
//! * `registry`: the exports by id
//!
//! # Adding a type
//! A file here with an `ExportType` (see `kind`), which stands in the list `TYPES` of `options`.
//!
//! # Threads
//! Any thread may add, list and end exports. What is called at the end of one runs on the thread of its context.
#![deny(unsafe_code)] // children that need it say why

mod fuse;
mod kind;
mod nbd;
mod nbd_server;
mod options;
mod registry;
mod vhost_user_blk;

pub use nbd_server::{
    NBD_SERVER_LEGACY_OPTIONS, add_nbd, check_nbd, shutdown_all, start_nbd_server,
    start_nbd_server_legacy, stop_nbd_server,
};
pub use options::EXPORT_OPTIONS;
pub use registry::{ExportInfo, add, list, remove};
