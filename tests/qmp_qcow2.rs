//! What QMP says of a qcow2 image and of those behind it, and which files an image may name.
//!
//! Needs `qemu-img`; the test says SKIP where that is not installed.
#![forbid(unsafe_code)]
#![cfg(feature = "monitor")]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::os::unix::fs::symlink;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use support::directory::TestDir;
use support::over::Over;
use support::qemu_img::{missing, qemu_img};
use support::server::Server;
use support::skip::skip;

#[test]
fn image_is_shown_with_the_length_of_its_backing_chain() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    let create = |arguments: &[&str]| qemu_img(directory.path(), arguments);
    create(&["create", "-f", "raw", "base.raw", "1M"]);
    create(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "base.raw",
        "-F",
        "raw",
        "one.qcow2",
    ]);
    create(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "one.qcow2",
        "-F",
        "qcow2",
        "two.qcow2",
    ]);
    let node = "qcow2,node-name=top,file.driver=file,file.filename=two.qcow2";
    let mut server = Server::start(&directory, &["--blockdev", node]);
    let mut client = server.client();
    let nodes = client.ask(r#"{"execute":"query-named-block-nodes"}"#);
    let depth = |count: usize| {
        nodes
            .matches(&format!("\"backing_file_depth\": {count}"))
            .count()
    };
    assert_eq!((depth(2), depth(1)), (1, 1), "{nodes}");
    assert_eq!(nodes.matches("\"backing_file\"").count(), 2, "{nodes}");
    assert!(nodes.contains("one.qcow2"), "{nodes}");
    drop(client);
    server.stop();
}

#[test]
fn images_name_files_in_allowed_folders_only() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    for folder in ["images", "other", "secret"] {
        std::fs::create_dir(directory.file(folder)).unwrap();
        std::fs::write(directory.file(folder).join("base.raw"), [1; 4096]).unwrap();
    }
    let link = directory.file("images").join("link.raw");
    symlink(directory.file("secret").join("base.raw"), link).unwrap();
    let images = directory.file("images");
    let overlay = |name: &str, base: &str| {
        let base = ["-b", base, "-F", "raw", name, "4096"];
        qemu_img(
            &images,
            &[["create", "-u", "-f", "qcow2"].as_slice(), &base].concat(),
        );
    };
    overlay("good.qcow2", "base.raw");
    overlay("good-other.qcow2", "../other/base.raw");
    overlay("up.qcow2", "../secret/base.raw");
    overlay("link.qcow2", "link.raw");
    let data = "data_file=../secret/data.raw";
    qemu_img(
        &images,
        &["create", "-f", "qcow2", "-o", data, "data.qcow2", "4096"],
    );
    let flat = "# Disk DescriptorFile\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"base.raw\" 0\n";
    std::fs::write(directory.file("secret").join("flat.vmdk"), flat).unwrap();

    let folders = ["-image-folder", "images", "-image-folder", "other"];
    let mut server = Server::start(&directory, &folders);
    let mut client = server.client();
    let mut add = |driver: &str, path: &str, more: &str| {
        let file = format!(r#""file":{{"driver":"file","filename":"{path}","read-only":true}}"#);
        let name = path.replace(['/', '.'], "-");
        let arguments = format!(
            r#"{{"driver":"{driver}","node-name":"{name}","read-only":true,{file}{more}}}"#
        );
        client.ask(format!(
            r#"{{"execute":"blockdev-add","arguments":{arguments}}}"#
        ))
    };
    for good in ["images/good.qcow2", "images/good-other.qcow2"] {
        assert_eq!(add("qcow2", good, ""), "{\"return\": {}}", "{good}");
    }
    for bad in ["images/up.qcow2", "images/link.qcow2", "images/data.qcow2"] {
        let answer = add("qcow2", bad, "");
        assert!(
            answer.contains("outside of the folders that -image-folder allows"),
            "{answer}"
        );
    }
    let answer = add("vmdk", "secret/flat.vmdk", "");
    assert!(
        answer.contains("outside of the folders that -image-folder allows"),
        "{answer}"
    );
    // What the user says himself is not limited.
    let backing = r#","backing":{"driver":"file","filename":"secret/base.raw"}"#;
    assert_eq!(add("qcow2", "images/up.qcow2", backing), "{\"return\": {}}");
    drop(client);
    server.stop();
}

/// Somebody changes names in an allowed folder while images are opened: what was checked is what is opened.
#[test]
fn a_link_that_appears_in_an_allowed_folder_leads_nowhere() {
    if let Some(reason) = missing() {
        return skip(reason);
    }
    let directory = TestDir::new();
    for folder in ["images", "secret"] {
        std::fs::create_dir(directory.file(folder)).unwrap();
        std::fs::write(directory.file(folder).join("base.raw"), [1; 4096]).unwrap();
    }
    let (base, link) = ("images/base.raw", "images/link.raw");
    symlink("../secret/base.raw", directory.file(link)).unwrap();
    let create = ["create", "-u", "-f", "qcow2", "-b", "base.raw", "-F", "raw"];
    let create = [create.as_slice(), &["disk.qcow2", "4096"]].concat();
    qemu_img(&directory.file("images"), &create);
    let server = Server::start(&directory, &["-image-folder", "images"]);
    let mut client = server.client();
    let add = r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"n","read-only":true,"file":{"driver":"file","filename":"images/disk.qcow2"}}}"#;
    let del = r#"{"execute":"blockdev-del","arguments":{"node-name":"n"}}"#;
    let fds = format!("/proc/{}/fd", server.pid());
    let opens_secret = || {
        let links = std::fs::read_dir(&fds).unwrap();
        let target =
            |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
        links
            .filter_map(target)
            .any(|path| path.ends_with("secret/base.raw"))
    };
    let over = Over::default();
    let opened = std::thread::scope(|scope| {
        let end = over.when_dropped();
        scope.spawn(|| {
            let (file, other) = (directory.file(base), directory.file(link));
            while !over.is_set() {
                renameat_with(CWD, &file, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let mut opened = [false; 2];
        for _ in 0..1000 {
            let is_opened = client.ask(add) == "{\"return\": {}}";
            opened[usize::from(is_opened)] = true;
            if is_opened && opens_secret() {
                break;
            }
            if is_opened {
                client.ask(del);
            }
        }
        drop(end);
        opened
    });
    assert!(!opens_secret());
    assert_eq!(opened, [true, true], "refused at times, and not at others");
}
