//! Dirty bitmaps, command by command: the answers, what the queries say after each, and the bits.
//!
//! A discard that the driver ignores is recorded here and not in QEMU, so there are none.
#![forbid(unsafe_code)]

use std::process::Command;

use qcontext::object::Value;
use support::qemu_img::qemu_img;

use super::both::{Both, Daemon, difference, plain, with};

const ARGUMENTS: [&str; 8] = [
    "--blockdev",
    "null-co,node-name=n,size=67108864",
    "--blockdev",
    "null-co,node-name=m,size=67108864",
    "--blockdev",
    "null-co,node-name=short,size=1048576",
    "--nbd-server",
    "addr.type=unix,addr.path=nbd.sock",
];

/// A node's bitmaps, as the query shows them.
fn bitmaps(daemon: &mut Daemon) -> Vec<(String, Value)> {
    let answer = daemon.ask(&plain("query-named-block-nodes"));
    let Some(Value::List(nodes)) = answer.member("return") else {
        panic!("{answer:?}");
    };
    let mut found: Vec<_> = nodes
        .iter()
        .filter_map(|node| {
            let name = node.member("node-name").and_then(Value::as_str);
            let bitmaps = node.member("dirty-bitmaps")?.clone();
            Some((name.unwrap().to_owned(), bitmaps))
        })
        .collect();
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

impl Both {
    /// Asks both, and compares the answers and the bitmaps after them.
    #[track_caller]
    fn alike_with_bitmaps(&mut self, command: &str, arguments: &str) {
        let request = with(command, arguments);
        self.alike(&request);
        let (theirs, ours) = (bitmaps(&mut self.theirs), bitmaps(&mut self.ours));
        assert_eq!(theirs.len(), ours.len(), "{request}");
        for ((node, wanted), (_, found)) in theirs.iter().zip(&ours) {
            let difference = difference(node, wanted, found);
            assert_eq!(difference, None, "{request}\n{wanted:?}\n{found:?}");
        }
    }

    /// Writes through both daemons' NBD servers.
    fn write(&self, commands: &[&str]) {
        for daemon in [&self.theirs, &self.ours] {
            let mut io = Command::new("qemu-io");
            io.args(["-f", "raw", "-t", "none"]);
            io.args(commands.iter().flat_map(|one| ["-c", one]));
            io.arg("nbd+unix:///n?socket=nbd.sock");
            let output = io.current_dir(daemon.directory.path()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }
}

const HASH: &str = "x-debug-block-dirty-bitmap-sha256";

#[test]
fn bitmaps_do_what_those_of_the_storage_daemon_do() {
    let Some(mut both) = Both::start(&ARGUMENTS) else {
        return;
    };
    both.alike(&with(
        "block-export-add",
        r#""type":"nbd","id":"e","node-name":"n","writable":true"#,
    ));
    let add = "block-dirty-bitmap-add";
    for more in [
        "",
        r#","granularity":512"#,
        r#","granularity":2147483648"#,
        r#","granularity":65536,"disabled":true"#,
    ] {
        let name = more.len();
        both.alike_with_bitmaps(add, &format!(r#""node":"n","name":"b{name}"{more}"#));
    }
    both.write(&["write 1000k 3k", "write -z 2M 64k", "read 0 1M"]);
    both.write(&["write -P 7 67108352 512", "write 0 512"]);
    for (node, name) in [
        ("n", "b0"),
        ("n", "b18"),
        ("n", "b25"),
        ("n", "none"),
        ("x", "b0"),
    ] {
        both.alike_with_bitmaps(HASH, &format!(r#""node":"{node}","name":"{name}""#));
    }
    for (command, name) in [
        ("disable", "b0"),
        ("disable", "b0"),
        ("enable", "b36"),
        ("enable", "none"),
        ("clear", "b25"),
        ("clear", "none"),
        ("remove", "none"),
    ] {
        let command = format!("block-dirty-bitmap-{command}");
        both.alike_with_bitmaps(&command, &format!(r#""node":"n","name":"{name}""#));
    }
    both.write(&["write 10M 1M"]);
    both.alike_with_bitmaps("block-dirty-bitmap-remove", r#""node":"n","name":"b25""#);
    for node in ["m", "short"] {
        both.alike_with_bitmaps(
            add,
            &format!(r#""node":"{node}","name":"far","granularity":4096"#),
        );
    }
    for (target, sources) in [
        ("b36", r#""b0""#),
        ("b18", r#""b36""#),
        ("b0", r#""b0""#),
        ("b0", r#""none""#),
        ("none", r#""b0""#),
        ("b0", r#"{"node":"m","name":"far"}"#),
        ("b0", r#"{"node":"short","name":"far"}"#),
        ("b0", r#"{"node":"x","name":"far"}"#),
        ("b0", r#""b36",{"node":"m","name":"none"}"#),
    ] {
        let arguments = format!(r#""node":"n","target":"{target}","bitmaps":[{sources}]"#);
        both.alike_with_bitmaps("block-dirty-bitmap-merge", &arguments);
        both.alike_with_bitmaps(HASH, r#""node":"n","name":"b18""#);
    }
    let far = r#""node":"m","target":"far","bitmaps":[{"node":"n","name":"b18"}]"#;
    both.alike_with_bitmaps("block-dirty-bitmap-merge", far);
    both.alike_with_bitmaps(HASH, r#""node":"m","name":"far""#);
}

#[test]
fn wrong_bitmaps_are_refused_as_in_the_storage_daemon() {
    let Some(mut both) = Both::start(&ARGUMENTS) else {
        return;
    };
    let long = "x".repeat(1024);
    for arguments in [
        r#""node":"n","name":"a""#,
        r#""node":"n","name":"a""#,
        r#""node":"x","name":"a""#,
        r#""node":"n","name":"""#,
        r#""node":"n","name":"b","granularity":3"#,
        r#""node":"n","name":"b","granularity":256"#,
        r#""node":"n","name":"b","granularity":4294967295"#,
        r#""node":"n","name":"b","granularity":4294967296"#,
        r#""node":"n","name":"b","granularity":-1"#,
        r#""node":"n","name":"b","persistent":true"#,
        &format!(r#""node":"n","name":"{long}""#),
    ] {
        both.alike_with_bitmaps("block-dirty-bitmap-add", arguments);
    }
    for command in ["add", "remove", "clear", "enable", "disable", "merge"] {
        let command = format!("block-dirty-bitmap-{command}");
        both.alike_with_bitmaps(&command, r#""node":"n""#);
        both.alike_with_bitmaps(
            &command,
            r#""node":"x","name":"a","target":"a","bitmaps":[]"#,
        );
    }
}

#[test]
fn the_default_granularity_is_that_of_the_clusters_within_bounds() {
    let Some(mut both) = Both::start(&[]) else {
        return;
    };
    for (size, name) in [("512", "a"), ("4096", "b"), ("16384", "c"), ("262144", "d")] {
        for daemon in [&both.theirs, &both.ours] {
            let size = format!("cluster_size={size}");
            let create = ["create", "-q", "-f", "qcow2", "-o", &size, name, "1M"];
            qemu_img(daemon.directory.path(), &create);
        }
        let file = format!(r#""file":{{"driver":"file","filename":"{name}"}}"#);
        let node = format!(r#""driver":"qcow2","node-name":"{name}",{file}"#);
        both.alike(&with("blockdev-add", &node));
        let bitmap = format!(r#""node":"{name}","name":"default""#);
        both.alike_with_bitmaps("block-dirty-bitmap-add", &bitmap);
    }
}

#[test]
fn transactions_of_bitmaps_are_whole_or_nothing_as_in_the_storage_daemon() {
    let Some(mut both) = Both::start(&ARGUMENTS) else {
        return;
    };
    both.alike(&with(
        "block-export-add",
        r#""type":"nbd","id":"e","node-name":"n","writable":true"#,
    ));
    for name in ["a", "b"] {
        let bitmap = format!(r#""node":"n","name":"{name}""#);
        both.alike_with_bitmaps("block-dirty-bitmap-add", &bitmap);
    }
    both.write(&["write 0 1M"]);
    let action = |kind: &str, data: &str| {
        format!(r#"{{"type":"block-dirty-bitmap-{kind}","data":{{"node":"n",{data}}}}}"#)
    };
    let merge = |target: &str, source: &str| {
        action(
            "merge",
            &format!(r#""target":"{target}","bitmaps":["{source}"]"#),
        )
    };
    let abort = r#"{"type":"abort","data":{}}"#.to_owned();
    let (clear, disable) = (
        action("clear", r#""name":"a""#),
        action("disable", r#""name":"b""#),
    );
    let (add, remove) = (
        action("add", r#""name":"c""#),
        action("remove", r#""name":"b""#),
    );
    let (enable, missing) = (
        action("enable", r#""name":"b""#),
        action("clear", r#""name":"x""#),
    );
    for actions in [
        vec![&clear, &disable, &add, &remove, &abort],
        vec![&clear, &disable, &add, &missing],
        vec![&add, &add],
        vec![&remove, &clear, &disable],
        vec![&remove, &action("add", r#""name":"b""#)],
        vec![&add, &merge("c", "a"), &clear, &disable],
        vec![&disable, &enable, &merge("a", "c"), &missing],
        vec![&enable, &merge("a", "c"), &remove],
    ] {
        let actions: Vec<&str> = actions.into_iter().map(String::as_str).collect();
        let list = format!(r#""actions":[{}]"#, actions.join(","));
        let grouped = format!(r#"{list},"properties":{{"completion-mode":"grouped"}}"#);
        both.alike_with_bitmaps("transaction", &grouped);
        both.alike_with_bitmaps("transaction", &list);
    }
}
