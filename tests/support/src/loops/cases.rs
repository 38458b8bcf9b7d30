//! Tests that are declared once and run with every loop and poller.
#![forbid(unsafe_code)]

/// Declares tests that run under both loops with every poller.
#[macro_export]
macro_rules! both_loops {
    ($($(#[$meta:meta])* fn $name:ident($driven:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn case($driven: &std::sync::Arc<$crate::loops::Driven>) $body

            #[test]
            fn own_loop() {
                $crate::loops::run($crate::loops::Loop::Own, $crate::loops::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_io_uring() {
                $crate::loops::run($crate::loops::Loop::Own, $crate::loops::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_poll() {
                $crate::loops::run($crate::loops::Loop::Own, $crate::loops::Poller::Poll, stringify!($name), case);
            }

            #[test]
            fn glib_loop() {
                $crate::loops::run($crate::loops::Loop::Glib, $crate::loops::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_io_uring() {
                $crate::loops::run($crate::loops::Loop::Glib, $crate::loops::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_poll() {
                $crate::loops::run($crate::loops::Loop::Glib, $crate::loops::Poller::Poll, stringify!($name), case);
            }
        }
    )*};
}

/// As [`both_loops`], but only with the pollers that watch files, not numbers.
#[macro_export]
macro_rules! both_loops_by_file {
    ($($(#[$meta:meta])* fn $name:ident($driven:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn case($driven: &std::sync::Arc<$crate::loops::Driven>) $body

            #[test]
            fn own_loop() {
                $crate::loops::run($crate::loops::Loop::Own, $crate::loops::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_io_uring() {
                $crate::loops::run($crate::loops::Loop::Own, $crate::loops::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn glib_loop() {
                $crate::loops::run($crate::loops::Loop::Glib, $crate::loops::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_io_uring() {
                $crate::loops::run($crate::loops::Loop::Glib, $crate::loops::Poller::IoUring, stringify!($name), case);
            }
        }
    )*};
}

/// Declares tests that get a loop which runs in a thread of its own, once of each kind with every poller.
#[macro_export]
macro_rules! both_threads {
    ($($(#[$meta:meta])* fn $name:ident($running:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn case($running: &$crate::loops::Running) $body

            #[test]
            fn own_loop() {
                $crate::loops::run_threaded($crate::loops::Loop::Own, $crate::loops::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_io_uring() {
                $crate::loops::run_threaded($crate::loops::Loop::Own, $crate::loops::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn own_loop_with_poll() {
                $crate::loops::run_threaded($crate::loops::Loop::Own, $crate::loops::Poller::Poll, stringify!($name), case);
            }

            #[test]
            fn glib_loop() {
                $crate::loops::run_threaded($crate::loops::Loop::Glib, $crate::loops::Poller::Epoll, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_io_uring() {
                $crate::loops::run_threaded($crate::loops::Loop::Glib, $crate::loops::Poller::IoUring, stringify!($name), case);
            }

            #[test]
            fn glib_loop_with_poll() {
                $crate::loops::run_threaded($crate::loops::Loop::Glib, $crate::loops::Poller::Poll, stringify!($name), case);
            }
        }
    )*};
}
