//! The loops.
#![deny(unsafe_code)]

pub(crate) mod glib_main;
pub(crate) mod ours;
pub(crate) mod qcontexts;
pub(crate) mod raw;
pub(crate) mod raw_heap;
pub(crate) mod raw_stack;
