//! What the tests share. Each file is named for what it gives:
//!
//! * everywhere: [`capability`], [`deadline`], [`directory`], [`over`], [`skip`], [`random`], [`seccomp`], [`thread`]
//! * the loop: [`loops`], [`fd_source`], [`aio_load`]
//! * the host: [`host_storage`]
//! * the program `qctx`: [`process`], [`server`], [`qmp`], [`listener`], and [`tiny_kernel`], [`scripted_guest`],
//!   [`linux_guest`] to boot
//! * images: [`qemu_img`]
//! * disks and machines (feature `devices`): `mock_driver`, `driven_disk` and `disk_model` without a transport, `served_disk`,
//!   `front_end`, `raw_front_end`, `workload`, `shadow`, `shared_sectors` and `writer` over vhost-user, `embedded_guest` and `real_mode` on KVM
//! * terminals (feature `devices`): `terminal`, `shell`
//! * from the demo of `qctx`: `guest` and `in_process`
#![deny(unsafe_code)] // each file that needs it says so
#![allow(missing_docs, missing_debug_implementations)] // read by those who write tests
#![allow(clippy::unwrap_used)] // a failed call is a failed test

pub mod aio_load;
pub mod capability;
#[cfg(feature = "devices")]
pub mod context;
pub mod cpu;
pub mod deadline;
pub mod directory;
#[cfg(feature = "devices")]
pub mod disk_model;
#[cfg(feature = "devices")]
pub mod driven_disk;
#[cfg(feature = "devices")]
pub mod embedded_guest;
pub mod fd_source;
#[cfg(feature = "devices")]
pub mod front_end;
#[cfg(feature = "devices")]
#[path = "../../../src/cli/demo/guest.rs"]
pub mod guest;
pub mod host_storage;
#[cfg(feature = "devices")]
#[path = "../../../src/cli/demo/in_process.rs"]
pub mod in_process;
pub mod linux_guest;
pub mod listener;
pub mod loops;
pub mod mock_driver;
pub mod nbd_server;
pub mod over;
pub mod pki;
pub mod process;
pub mod qemu_img;
pub mod qmp;
pub mod random;
#[cfg(feature = "devices")]
pub mod raw_front_end;
#[cfg(feature = "devices")]
pub mod real_mode;
pub mod scripted_guest;
pub mod seccomp;
#[cfg(feature = "devices")]
pub mod served_disk;
pub mod server;
#[cfg(feature = "devices")]
pub mod shadow;
#[cfg(feature = "devices")]
pub mod shared_sectors;
#[cfg(feature = "devices")]
pub mod shell;
pub mod skip;
#[cfg(feature = "devices")]
pub mod terminal;
pub mod thread;
pub mod tiny_kernel;
#[cfg(feature = "devices")]
pub mod workload;
#[cfg(feature = "devices")]
pub mod writer;
