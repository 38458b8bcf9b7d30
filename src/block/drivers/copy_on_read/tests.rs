//! Images keep what is read from their backing files.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use support::skip::skip;

use crate::block::common::duplicate_node;
use crate::block::options::{blockdev, drive};
use crate::block::test_rig::Rig;
use crate::object::options::{parse, parse_dotted};

use super::*;

const UNIT: usize = 65536;

/// A directory with an overlay over a raw file whose 64 KiB units begin with 1, 2, 3, 4. `None` without qemu-img.
struct Images(PathBuf);

impl Images {
    fn new(name: &str) -> Option<Images> {
        let unique = format!("qcontext-{}-cor-{name}", std::process::id());
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir(&path).unwrap();
        let images = Images(path);
        let mut base = vec![0; 4 * UNIT];
        (0..4_u8).for_each(|unit| base[usize::from(unit) * UNIT] = unit + 1);
        std::fs::write(images.0.join("base.raw"), base).unwrap();
        let mut create = Command::new("qemu-img");
        create.args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "base.raw",
            "-F",
            "raw",
            "top.qcow2",
        ]);
        match create.current_dir(&images.0).status() {
            Ok(status) => assert!(status.success()),
            Err(error) => {
                skip(error);
                return None;
            }
        }
        Some(images)
    }

    fn top(&self) -> String {
        self.0.join("top.qcow2").display().to_string()
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Reads or writes a unit's worth of bytes; `byte` is first in what is written.
fn transfer(rig: &Rig, op: Op, offset: usize, byte: u8) -> Vec<u8> {
    let mut memory = vec![0; UNIT];
    memory[0] = byte;
    let shared = Mutex::new(&mut memory);
    let before = rig.finished().len();
    rig.submit([0], |channel, tag| {
        let mut request = channel.request(op, offset as u64, tag);
        request.set_memory(&mut shared.lock().unwrap()[..]);
        request
    });
    rig.wait(|| rig.finished().len() > before);
    assert_eq!(rig.finished()[before].1, 0);
    memory
}

/// Which units the image itself has, by another reading of it without its backing file. It needs no lock: a program that another test
/// starts has the files of this one, and their locks, for a moment.
fn copied(images: &Images) -> [u8; 4] {
    let text = format!(
        "qcow2,node-name=alone,read-only=on,backing=,file.driver=file,file.locking=off,file.filename={}",
        images.top()
    );
    let rig = Rig::reading(&blockdev(parse_dotted("driver", &text).unwrap()).unwrap());
    [0, 1, 2, 3].map(|unit| transfer(&rig, Op::Read, unit * UNIT, 0)[0])
}

#[test]
fn what_was_read_is_in_the_image_and_what_was_not_is_not() {
    let Some(images) = Images::new("blockdev") else {
        return;
    };
    let text = format!(
        "copy-on-read,node-name=cor,file.driver=qcow2,file.file.driver=file,file.file.filename={}",
        images.top()
    );
    let rig = Rig::over(&blockdev(parse_dotted("driver", &text).unwrap()).unwrap());
    transfer(&rig, Op::Write, UNIT, 9);
    assert_eq!(transfer(&rig, Op::Read, 0, 0)[0], 1);
    // Across one that the image has and one that it has not.
    let both = transfer(&rig, Op::Read, UNIT + UNIT / 2, 0);
    assert_eq!(both[UNIT / 2], 3);
    assert_eq!(transfer(&rig, Op::Read, UNIT, 0)[0], 9);
    drop(rig);
    assert_eq!(copied(&images), [1, 9, 3, 0]);
}

#[test]
fn a_drive_keeps_what_is_read_if_it_can_be_written() {
    for (options, expected) in [
        ("copy-on-read=on", [0, 2, 0, 0]),
        ("copy-on-read=on,throttling.iops-total=100000", [0, 2, 0, 0]),
        ("copy-on-read=off", [0; 4]),
        ("copy-on-read=on,readonly=on", [0; 4]),
    ] {
        let Some(images) = Images::new("drive") else {
            return;
        };
        let text = format!(
            "if=none,id=cor0,format=qcow2,file={},{options}",
            images.top()
        );
        let rig = Rig::reading(&drive(parse(None, &text).unwrap()).unwrap());
        assert_eq!(transfer(&rig, Op::Read, UNIT, 0)[0], 2);
        drop(rig);
        assert_eq!(copied(&images), expected, "{options}");
    }
}

#[test]
fn a_read_only_image_cannot_keep_anything() {
    let text = "copy-on-read,node-name=cor-ro,file.driver=null-co,file.read-only=on";
    let refused = blockdev(parse_dotted("driver", text).unwrap()).unwrap_err();
    assert_eq!(refused.to_string(), "Block node is read-only");
}

#[test]
fn what_is_behind_the_bottom_is_not_kept() {
    for (bottom, expected) in [("cor-top", [0; 4]), ("cor-base", [0, 2, 0, 0])] {
        let Some(images) = Images::new(bottom) else {
            return;
        };
        let text = format!(
            "copy-on-read,node-name=cor-filter,bottom={bottom},file.driver=qcow2,file.node-name=cor-top,\
             file.file.driver=file,file.file.filename={},\
             file.backing.driver=raw,file.backing.node-name=cor-base,file.backing.file.driver=file,\
             file.backing.file.filename={}",
            images.top(),
            images.0.join("base.raw").display()
        );
        let rig = Rig::over(&blockdev(parse_dotted("driver", &text).unwrap()).unwrap());
        assert_eq!(transfer(&rig, Op::Read, UNIT, 0)[0], 2);
        drop(rig);
        assert_eq!(copied(&images), expected, "{bottom}");
    }
}

#[test]
fn a_bottom_is_an_image_of_the_chain() {
    let options = "copy-on-read,node-name=cor-low,file.driver=null-co";
    for (bottom, expected) in [
        ("cor-nosuch", "Bottom node 'cor-nosuch' not found"),
        ("cor-below", "Bottom node 'cor-below' is a filter"),
        (
            "cor-elsewhere",
            "Bottom node 'cor-elsewhere' is not in a chain starting from '",
        ),
    ] {
        let other = |text: &str| blockdev(parse_dotted("driver", text).unwrap()).unwrap();
        let elsewhere = other("null-co,node-name=cor-elsewhere");
        elsewhere.enter(duplicate_node).unwrap();
        let filter = other("copy-on-read,node-name=cor-below,file.driver=null-co");
        filter.enter(duplicate_node).unwrap();
        let text = format!("{options},bottom={bottom}");
        let refused = blockdev(parse_dotted("driver", &text).unwrap()).unwrap_err();
        assert!(refused.to_string().starts_with(expected), "{refused}");
    }
}
