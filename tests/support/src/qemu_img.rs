//! QEMU's own program for images: creates, checks and converts them.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output};

use crate::deadline::wait_for;

/// Why there are no images, if `qemu-img` is missing.
pub fn missing() -> Option<String> {
    let found = Command::new("qemu-img").arg("--version").output();
    found.err().map(|error| format!("qemu-img: {error}"))
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("qemu-img");
    command.args(arguments).current_dir(directory);
    command.output().unwrap()
}

/// Runs `qemu-img` in a directory, with success.
pub fn qemu_img(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let error = text(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {error}");
    text(&output.stdout)
}

/// Makes a qcow2 image over another image.
pub fn overlay(directory: &Path, name: &str, backing: &str, format: &str) {
    let arguments = ["create", "-f", "qcow2", "-b", backing, "-F", format, name];
    qemu_img(directory, &arguments);
}

/// Checks that an image has no error, and no lost cluster either unless these are allowed.
pub fn check(directory: &Path, image: &str, may_leak: bool) {
    let output = run(directory, &["check", image]);
    let code = output.status.code();
    let accepted = code == Some(0) || may_leak && code == Some(3);
    assert!(accepted, "{image}: {output:?}");
}

/// Waits until no other program has the image. The kernel lets go of the files of a killed program's io_uring some time after
/// the program's end.
pub fn wait_unlocked(directory: &Path, image: &str) {
    wait_for("the locks of the image to go", || {
        let output = run(directory, &["info", image]);
        output.status.success().then_some(())
    });
}

/// What a guest reads of an image.
pub fn content(directory: &Path, image: &str) -> Vec<u8> {
    let raw = directory.join("content.raw");
    let raw_name = raw.to_str().unwrap();
    qemu_img(directory, &["convert", "-O", "raw", image, raw_name]);
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}
