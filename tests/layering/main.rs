//! The layers of the crates: no arrow goes up, no two folders import each other in a circle, and no part names what it must
//! not know.
//!
//! Each rule is also tried on the same source with an arrow planted that it must find.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

mod rules;
mod sources;
mod text;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rules::{Ban, banned_imports, banned_words, circles, file_circles, types_of_one_name, upward};
use sources::{Sources, files};
use text::{Strings, blank};

/// The layers of the root crate from below, each with its top-level modules.
const LAYERS: [&[&str]; 8] = [
    // The loop, the objects, the types of QMP, and what several services use.
    &[
        "",
        "context",
        "foreground",
        "inherited_socket",
        "job",
        "json",
        "nbd",
        "object",
        "rate_limit",
        "schema",
        "socket_address",
        "unix_socket",
        "value",
    ],
    &["block"],
    // Device models.
    &["virtio"],
    // How a device reaches its guest.
    &["kvm", "vhost_user"],
    &["device"],
    &["export"],
    // Services.
    &["monitor"],
    &["cli", "main"],
];

/// The layers of the event sources from below. The reactor knows nothing of the AioContext, which is its tenant.
const GSOURCE_LAYERS: [&[&str]; 4] = [
    &[
        "",
        "clock",
        "deadline",
        "error",
        "eventfd",
        "fork",
        "kernel_model",
        "limit",
        "list",
        "panic_boundary",
        "sync",
        "worker_pool",
    ],
    &["poller"],
    &["reactor"],
    &["aio", "iohandler", "source"],
];

/// What modules of the root crate must not import although it lies below them.
const BANNED_IMPORTS: [Ban<'_>; 3] = [
    // A device knows its model by traits alone.
    (&["device"], &["block", "virtio/blk"]),
    // A transport never looks into a request.
    (&["kvm", "vhost_user"], &["block", "virtio/blk"]),
    // Nothing in the life of a queue is about one model.
    (
        &[
            "virtio/memory",
            "virtio/notify",
            "virtio/pluggable",
            "virtio/queue",
            "virtio/worker",
        ],
        &["block", "virtio/blk"],
    ),
];

/// Words that modules of the root crate must not name.
const BANNED_WORDS: [Ban<'_>; 4] = [
    // A device knows its model by traits alone.
    (&["device"], &["block", "blk", "node", "drive", "disk"]),
    // A model knows no transport and no socket.
    (
        &["virtio"],
        &[
            "kvm",
            "vhost",
            "mmio",
            "UnixStream",
            "UnixListener",
            "net",
            "gio",
            "AF_UNIX",
        ],
    ),
    // A completion ends in the block layer: everything above it sees finished requests only.
    (
        &["virtio", "kvm", "vhost_user", "device", "monitor"],
        &["IoCompletion", "IoSink", "IoQueue", "io_uring"],
    ),
    (&["cli"], &["IoCompletion", "IoSink", "IoQueue", "IoUring"]),
];

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn root_crate() -> Sources {
    Sources::read(&top().join("src"))
}

#[test]
fn no_arrow_goes_up() {
    let sources = root_crate();
    assert_eq!(upward(&sources, &LAYERS), [""; 0]);
    let planted = [
        ("context", "use crate::{Error, block::{Node, Driver}};"),
        ("block/node", "fn f() { crate::virtio::notify::f(); }"),
        ("virtio/queue", "use super::super::vhost_user;"),
        ("vhost_user/session", "use crate::device::Device;"),
        ("device/life", "pub use crate::monitor::emit;"),
        ("monitor/query", "use crate::cli;"),
    ];
    for (module, code) in planted {
        let wrong = upward(&sources.with(module, code), &LAYERS);
        assert!(!wrong.is_empty(), "{code}");
    }
    let strange = sources.with("strange", "");
    assert_eq!(upward(&strange, &LAYERS), ["'strange' has no layer"]);
}

fn event_sources() -> Sources {
    Sources::read(&top().join("gsource/src"))
}

#[test]
fn no_arrow_of_the_event_sources_goes_up() {
    let sources = event_sources();
    assert_eq!(upward(&sources, &GSOURCE_LAYERS), [""; 0]);
    let planted = [
        ("list", "use crate::poller::Poller;"),
        ("sync", "fn f() { crate::reactor::Reactor::new(); }"),
        ("poller/ring", "use crate::{Error, reactor::Wait};"),
        ("reactor", "use crate::AioContext;"),
        ("reactor/bh/node", "use crate::aio::bh::Bh;"),
        (
            "reactor/turn",
            "fn f(source: super::super::source::Source) {}",
        ),
    ];
    for (module, code) in planted {
        let wrong = upward(&sources.with(module, code), &GSOURCE_LAYERS);
        assert!(!wrong.is_empty(), "{code}");
    }
    let strange = sources.with("strange", "");
    assert_eq!(
        upward(&strange, &GSOURCE_LAYERS),
        ["'strange' has no layer"]
    );
}

#[test]
fn folders_of_the_event_sources_do_not_import_each_other_in_a_circle() {
    let sources = event_sources();
    assert_eq!(circles(&sources), [""; 0]);
    let planted = [
        ("list", "use crate::deadline;"),
        ("reactor/bh/flags", "use crate::reactor::tenant::Tenant;"),
        ("aio/core", "use super::task::file::AsyncFile;"),
    ];
    for (module, code) in planted {
        let closed = sources
            .with(module, code)
            .with("deadline", "use crate::list;");
        assert!(!circles(&closed).is_empty(), "{code}");
    }
}

