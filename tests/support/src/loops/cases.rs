//! Tests that are declared once and run with every loop and poller.
#![forbid(unsafe_code)]

/// Declares tests that run under both loops with every poller: the argument is an [`Driven`](super::Driven) in an `Arc`.
#[macro_export]
macro_rules! both_loops {
    ($($(#[$meta:meta])* fn $name:ident($driven:ident) $body:block)*) => {$(
        $crate::loop_cases! {
            [$(#[$meta])*] $name($driven: &std::sync::Arc<$crate::loops::Driven>) $body run
            own_loop: Own Epoll,
            own_loop_with_io_uring: Own IoUring,
            own_loop_with_poll: Own Poll,
            glib_loop: Glib Epoll,
            glib_loop_with_io_uring: Glib IoUring,
            glib_loop_with_poll: Glib Poll,
        }
    )*};
}

/// As [`both_loops`], but only with the pollers that watch files, not numbers.
#[macro_export]
macro_rules! both_loops_by_file {
    ($($(#[$meta:meta])* fn $name:ident($driven:ident) $body:block)*) => {$(
        $crate::loop_cases! {
            [$(#[$meta])*] $name($driven: &std::sync::Arc<$crate::loops::Driven>) $body run
            own_loop: Own Epoll,
            own_loop_with_io_uring: Own IoUring,
            glib_loop: Glib Epoll,
            glib_loop_with_io_uring: Glib IoUring,
        }
    )*};
}

/// Declares tests whose loop runs in a thread of its own, once of each kind with every poller: the argument is a
/// [`Running`](super::Running).
#[macro_export]
macro_rules! both_threads {
    ($($(#[$meta:meta])* fn $name:ident($running:ident) $body:block)*) => {$(
        $crate::loop_cases! {
            [$(#[$meta])*] $name($running: &$crate::loops::Running) $body run_threaded
            own_loop: Own Epoll,
            own_loop_with_io_uring: Own IoUring,
            own_loop_with_poll: Own Poll,
            glib_loop: Glib Epoll,
            glib_loop_with_io_uring: Glib IoUring,
            glib_loop_with_poll: Glib Poll,
        }
    )*};
}

/// A module with a test for each loop and poller. For the macros above.
#[doc(hidden)]
#[macro_export]
macro_rules! loop_cases {
    (
        [$($meta:tt)*] $name:ident($argument:ident: $type:ty) $body:block $run:ident
        $($test:ident: $loop:ident $poller:ident,)*
    ) => {
        $($meta)*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn case($argument: $type) $body

            $(
                #[test]
                fn $test() {
                    let (kind, poller) = ($crate::loops::Loop::$loop, $crate::loops::Poller::$poller);
                    $crate::loops::$run(kind, poller, stringify!($name), case);
                }
            )*
        }
    };
}
