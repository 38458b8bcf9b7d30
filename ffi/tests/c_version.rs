//! There is one version number. Everything that has to repeat it says the same.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::path::Path;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What stands between the first `before` and the `after` that follows it.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap();
    rest.split_once(after).unwrap().0
}

fn of_cargo(text: &str) -> String {
    between(text, "[workspace.package]\nversion = \"", "\"").to_owned()
}

fn of_meson(text: &str) -> String {
    between(text, "version: '", "'").to_owned()
}

/// The newest entry; a revision of the packages alone would follow a dash.
fn of_debian(text: &str) -> String {
    let version = between(text, "qcontext (", ")");
    version.split('-').next().unwrap().to_owned()
}

fn of_header(text: &str) -> String {
    let part = |name: &str| between(text, &format!("#define QCONTEXT_VERSION_{name} "), "\n");
    [part("MAJOR"), part("MINOR"), part("PATCH")].join(".")
}

/// The page of `qctx` is made with its version: see the root's tests/cli_man_page.rs.
fn of_manual_page(text: &str) -> String {
    between(text, "\"qctx ", "\"").to_owned()
}

type Place = (&'static str, fn(&str) -> String);
const PLACES: [Place; 5] = [
    ("Cargo.toml", of_cargo),
    ("meson.build", of_meson),
    ("debian/changelog", of_debian),
    ("ffi/include/qcontext.h", of_header),
    ("docs/qctx.1", of_manual_page),
];

fn read(place: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(place)).unwrap()
}

#[test]
fn every_place_has_the_version() {
    for (place, version) in PLACES {
        assert_eq!(version(&read(place)), VERSION, "the version in {place}");
    }
}

#[test]
fn another_version_is_seen_in_every_place() {
    let parts: Vec<&str> = VERSION.split('.').collect();
    for (place, version) in PLACES {
        let mut text = read(place).replacen(VERSION, "9.8.7", 1);
        for (name, (old, new)) in ["MAJOR", "MINOR", "PATCH"]
            .into_iter()
            .zip(parts.iter().zip(["9", "8", "7"]))
        {
            let macro_of = |value: &str| format!("QCONTEXT_VERSION_{name} {value}\n");
            text = text.replace(&macro_of(old), &macro_of(new));
        }
        assert_eq!(version(&text), "9.8.7", "the version in {place}");
    }
}

#[test]
fn symbols_are_of_no_later_version_than_the_library() {
    let map = read("ffi/qcontext.map");
    let nodes: Vec<(u32, u32)> = map
        .lines()
        .filter_map(|line| line.strip_prefix("QCONTEXT_")?.strip_suffix(" {"))
        .map(|node| {
            let (major, minor) = node.split_once('.').unwrap();
            (major.parse().unwrap(), minor.parse().unwrap())
        })
        .collect();
    let mut parts = VERSION.split('.').map(|part| part.parse::<u32>().unwrap());
    let own = (parts.next().unwrap(), parts.next().unwrap());
    assert!(!nodes.is_empty());
    assert!(nodes.iter().all(|&node| node <= own), "{nodes:?}");
}