#[test]
fn folders_do_not_import_each_other_in_a_circle() {
    let sources = root_crate();
    assert_eq!(circles(&sources), [""; 0]);
    let short = sources.with("vhost_user/socket", "use crate::kvm::mmio::Mmio;");
    assert_eq!(circles(&short), [""; 0]);
    let closed = short.with("kvm/mmio", "fn f() { crate::vhost_user::socket::send(); }");
    assert_eq!(circles(&closed).len(), 2);
    let tops = sources
        .with("json", "use crate::value;")
        .with("value", "use crate::json::Format;");
    assert!(!circles(&tops).is_empty());
    let long = short
        .with("kvm/mmio", "use super::irq;")
        .with("kvm/irq", "use crate::vhost_user::Listener;");
    assert!(!circles(&long).is_empty());
}

/// Stricter, for the parts that are cut so: not even files of one folder.
#[test]
fn files_of_services_and_of_the_c_abi_import_each_other_in_no_circle() {
    let rest = ["block", "context", "device", "kvm", "vhost_user", "virtio"];
    let services = root_crate().without(&rest);
    assert_eq!(file_circles(&services), [""; 0]);
    let ffi = Sources::read(&top().join("ffi/src"));
    assert_eq!(file_circles(&ffi), [""; 0]);
    let planted = [
        (&services, "monitor/reply", "use super::session;"),
        (&services, "cli/main_loop", "use super::run::run;"),
        (&services, "json/error", "use super::Framer;"),
        (&services, "value", "use crate::json::to_string;"),
        (&ffi, "user", "use crate::bh::QContextBh;"),
        (
            &ffi,
            "timer/cell",
            "fn f() { super::qcontext_timer_del(); }",
        ),
    ];
    for (sources, module, code) in planted {
        let wrong = file_circles(&sources.with(module, code));
        assert!(!wrong.is_empty(), "{module}: {code}");
    }
}

#[test]
fn nothing_knows_what_it_must_not_know() {
    let sources = root_crate();
    assert_eq!(banned_imports(&sources, &BANNED_IMPORTS), [""; 0]);
    assert_eq!(banned_words(&sources, &BANNED_WORDS), [""; 0]);
    let imports = [
        ("device/object", "use crate::block::flush;"),
        ("device", "fn f() { crate::virtio::blk::Blk::new(); }"),
        ("kvm/mmio", "use crate::virtio::{blk, notify::Signal};"),
        ("vhost_user/session", "use crate::block::Node;"),
        ("virtio/worker/serving", "use super::super::blk::Blk;"),
    ];
    for (module, code) in imports {
        let wrong = banned_imports(&sources.with(module, code), &BANNED_IMPORTS);
        assert!(!wrong.is_empty(), "{code}");
    }
    let words = [
        ("device/options", "struct BlkOptions;"),
        (
            "device/life",
            "fn f() { say(\"the last flush of the drive\"); }",
        ),
        ("virtio/blk", "use std::os::unix::net;"),
        ("virtio/memory", "fn f(fd: VHOST_FD) {}"),
        ("virtio/blk/queue", "impl gsource::IoSink for Queue {}"),
        ("cli/run", "use io_uring::IoUring;"),
        ("kvm/serial", "use io_uring::squeue;"),
    ];
    for (module, code) in words {
        let wrong = banned_words(&sources.with(module, code), &BANNED_WORDS);
        assert!(!wrong.is_empty(), "{code}");
    }
}

#[test]
fn a_type_has_a_name_of_its_own() {
    let sources = root_crate();
    assert_eq!(types_of_one_name(&sources), [""; 0]);
    let planted = sources.with("kvm/ram", "pub(super) enum Listener { A }");
    assert_eq!(types_of_one_name(&planted).len(), 1);
}

/// The packages that a user of a library gets who asks for none of its services. What its tests use does not count.
fn packages_of(library: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--no-default-features"])
        .args(["--package", library])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let packages = String::from_utf8(output.stdout).unwrap();
    let names = packages.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn library_without_services_is_the_loop_alone() {
    let packages = packages_of("qcontext");
    for package in ["qcontext", "gsource", "glib", "libc"] {
        assert!(packages.iter().any(|name| name == package), "{packages:?}");
    }
    for service in ["gio", "gio-unix", "vm-memory", "linux-loader", "kvm-ioctls"] {
        assert!(!packages.iter().any(|name| name == service), "{service}");
    }
}

#[test]
fn event_sources_know_nothing_of_contexts() {
    for file in files(&top().join("gsource")) {
        let text = blank(&fs::read_to_string(&file).unwrap(), Strings::Keep);
        for word in ["QContext", "qcontext::"] {
            assert!(!text.contains(word), "{file:?} names {word}");
        }
    }
    let packages = packages_of("gsource");
    assert!(packages.contains(&"glib".to_owned()), "{packages:?}");
    assert!(
        !packages.iter().any(|name| name.starts_with("qcontext")),
        "gsource depends on {packages:?}"
    );
}

#[test]
fn every_file_says_what_it_is_and_whether_it_may_be_unsafe() {
    let files =
        ["src", "tests", "examples", "gsource", "ffi/src"].map(|folder| files(&top().join(folder)));
    for path in files.iter().flatten() {
        let text = fs::read_to_string(path).unwrap();
        let says = |start: &str| text.lines().any(|line| line.starts_with(start));
        assert!(text.starts_with("//! "), "{} has no header", path.display());
        let kinds = ["forbid", "deny", "allow"].map(|kind| format!("#![{kind}(unsafe_code)]"));
        assert!(
            kinds.iter().any(|kind| says(kind)),
            "{} does not say whether it may be unsafe",
            path.display()
        );
    }
}
