//! Dirty bitmaps that qcow2 images keep: from one program to the next, with QEMU's storage daemon and `qemu-img` between, and after a kill.
//!
//! * `changes`: what else changes an image or its place in a chain
//! * `daemon`: `qctx` or QEMU's daemon with an image
//!
//! Needs QEMU's programs; the tests say SKIP where one is not installed.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::ffi::OsStr;
use std::process::Command;

use daemon::Daemon;
use qcontext::object::Value;
use support::directory::TestDir;
use support::process::qctx;
use support::qemu_img::{check, qemu_img};
use support::random::Random;
use support::skip::skip;

mod changes;
mod daemon;

const STORAGE_DAEMON: &str = "qemu-storage-daemon";
const LENGTH: u64 = 16 << 20;

/// Says which of QEMU's programs cannot be run.
fn is_missing() -> bool {
    let programs = [STORAGE_DAEMON, "qemu-img", "qemu-io"];
    let mut missing = programs
        .into_iter()
        .filter(|program| Command::new(program).arg("--version").output().is_err());
    let first = missing.next();
    if let Some(program) = first {
        skip(format!("{program} is not installed"));
    }
    first.is_some()
}

fn image(options: &str) -> TestDir {
    let directory = TestDir::new();
    let length = LENGTH.to_string();
    let create = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        options,
        "disk.qcow2",
        &length,
    ];
    qemu_img(directory.path(), &create);
    directory
}

/// Writes at places that look random.
fn writes(random: &mut Random, count: usize) -> Vec<String> {
    let one = |_| {
        let at = random.below(LENGTH / 512) * 512;
        let length = ((random.below(200) + 1) * 512).min(LENGTH - at);
        match random.below(4) {
            0 => format!("write -z {at} {length}"),
            byte => format!("write -P {byte} {at} {length}"),
        }
    };
    (0..count).map(one).collect()
}

