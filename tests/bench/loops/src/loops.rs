//! The loops.
#![deny(unsafe_code)]

#[cfg(feature = "peers")]
pub(crate) mod event_manager;
pub(crate) mod glib_main;
#[cfg(feature = "peers")]
pub(crate) mod libevent;
#[cfg(feature = "peers")]
pub(crate) mod libuv;
#[cfg(feature = "peers")]
pub(crate) mod mio;
pub(crate) mod ours;
pub(crate) mod polling;
pub(crate) mod qcontexts;
pub(crate) mod raw;
pub(crate) mod raw_heap;
pub(crate) mod raw_stack;
#[cfg(feature = "peers")]
pub(crate) mod tokio_rt;
