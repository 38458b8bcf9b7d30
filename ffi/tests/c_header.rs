//! The committed header is what the source says. `QCONTEXT_UPDATE_HEADER=1` writes it.
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::path::Path;

/// The version macros, computed from the parts of the one version number.
fn version_macros() -> String {
    let part = |name: &str, value: &str| format!("#define QCONTEXT_VERSION_{name} {value}\n");
    [
        part("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        part("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        part("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
        "/* A version as one number, to compare with qcontext_version(). */\n".to_owned(),
        "#define QCONTEXT_VERSION_ENCODE(major, minor, patch) \\\n".to_owned(),
        "  ((guint32)((major) * 1000000 + (minor) * 1000 + (patch)))\n".to_owned(),
        "#define QCONTEXT_VERSION \\\n  QCONTEXT_VERSION_ENCODE(QCONTEXT_VERSION_MAJOR, QCONTEXT_VERSION_MINOR, \
         QCONTEXT_VERSION_PATCH)\n\n"
            .to_owned(),
        "/* The domain of the library's errors. */\n#define QCONTEXT_ERROR (qcontext_error_quark())\n".to_owned(),
    ]
    .concat()
}

fn generate(folder: &Path) -> String {
    let mut config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    config.after_includes = Some(version_macros());
    let bindings = cbindgen::Builder::new()
        .with_crate(folder)
        .with_config(config)
        .generate()
        .unwrap();
    let mut text = Vec::new();
    bindings.write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn header_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = folder.join("include/qcontext.h");
    let wanted = generate(folder);
    if std::env::var_os("QCONTEXT_UPDATE_HEADER").is_some() {
        std::fs::write(&place, &wanted).unwrap();
    }
    let committed = std::fs::read_to_string(&place).unwrap();
    assert!(
        committed == wanted,
        "{} is not current: run the tests with QCONTEXT_UPDATE_HEADER=1",
        place.display()
    );
}

#[test]
fn every_function_of_the_source_is_in_the_symbol_map() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = std::fs::read_to_string(folder.join("qcontext.map")).unwrap();
    let mapped: Vec<&str> = map
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';'))
        .filter(|name| name.starts_with("qcontext_"))
        .collect();
    let mut defined = Vec::new();
    let files = std::fs::read_dir(folder.join("src")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    for file in paths.filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(file).unwrap();
        for (index, _) in text.match_indices("extern \"C\" fn qcontext_") {
            let name = &text[index + "extern \"C\" fn ".len()..];
            defined.push(name[..name.find('(').unwrap()].to_owned());
        }
    }
    defined.sort();
    assert!(!defined.is_empty());
    assert_eq!(mapped, defined);
}