/// Both programs open the image in turn, write, and close it; each finds what the other one has left.
#[test]
fn bitmaps_go_from_program_to_program() {
    if is_missing() {
        return;
    }
    for options in [
        "cluster_size=64k",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=2M,lazy_refcounts=off",
    ] {
        let directory = image(options);
        let mut random = Random(5);
        let mut wanted = Vec::new();
        for round in 0..6 {
            let program = if round % 3 == 2 {
                STORAGE_DAEMON.into()
            } else {
                qctx()
            };
            let mut daemon = Daemon::start(&program, &directory, "");
            assert_eq!(daemon.bitmaps(), wanted, "{options} {round}");
            match round {
                0 => {
                    daemon.add("coarse", "");
                    daemon.add("fine", r#","granularity":512"#);
                    daemon.add("stopped", r#","disabled":true"#);
                }
                1 => drop(daemon.run(
                    "block-dirty-bitmap-disable",
                    r#""node":"disk","name":"coarse""#,
                )),
                3 => {
                    daemon.run(
                        "block-dirty-bitmap-remove",
                        r#""node":"disk","name":"stopped""#,
                    );
                    daemon.run(
                        "block-dirty-bitmap-enable",
                        r#""node":"disk","name":"coarse""#,
                    );
                    daemon.run(
                        "block-dirty-bitmap-add",
                        r#""node":"disk","name":"kept in memory""#,
                    );
                }
                4 => drop(daemon.run("block-dirty-bitmap-clear", r#""node":"disk","name":"fine""#)),
                _ => {}
            }
            daemon.write(&writes(&mut random, 12));
            wanted = daemon.bitmaps();
            wanted.retain(|(name, ..)| name != "kept in memory");
            match round % 2 {
                0 => daemon.quit(),
                _ => {
                    daemon.run("blockdev-del", r#""node-name":"disk""#);
                    daemon.quit();
                }
            }
            check(directory.path(), "disk.qcow2", false);
        }
        assert_eq!(wanted.len(), 2);
    }
}

#[test]
fn qemu_img_shows_and_changes_what_was_kept() {
    if is_missing() {
        return;
    }
    let directory = image("cluster_size=64k");
    let mut first = Daemon::start(&qctx(), &directory, "");
    first.add("a", r#","granularity":65536"#);
    first.add("b", r#","granularity":65536"#);
    first.write(&["write 0 1M".to_owned()]);
    first.run("block-dirty-bitmap-clear", r#""node":"disk","name":"b""#);
    first.write(&["write 2M 1M".to_owned()]);
    first.quit();
    let info = qemu_img(directory.path(), &["info", "--output=json", "disk.qcow2"]);
    let info: String = info.split_whitespace().collect();
    assert!(
        info.contains(r#"{"flags":["auto"],"name":"a","granularity":65536}"#),
        "{info}"
    );
    for arguments in [
        &["bitmap", "--add", "disk.qcow2", "c"][..],
        &["bitmap", "--merge", "b", "disk.qcow2", "c"],
        &["bitmap", "--clear", "disk.qcow2", "a"],
        &["bitmap", "--remove", "disk.qcow2", "b"],
    ] {
        qemu_img(directory.path(), arguments);
    }
    let mut second = Daemon::start(&qctx(), &directory, "");
    let bitmaps = second.bitmaps();
    let counts = bitmaps
        .iter()
        .map(|(name, bitmap, _)| (name.as_str(), bitmap.member("count")));
    let counts: Vec<_> = counts.collect();
    assert_eq!(
        counts,
        [
            ("a", Some(&Value::Int(0))),
            ("c", Some(&Value::Int(1 << 20)))
        ]
    );
    second.quit();
    check(directory.path(), "disk.qcow2", false);
}

#[test]
fn a_bitmap_of_a_killed_program_is_inconsistent_and_can_be_removed() {
    if is_missing() {
        return;
    }
    let directory = image("cluster_size=4k");
    let mut first = Daemon::start(&qctx(), &directory, "");
    first.add("a", "");
    first.add("b", "");
    first.write(&["write 0 1M".to_owned()]);
    first.quit();
    let mut second = Daemon::start(&qctx(), &directory, "");
    second.add("new", "");
    second.write(&["write 1M 1M".to_owned()]);
    second.kill();
    check(directory.path(), "disk.qcow2", true);
    qemu_img(
        directory.path(),
        &["check", "-q", "-r", "leaks", "disk.qcow2"],
    );
    let answers = [OsStr::new(STORAGE_DAEMON), &qctx()].map(|program| {
        let mut other = Daemon::start(program, &directory, "");
        let mut seen: Vec<String> = Vec::new();
        for (_, bitmap, _) in other.bitmaps() {
            seen.push(format!("{bitmap:?}"));
        }
        for command in ["clear", "enable", "disable"] {
            let command = format!("block-dirty-bitmap-{command}");
            seen.push(other.error(&command, r#""node":"disk","name":"a""#));
        }
        let merge = r#""node":"disk","target":"b","bitmaps":["a"]"#;
        seen.push(other.error("block-dirty-bitmap-merge", merge));
        other.quit();
        check(directory.path(), "disk.qcow2", false);
        seen
    });
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].len() == 6, "{answers:?}");
    let mut third = Daemon::start(&qctx(), &directory, "");
    third.run("block-dirty-bitmap-remove", r#""node":"disk","name":"a""#);
    third.quit();
    check(directory.path(), "disk.qcow2", false);
    let mut fourth = Daemon::start(&qctx(), &directory, "");
    assert_eq!(fourth.bitmaps().len(), 1);
    fourth.run("block-dirty-bitmap-remove", r#""node":"disk","name":"b""#);
    fourth.quit();
    check(directory.path(), "disk.qcow2", false);
    let info = qemu_img(directory.path(), &["info", "disk.qcow2"]);
    assert!(!info.contains("bitmaps"), "{info}");
}

#[test]
fn a_read_only_image_shows_its_bitmaps_and_keeps_them() {
    if is_missing() {
        return;
    }
    let directory = image("cluster_size=64k");
    let mut first = Daemon::start(&qctx(), &directory, "");
    first.add("a", "");
    first.write(&["write 0 1M".to_owned()]);
    let wanted = first.bitmaps();
    first.quit();
    let before = std::fs::read(directory.file("disk.qcow2")).unwrap();
    let answers = [OsStr::new(STORAGE_DAEMON), &qctx()].map(|program| {
        let mut other = Daemon::start(program, &directory, ",read-only=on,file.read-only=on");
        assert_eq!(other.bitmaps(), wanted);
        let mut seen = Vec::new();
        for command in ["clear", "remove"] {
            let command = format!("block-dirty-bitmap-{command}");
            seen.push(other.error(&command, r#""node":"disk","name":"a""#));
        }
        other.quit();
        seen
    });
    assert_eq!(answers[0], answers[1]);
    assert!(before == std::fs::read(directory.file("disk.qcow2")).unwrap());
}
