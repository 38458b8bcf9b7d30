//! Bitmaps, and what else changes an image or its place in a chain: each change ends well, and again with the death of the program. QEMU's
//! daemon does the same with images of its own, and says what the bitmaps are.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs;

use qcontext::object::Value;
use support::directory::TestDir;
use support::process::qctx;
use support::qemu_img::{check, content, overlay, qemu_img};

use super::daemon::{Bitmaps, Daemon};
use super::{STORAGE_DAEMON, is_missing};

/// The images that may have bitmaps, and the nodes over them at the end of a change.
type Change = fn(&mut Daemon<'_>) -> Vec<(&'static str, &'static str)>;

fn node(name: &str) -> String {
    format!(
        r#""driver":"qcow2","node-name":"{name}","file":{{"driver":"file","filename":"{name}.qcow2"}}"#
    )
}

fn writes(places: [&str; 2]) -> Vec<String> {
    let one = |place| format!("write -P 7 {place} 300k");
    places.map(one).to_vec()
}

fn resize(daemon: &mut Daemon<'_>, length: u64) {
    daemon.run(
        "block_resize",
        &format!(r#""node-name":"disk","size":{length}"#),
    );
}

/// What was cut off and comes back is another thing: it is dirty here, and not there. A mirror here leaves alone what is zero on both sides.
const DIFFERENT: [(&str, &str); 2] = [("shorter and longer", "disk"), ("mirror", "copy")];

const CHANGES: [(&str, Change); 13] = [
    ("longer", |daemon| {
        resize(daemon, (41 << 20) + 512);
        daemon.write(&writes(["40M", "17M"]));
        vec![("disk", "disk")]
    }),
    ("shorter", |daemon| {
        resize(daemon, (9 << 20) + 512);
        vec![("disk", "disk")]
    }),
    ("shorter and longer", |daemon| {
        resize(daemon, 3 << 20);
        resize(daemon, 33 << 20);
        daemon.write(&writes(["32M", "2M"]));
        vec![("disk", "disk")]
    }),
    ("stream", |daemon| {
        assert_eq!(daemon.job("block-stream", r#""device":"disk""#, false), "");
        vec![("disk", "disk")]
    }),
    ("stream of a part", |daemon| {
        let middle = r#""device":"disk","base-node":"base","backing-file":"./base.qcow2""#;
        assert_eq!(daemon.job("block-stream", middle, false), "");
        vec![("disk", "disk")]
    }),
    ("commit into a base", |daemon| {
        let middle = r#""device":"disk","top-node":"middle","base-node":"base""#;
        assert_eq!(daemon.job("block-commit", middle, false), "");
        vec![("disk", "disk")]
    }),
    ("commit of the disk", |daemon| {
        let whole = r#""device":"disk","base-node":"base""#;
        assert_eq!(daemon.job("block-commit", whole, true), "");
        vec![("disk", "disk")]
    }),
    ("commit into a base with a bitmap", |daemon| {
        daemon.run("blockdev-del", r#""node-name":"disk""#);
        daemon.run("blockdev-add", &node("base"));
        daemon.run(
            "block-dirty-bitmap-add",
            r#""node":"base","name":"b","persistent":true"#,
        );
        daemon.run(
            "blockdev-add",
            &format!(r#"{},"backing":"base""#, node("middle")),
        );
        daemon.run(
            "blockdev-add",
            &format!(r#"{},"backing":"middle""#, node("disk")),
        );
        let middle = r#""device":"disk","top-node":"middle","base-node":"base""#;
        assert_eq!(daemon.job("block-commit", middle, false), "");
        vec![("disk", "disk"), ("base", "base")]
    }),
    ("snapshot", |daemon| {
        overlay(daemon.directory(), "over.qcow2", "disk.qcow2", "qcow2");
        daemon.run(
            "blockdev-add",
            &format!(r#"{},"backing":null"#, node("over")),
        );
        daemon.run("blockdev-snapshot", r#""node":"disk","overlay":"over""#);
        daemon.run(
            "block-dirty-bitmap-add",
            r#""node":"over","name":"b","persistent":true"#,
        );
        daemon.write_to("over", &writes(["3M", "12M"]));
        vec![("disk", "disk"), ("over", "over")]
    }),
    ("snapshot-sync", |daemon| {
        // Without a user, the overlay would go at once.
        let user = r#""type":"nbd","id":"u","node-name":"disk","name":"user","writable":true"#;
        daemon.run("block-export-add", user);
        let over = r#""node-name":"disk","snapshot-file":"over.qcow2","snapshot-node-name":"over""#;
        daemon.run("blockdev-snapshot-sync", over);
        daemon.run(
            "block-dirty-bitmap-add",
            r#""node":"over","name":"b","persistent":true"#,
        );
        daemon.write_to("over", &writes(["3M", "12M"]));
        vec![("disk", "disk"), ("over", "over")]
    }),
    ("another backing file", |daemon| {
        let name = r#""device":"disk","image-node-name":"disk","backing-file":"././middle.qcow2""#;
        daemon.run("change-backing-file", name);
        daemon.write(&writes(["3M", "12M"]));
        vec![("disk", "disk")]
    }),
    ("opened anew", |daemon| {
        let options = r#""backing":"middle","discard":"unmap""#;
        let again = format!(r#""options":[{{{},{options}}}]"#, node("disk"));
        daemon.run("blockdev-reopen", &again);
        daemon.write(&writes(["3M", "12M"]));
        vec![("disk", "disk")]
    }),
    ("mirror", |daemon| {
        let create = ["create", "-q", "-f", "qcow2", "copy.qcow2", "16M"];
        qemu_img(daemon.directory(), &create);
        daemon.run("blockdev-add", &node("copy"));
        daemon.run(
            "block-dirty-bitmap-add",
            r#""node":"copy","name":"c","persistent":true"#,
        );
        let copy = r#""device":"disk","target":"copy","sync":"full""#;
        assert_eq!(daemon.job("blockdev-mirror", copy, true), "");
        vec![("disk", "disk"), ("copy", "copy")]
    }),
];

/// Three images over each other, of which the first and the last have a bitmap, and the last has a snapshot.
fn chain(options: &str) -> TestDir {
    let directory = TestDir::new();
    let path = directory.path();
    let base = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        options,
        "base.qcow2",
        "16M",
    ];
    qemu_img(path, &base);
    overlay(path, "middle.qcow2", "base.qcow2", "qcow2");
    let disk = "create -q -f qcow2 -b middle.qcow2 -F qcow2 -o";
    let mut disk: Vec<_> = disk.split(' ').collect();
    disk.extend([options, "disk.qcow2"]);
    qemu_img(path, &disk);
    for image in ["base", "middle", "disk"] {
        let mut daemon = Daemon::start(OsStr::new(STORAGE_DAEMON), &directory, "");
        if image != "disk" {
            daemon.run("blockdev-del", r#""node-name":"disk""#);
            daemon.run("blockdev-add", &node(image));
        }
        if image == "disk" {
            let bitmap = r#""node":"disk","name":"a","persistent":true,"granularity":512"#;
            daemon.run("block-dirty-bitmap-add", bitmap);
        }
        daemon.write_to(image, &writes(["1M", "8M"]));
        daemon.quit();
    }
    qemu_img(path, &["snapshot", "-c", "s", "disk.qcow2"]);
    directory
}

/// Copies of the images of a chain.
fn copied(images: &TestDir) -> TestDir {
    let directory = TestDir::new();
    for name in ["base.qcow2", "middle.qcow2", "disk.qcow2"] {
        fs::copy(images.file(name), directory.file(name)).unwrap();
    }
    directory
}

/// The images by name, as the program opens them.
const MORE: &str = ",backing.driver=qcow2,backing.node-name=middle,backing.file.driver=file,\
    backing.file.filename=middle.qcow2,backing.backing.driver=qcow2,backing.backing.node-name=base,\
    backing.backing.file.driver=file,backing.backing.file.filename=base.qcow2";

/// What the images of a change have, as QEMU's daemon sees them.
fn kept(directory: &TestDir, image: &str) -> Bitmaps {
    let mut daemon = Daemon::start_image(OsStr::new(STORAGE_DAEMON), directory, image, "");
    let bitmaps = daemon.bitmaps();
    daemon.quit();
    check(directory.path(), &format!("{image}.qcow2"), false);
    bitmaps
}

fn has(directory: &TestDir, image: &str) -> String {
    let name = format!("{image}.qcow2");
    qemu_img(directory.path(), &["info", "--output=json", &name])
}

#[test]
fn bitmaps_stay_right_when_something_else_changes_the_image() {
    if is_missing() {
        return;
    }
    for options in ["cluster_size=64k", "cluster_size=4k,refcount_bits=64"] {
        let made = chain(options);
        for (name, change) in CHANGES {
            let programs = [OsStr::new(STORAGE_DAEMON), &qctx()];
            let seen = programs.map(|program| {
                let directory = copied(&made);
                let mut daemon = Daemon::start(program, &directory, MORE);
                daemon.add("new", "");
                daemon.write(&writes(["2M", "7M"]));
                let images = change(&mut daemon);
                let mut wanted = Vec::new();
                for (image, node) in &images {
                    wanted.push((*image, daemon.bitmaps_of(node)));
                }
                daemon.quit();
                for (image, bitmaps) in &wanted {
                    check(directory.path(), &format!("{image}.qcow2"), false);
                    assert!(!has(&directory, image).contains("in-use"), "{name} {image}");
                    assert_eq!(
                        kept(&directory, image),
                        *bitmaps,
                        "{name} {image} {program:?}"
                    );
                }
                (content(directory.path(), "disk.qcow2"), wanted)
            });
            for (theirs, ours) in seen[0].1.iter().zip(&seen[1].1) {
                if !DIFFERENT.contains(&(name, ours.0)) {
                    assert_eq!(theirs, ours, "{options} {name}");
                }
            }
            assert!(seen[0].0 == seen[1].0, "{options} {name}");
        }
    }
}

#[test]
fn a_kill_after_something_else_changed_the_image_leaves_bitmaps_in_use() {
    if is_missing() {
        return;
    }
    let made = chain("cluster_size=4k");
    for (name, change) in CHANGES {
        let directory = copied(&made);
        let mut daemon = Daemon::start(&qctx(), &directory, MORE);
        daemon.add("new", "");
        daemon.write(&writes(["2M", "7M"]));
        let images = change(&mut daemon);
        daemon.kill();
        for (image, _) in images {
            let file = format!("{image}.qcow2");
            check(directory.path(), &file, true);
            qemu_img(directory.path(), &["check", "-q", "-r", "leaks", &file]);
            if image == "disk" {
                let info = has(&directory, image);
                assert!(info.contains("in-use"), "{name}");
                let left = kept(&directory, image);
                assert!(!left.is_empty(), "{name}");
                for (bitmap, state, _) in left {
                    let inconsistent = Some(&Value::Bool(true));
                    assert_eq!(state.member("inconsistent"), inconsistent, "{name}");
                    qemu_img(directory.path(), &["bitmap", "--remove", &file, &bitmap]);
                }
            }
            check(directory.path(), &file, false);
        }
    }
}

#[test]
fn what_cannot_be_done_to_an_image_with_bitmaps_says_why() {
    if is_missing() {
        return;
    }
    let directory = chain("cluster_size=64k");
    let path = directory.path();
    qemu_img(path, &["bitmap", "--add", "base.qcow2", "low"]);
    overlay(path, "over.qcow2", "disk.qcow2", "qcow2");
    let before = content(path, "over.qcow2");
    let mut daemon = Daemon::start(&qctx(), &directory, MORE);
    let read_only = format!(
        r#""options":[{{{},"backing":"middle","read-only":true}}]"#,
        node("disk")
    );
    assert_eq!(
        daemon.error("blockdev-reopen", &read_only),
        "node 'disk' has the persistent bitmap 'a': 'read-only' cannot change"
    );
    for top in ["middle", "disk"] {
        let commit =
            format!(r#""device":"disk","job-id":"j","top-node":"{top}","base-node":"base""#);
        assert_eq!(
            daemon.error("block-commit", &commit),
            "node 'base' has the persistent bitmap 'low': 'read-only' cannot change"
        );
    }
    daemon.quit();
    let names = ",backing.driver=qcow2,backing.node-name=low,backing.file.driver=file,\
        backing.file.filename=disk.qcow2";
    let lower = r#""device":"disk","job-id":"j","top":"middle.qcow2","base":"base.qcow2""#;
    qemu_img(path, &["bitmap", "--remove", "base.qcow2", "low"]);
    // The header of an image that is only read would have to name the base.
    let mut longer = Daemon::start_image(&qctx(), &directory, "over", names);
    assert_eq!(
        longer.error("block-commit", lower),
        "node 'low' has the persistent bitmap 'a': 'read-only' cannot change"
    );
    longer.quit();
    for image in ["base.qcow2", "middle.qcow2", "disk.qcow2", "over.qcow2"] {
        check(path, image, false);
    }
    assert!(!has(&directory, "disk").contains("in-use"));
    assert!(before == content(path, "over.qcow2"));
}

#[test]
fn an_image_whose_bitmap_lacks_something_keeps_its_length() {
    if is_missing() {
        return;
    }
    let directory = chain("cluster_size=64k");
    Daemon::start(&qctx(), &directory, "").kill();
    for program in [OsStr::new(STORAGE_DAEMON), &qctx()] {
        let mut daemon = Daemon::start(program, &directory, "");
        for size in [8 << 20, 32 << 20] {
            let size = format!(r#""node-name":"disk","size":{size}"#);
            let expected = "Bitmap 'a' is inconsistent and cannot be used";
            assert_eq!(daemon.error("block_resize", &size), expected);
        }
        let bitmap = r#""node":"disk","name":"a""#;
        if program != STORAGE_DAEMON {
            daemon.run("block-dirty-bitmap-remove", bitmap);
            resize(&mut daemon, 32 << 20);
        }
        daemon.quit();
        check(directory.path(), "disk.qcow2", false);
    }
}
