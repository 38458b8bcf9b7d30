//! Arrows between the parts of the source never go up: the loop does not know of devices, devices
//! do not know of transports and sockets, the event sources do not know of contexts.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The layers from below, each with the top-level modules of `src/` that belong to it. A device ties
/// a node, a device and a transport together, so it stands with the transports.
const LAYERS: [&[&str]; 4] = [
    &[
        "lib", "error", "trace", "context", "object", "json", "value",
    ],
    &["block", "virtio", "net", "job"],
    &["monitor", "vhost_user", "kvm", "top", "device"],
    &["cli", "main"],
];

/// What the code of a module (a prefix of its path below `src/`) must never name.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    (
        "virtio",
        &[
            "UnixStream",
            "UnixListener",
            "std::net",
            "unix::net",
            "gio::",
            "AF_UNIX",
            "kvm",
        ],
    ),
    ("vhost_user", &["crate::block"]),
    ("kvm", &["crate::block"]),
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All `.rs` files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The text without comments: what is left names something. (No string of ours holds `//` before
/// a path of modules.)
fn code_of(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

fn leading_name(text: &str) -> &str {
    let text = text.trim_start();
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// The names at the first level of a brace group, whose opening brace is gone: `a, b::{c, d}, e}`.
fn grouped_names(group: &str) -> Vec<&str> {
    let mut names = vec![leading_name(group)];
    let mut depth = 1;
    for (index, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(leading_name(&group[index + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// The top-level modules that the code names as `crate::module` or `crate::{module, ...}`.
fn named_modules(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (index, prefix) in code.match_indices("crate::") {
        let rest = &code[index + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(grouped_names(group)),
            None => names.push(leading_name(rest)),
        }
    }
    names
}

/// The upward edges of the code of one module.
fn upward<'a>(module: &str, code: &'a str) -> Vec<&'a str> {
    let here = layer(module);
    named_modules(code)
        .into_iter()
        .filter(|name| layer(name) > here)
        .collect()
}

fn module_of(file: &Path) -> String {
    let below = file
        .strip_prefix(top().join("src"))
        .unwrap()
        .with_extension("");
    below.iter().next().unwrap().to_string_lossy().into_owned()
}

#[test]
fn upward_edges_are_seen() {
    let code = code_of(
        "use crate::{Error, block::{Node, Kind}, vhost_user};\n// crate::kvm\nlet a = crate::cli::run();",
    );
    assert_eq!(upward("virtio", &code), ["vhost_user", "cli"]);
    assert_eq!(upward("context", &code), ["block", "vhost_user", "cli"]);
    assert!(upward("main", &code).is_empty());
}

#[test]
fn no_arrow_goes_up() {
    let mut wrong = Vec::new();
    for file in sources(&top().join("src")) {
        let module = module_of(&file);
        assert!(
            layer(&module).is_some(),
            "{module} has no layer: add it to LAYERS in this test"
        );
        let text = code_of(&fs::read_to_string(&file).unwrap());
        wrong.extend(
            upward(&module, &text)
                .iter()
                .map(|to| format!("{file:?} -> {to}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn devices_name_no_socket_and_transports_no_block_layer() {
    let all = sources(&top().join("src"));
    // Unit tests may play a peer.
    for file in all.iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = code_of(&fs::read_to_string(file).unwrap());
        let rules = FORBIDDEN
            .iter()
            .filter(|(module, _)| *module == module_of(file));
        for word in rules.flat_map(|(_, words)| *words) {
            assert!(!text.contains(word), "{file:?} names {word}");
        }
    }
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
    for file in sources(&top().join("gsource")) {
        let text = code_of(&fs::read_to_string(&file).unwrap());
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
    let files = ["src", "tests", "gsource", "ffi/src"].map(|folder| sources(&top().join(folder)));
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
