//! What queries say of images of all formats, member by member.
//!
//! Differences that are known and allowed, besides those of [`difference`]:
//!
//! * a node without a plain file name is named by its options in QEMU (`json:`), and by the name of its file or its driver here
//! * an extent of a vmdk image is named by its real path here
//! * a `blkdebug` node has a file name with a prefix in QEMU
//! * nodes that an image names itself come in another order
#![forbid(unsafe_code)]

use std::fs;

use qcontext::object::Value;
use support::qemu_img::qemu_img;

use super::both::{Both, difference, plain, with};

const IMAGES: [&[&str]; 12] = [
    &["-f", "qcow2", "base.qcow2", "1M"],
    &[
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        "mid.qcow2",
        "2M",
    ],
    &[
        "-f",
        "qcow2",
        "-b",
        "mid.qcow2",
        "-F",
        "qcow2",
        "-o",
        "lazy_refcounts=on,refcount_bits=8,cluster_size=4k",
        "top.qcow2",
        "4M",
    ],
    &["-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "1M"],
    &["-f", "qcow2", "-o", "data_file=data.raw", "ext.qcow2", "1M"],
    &[
        "-f",
        "qcow2",
        "-o",
        "data_file=data2.raw,data_file_raw=on",
        "ext2.qcow2",
        "1M",
    ],
    &["-f", "vmdk", "sparse.vmdk", "1M"],
    &[
        "-f",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
        "stream.vmdk",
        "1M",
    ],
    &[
        "-f",
        "vmdk",
        "-o",
        "subformat=twoGbMaxExtentFlat",
        "flat.vmdk",
        "1M",
    ],
    &[
        "-f",
        "vmdk",
        "-o",
        "subformat=twoGbMaxExtentSparse",
        "split.vmdk",
        "1M",
    ],
    &["-f", "vdi", "v.vdi", "1M"],
    &["-f", "vhdx", "v.vhdx", "1M"],
];

/// Nodes over the images: the name, the driver, the file, other options.
const NODES: [(&str, &str, &str, &str); 12] = [
    ("top", "qcow2", "top.qcow2", ""),
    ("old", "qcow2", "old.qcow2", r#","cache":{"direct":true}"#),
    ("ext", "qcow2", "ext.qcow2", ""),
    ("ext2", "qcow2", "ext2.qcow2", r#","read-only":true"#),
    (
        "alone",
        "qcow2",
        "mid.qcow2",
        r#","read-only":true,"backing":null"#,
    ),
    ("sparse", "vmdk", "sparse.vmdk", r#","read-only":true"#),
    ("stream", "vmdk", "stream.vmdk", r#","read-only":true"#),
    ("flat", "vmdk", "flat.vmdk", r#","read-only":true"#),
    ("split", "vmdk", "split.vmdk", r#","read-only":true"#),
    ("vdi", "vdi", "v.vdi", r#","read-only":true"#),
    ("vhdx", "vhdx", "v.vhdx", r#","read-only":true"#),
    ("plain", "raw", "a.img", r#","detect-zeroes":"on""#),
];

/// Nodes over these nodes: the name, the driver, its child, other options.
const ABOVE: [(&str, &str, &str, &str); 4] = [
    (
        "slow",
        "throttle",
        r#""file":"top""#,
        r#","throttle-group":"group""#,
    ),
    ("copies", "copy-on-read", r#""file":"slow""#, ""),
    ("same", "raw", r#""file":"copies""#, ""),
    ("faulty", "blkdebug", r#""image":"old""#, ""),
];

#[test]
fn images_of_all_formats_are_shown_as_in_the_storage_daemon() {
    let Some(mut both) = Both::start(&["--object", "throttle-group,id=group"]) else {
        return;
    };
    both.make_images();
    for (name, driver, file, more) in NODES {
        both.alike(&with(
            "blockdev-add",
            &format!(
                r#""driver":"{driver}","node-name":"{name}","file":{{"driver":"file","filename":"{file}"}}{more}"#
            ),
        ));
    }
    for (name, driver, child, more) in ABOVE {
        both.alike(&with(
            "blockdev-add",
            &format!(r#""driver":"{driver}","node-name":"{name}",{child}{more}"#),
        ));
    }
    for flat in ["", r#""flat":false"#, r#""flat":true"#] {
        let request = with("query-named-block-nodes", flat);
        both.alike_images(&request);
    }
    both.alike(&plain("query-block"));
    both.alike_stats(&with("query-blockstats", r#""query-nodes":true"#));
    both.alike(&plain("query-blockstats"));
}

/// `change-backing-file` of an image in a chain.
fn rename(device: &str, image: &str, file: &str) -> String {
    let arguments =
        format!(r#""device":"{device}","image-node-name":"{image}","backing-file":"{file}""#);
    with("change-backing-file", &arguments)
}

#[test]
fn backing_files_are_named_anew_as_by_the_storage_daemon() {
    let Some(mut both) = Both::start(&[]) else {
        return;
    };
    both.make_images();
    for (name, backing) in [
        ("base", ""),
        ("mid", r#","backing":"base""#),
        ("top", r#","backing":"mid""#),
    ] {
        both.alike(&with(
            "blockdev-add",
            &format!(r#""driver":"qcow2","node-name":"{name}","file":{{"driver":"file","filename":"{name}.qcow2"}}{backing}"#),
        ));
    }
    both.alike(&with(
        "blockdev-add",
        r#""driver":"null-co","node-name":"other""#,
    ));
    for request in [
        rename("nosuch", "mid", "x.qcow2"),
        rename("top", "nosuch", "x.qcow2"),
        rename("top", "base", "x.qcow2"),
        rename("mid", "mid", "x.qcow2"),
        rename("top", "mid", "x.qcow2"),
        rename("top", "top", "folder/y.qcow2"),
        with("query-named-block-nodes", r#""flat":true"#),
        rename("top", "top", ""),
        with("query-named-block-nodes", r#""flat":true"#),
    ] {
        both.alike_images(&request);
    }
    // QEMU says that the argument is invalid.
    let refused = both.ours.ask(&rename("top", "top", &"x".repeat(1100)));
    let error = refused
        .member("error")
        .and_then(|error| error.member("desc"));
    let complaint = error.and_then(Value::as_str).unwrap();
    assert!(
        complaint.ends_with("x': Backing file name too long"),
        "{complaint}"
    );
    for image in ["mid.qcow2", "top.qcow2"] {
        let [theirs, ours] = [&both.theirs, &both.ours].map(|daemon| {
            let info = ["info", "-U", "--output=json", image];
            let text = qemu_img(daemon.directory.path(), &info);
            qcontext::json::parse(&text).unwrap()
        });
        assert_eq!(difference(image, &theirs, &ours), None);
    }
}

impl Both {
    /// The statistics of all nodes with a name of their own. The data of a vmdk image in several files is in the first of these in QEMU, and in
    /// the one with the descriptor here.
    #[track_caller]
    fn alike_stats(&mut self, request: &str) {
        let of = |answer: Value| {
            let Some(Value::List(nodes)) = answer.member("return") else {
                panic!("{answer:?}");
            };
            let name_of = |node: &Value| {
                let name = node.member("node-name").and_then(Value::as_str);
                name.unwrap().to_owned()
            };
            let is_compared =
                |name: &str| !name.starts_with('#') && !["flat", "split"].contains(&name);
            let mut named: Vec<(String, Value)> = nodes
                .iter()
                .map(|node| (name_of(node), node.clone()))
                .filter(|(name, _)| is_compared(name))
                .collect();
            named.sort_by_key(|(name, _)| name.clone());
            named
        };
        let (theirs, ours) = (of(self.theirs.ask(request)), of(self.ours.ask(request)));
        assert_eq!(theirs.len(), ours.len());
        for ((name, wanted), (_, found)) in theirs.iter().zip(&ours) {
            assert_eq!(difference(name, wanted, found), None);
        }
    }

    /// As [`Both::alike`], but for what may differ of images.
    #[track_caller]
    fn alike_images(&mut self, request: &str) {
        if !request.contains("query-named-block-nodes") {
            return self.alike(request);
        }
        let theirs = nodes(self.theirs.ask(request));
        let ours = nodes(self.ours.ask(request));
        assert_eq!(theirs.len(), ours.len(), "{ours:?}");
        for (wanted, found) in theirs.iter().zip(&ours) {
            let difference = difference("", wanted, found);
            assert_eq!(difference, None, "{wanted:?}\n{found:?}");
        }
    }

    /// The same images in both directories: some have a number that was drawn when they were made.
    fn make_images(&self) {
        let [from, to] = [&self.theirs, &self.ours].map(|daemon| daemon.directory.path());
        for arguments in IMAGES {
            qemu_img(from, &[&["create", "-q"], arguments].concat());
        }
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
}

/// The nodes of an answer, by their names, files and drivers, without what may differ.
fn nodes(answer: Value) -> Vec<Value> {
    let Some(Value::List(nodes)) = answer.member("return") else {
        panic!("{answer:?}");
    };
    let key = |node: &Value| {
        let text = |name| {
            node.member(name)
                .and_then(Value::as_str)
                .unwrap()
                .to_owned()
        };
        let generated = text("node-name").starts_with("#block");
        let name = if generated {
            String::new()
        } else {
            text("node-name")
        };
        let file = text("file");
        // Only nodes without a name of their own are told apart by their file.
        let file = if generated {
            last_part(&file).to_owned()
        } else {
            String::new()
        };
        (name, file, text("drv"))
    };
    let mut nodes: Vec<Value> = nodes.iter().map(without_folders).collect();
    nodes.sort_by_key(key);
    nodes
}

/// The value with the last part of each path, and without the prefix of a `blkdebug` node.
fn without_folders(value: &Value) -> Value {
    match value {
        Value::Dict(members) => {
            let members = members.iter();
            let members = members.map(|(name, member)| (name.clone(), without_folders(member)));
            Value::Dict(members.collect())
        }
        Value::List(items) => items.iter().map(without_folders).collect(),
        Value::Str(text) if text.starts_with('/') => last_part(text).into(),
        Value::Str(text) => text.strip_prefix("blkdebug::").unwrap_or(text).into(),
        other => other.clone(),
    }
}

fn last_part(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}
