//! The workloads, each written once for all the loops that can do it.
#![forbid(unsafe_code)]

pub(crate) mod bh;
pub(crate) mod fd;
pub(crate) mod remote;
pub(crate) mod threaded;
pub(crate) mod timer;
