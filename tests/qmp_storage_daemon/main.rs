//! `qctx` in the place of QEMU's storage daemon: the same command lines and the same requests to both, and the answers side
//! by side. What is said of an error may be more than QEMU says, but begins as QEMU's text does.
//!
//! Where no `qemu-storage-daemon` is installed, the tests say so and count as skipped.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod bitmaps;
mod both;
mod graph;
mod images;
mod jobs;
mod schema;

use both::{Both, plain, with};

const NODES: [&str; 4] = [
    "--blockdev",
    "file,node-name=f0,filename=a.img",
    "--blockdev",
    r#"{"driver":"null-co","node-name":"n0","size":1048576}"#,
];

/// `blockdev-add` with these arguments.
fn add(arguments: &str) -> String {
    format!(r#"{{"execute":"blockdev-add","arguments":{{{arguments}}}}}"#)
}

#[test]
fn nodes_come_and_go_as_in_the_storage_daemon() {
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    for request in [
        plain("query-named-block-nodes"),
        add(r#""driver":"raw","node-name":"r0","file":"f0""#),
        add(r#""driver":"raw","node-name":"r1","file":{"driver":"file","filename":"b.img"}"#),
        add(
            r#""driver":"raw","node-name":"r2","file":{"driver":"null-co","node-name":"n2","size":512},"read-only":true"#,
        ),
        with("blockdev-del", r#""node-name":"r2""#),
        plain("query-block"),
        plain("query-blockstats"),
        with("blockdev-del", r#""node-name":"f0""#),
        with("blockdev-del", r#""node-name":"nosuch""#),
        with("blockdev-del", ""),
        with("blockdev-del", r#""node-name":"r0","x":1"#),
        with("block_resize", r#""node-name":"r0","size":4194304"#),
        with("block_resize", r#""node-name":"r0","size":1048576"#),
        with("block_resize", r#""node-name":"nosuch","size":4194304"#),
        with("block_resize", r#""device":"nosuch","size":4194304"#),
        with("block_resize", r#""size":4194304"#),
        with("block_resize", r#""node-name":"r0","size":-1"#),
        with("block_resize", r#""node-name":"r0","size":1.5"#),
        with("block_resize", r#""node-name":"r0""#),
        with("blockdev-del", r#""node-name":"r1""#),
        plain("query-named-block-nodes"),
        with("query-named-block-nodes", r#""flat":true"#),
        with("query-named-block-nodes", r#""flat":5"#),
        with("blockdev-del", r#""node-name":"r0""#),
        with("blockdev-del", r#""node-name":"f0""#),
        plain("query-named-block-nodes"),
    ] {
        both.alike(&request);
    }
}

#[test]
fn parts_zeroes_and_thresholds_are_as_in_the_storage_daemon() {
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    let threshold = |node: &str, offset: &str| {
        with(
            "block-set-write-threshold",
            &format!(r#""node-name":"{node}","write-threshold":{offset}"#),
        )
    };
    for request in [
        add(r#""driver":"raw","node-name":"r0","file":"f0","offset":4096,"size":8192"#),
        add(
            r#""driver":"raw","node-name":"r1","file":{"driver":"file","filename":"b.img"},"offset":512"#,
        ),
        with("block_resize", r#""node-name":"r0","size":4096"#),
        with("block_resize", r#""node-name":"r1","size":4096"#),
        add(r#""driver":"null-co","node-name":"z0","detect-zeroes":"on""#),
        add(r#""driver":"null-co","node-name":"z1","detect-zeroes":"unmap","discard":"unmap""#),
        reopen(r#"{"driver":"null-co","node-name":"z0","detect-zeroes":"unmap"}"#),
        reopen(r#"{"driver":"null-co","node-name":"z1"}"#),
        threshold("nosuch", "5"),
        threshold("z0", "18446744073709551615"),
        threshold("z0", "0"),
        threshold("z0", "4096"),
        with("block-set-write-threshold", r#""node-name":"z0""#),
        plain("query-named-block-nodes"),
    ] {
        both.alike(&request);
    }
}

#[test]
fn wrong_options_of_nodes_have_the_storage_daemons_texts() {
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    for arguments in [
        r#""driver":"null-co","node-name":"n0""#,
        r#""driver":"raw","file":"f0""#,
        r#""driver":"nosuch","node-name":"r2""#,
        r#""node-name":"r2""#,
        r#""driver":5,"node-name":"r2""#,
        r#""driver":"raw","node-name":"1x","file":"f0""#,
        r##""driver":"raw","node-name":"#block1","file":"f0""##,
        r#""driver":"raw","node-name":"a123456789012345678901234567890b","file":"f0""#,
        r#""driver":"raw","node-name":"r3","file":"nosuch""#,
        r#""driver":"raw","node-name":"r3""#,
        r#""driver":"raw","node-name":"r3","file":5"#,
        r#""driver":"raw","node-name":"r3","file":{"filename":"x"}"#,
        r#""driver":"raw","node-name":"r3","file":{"driver":"file"}"#,
        r#""driver":"raw","node-name":"r3","file":{"driver":"file","filename":"nosuch"}"#,
        r#""driver":"raw","node-name":"r3","file":{"driver":"file","filename":"b.img","node-name":"f0"}"#,
        r#""driver":"file","node-name":"r3","filename":"/dev/null""#,
        r#""driver":"file","node-name":"r3","filename":"/tmp""#,
        r#""driver":"host_device","node-name":"r3","filename":"/tmp""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","bogus":1"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","aio":"fast""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","cache":{"direct":5}"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","cache":{"bogus":5}"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","cache":5"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","discard":"x""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","detect-zeroes":"x""#,
        r#""driver":"null-co","node-name":"r3","detect-zeroes":"unmap""#,
        r#""driver":"raw","node-name":"r3","file":"f0","offset":2097152"#,
        r#""driver":"raw","node-name":"r3","file":"f0","offset":512,"size":1048576"#,
        r#""driver":"raw","node-name":"r3","file":"f0","size":1000"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","locking":"x""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","read-only":"on""#,
        r#""driver":"file","node-name":"r3","filename":"b.img","force-share":true"#,
        r#""driver":"file","node-name":"r3","filename":"b.img","force-share":true,"read-only":true"#,
        r#""driver":"null-co","node-name":"n1","size":"1M""#,
        r#""driver":"null-co","node-name":"n1","size":1.5"#,
    ] {
        both.alike(&add(arguments));
    }
}

/// `blockdev-reopen` of these nodes.
fn reopen(nodes: &str) -> String {
    with("blockdev-reopen", &format!(r#""options":[{nodes}]"#))
}

#[test]
fn nodes_are_opened_anew_as_in_the_storage_daemon() {
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    for request in [
        with("object-add", r#""qom-type":"throttle-group","id":"tg0""#),
        with("object-add", r#""qom-type":"throttle-group","id":"tg1""#),
        add(r#""driver":"file","node-name":"f1","filename":"b.img""#),
        add(r#""driver":"raw","node-name":"r0","file":"f0""#),
        add(
            r#""driver":"raw","node-name":"r1","file":{"driver":"null-co","node-name":"n1","size":512}"#,
        ),
        reopen(r#"{"driver":"raw","file":"f0"}"#),
        reopen(r#"{"driver":"raw","node-name":"nosuch","file":"f0"}"#),
        reopen(r#"{"driver":"raw","node-name":"r0","file":"f0"}"#),
        reopen(r#"{"driver":"raw","node-name":"r0","file":"f0","read-only":true}"#),
        plain("query-named-block-nodes"),
        reopen(r#"{"driver":"raw","node-name":"r0"}"#),
        reopen(r#"{"driver":"file","node-name":"r0","filename":"a.img"}"#),
        reopen(r#"{"driver":"raw","node-name":"r0","file":"f1"}"#),
        reopen(r#"{"driver":"raw","node-name":"r0","file":"r0"}"#),
        reopen(r#"{"driver":"raw","node-name":"r0","file":"nosuch"}"#),
        reopen(r#"{"driver":"file","node-name":"f0","filename":"a.img"}"#),
        reopen(r#"{"driver":"file","node-name":"f0","filename":"a.img","read-only":true}"#),
        plain("query-named-block-nodes"),
        reopen(r#"{"driver":"file","node-name":"f0","filename":"a.img"}"#),
        reopen(r#"{"driver":"file","node-name":"f0","filename":"b.img"}"#),
        reopen(r#"{"driver":"file","node-name":"f0","filename":"a.img","aio":"threads"}"#),
        reopen(r#"{"driver":"file","node-name":"f0","filename":"a.img","locking":"off"}"#),
        reopen(
            r#"{"driver":"file","node-name":"f0","filename":"a.img","force-share":true,"read-only":true}"#,
        ),
        reopen(r#"{"driver":"file","node-name":"f0","filename":"a.img","discard":"unmap"}"#),
        reopen(r#"{"driver":"file","node-name":"f0","filename":"a.img","discard":"x"}"#),
        add(r#""driver":"throttle","node-name":"t0","throttle-group":"tg0","file":"n0""#),
        reopen(r#"{"driver":"throttle","node-name":"t0","throttle-group":"tg1","file":"n0"}"#),
        reopen(r#"{"driver":"throttle","node-name":"t0","throttle-group":"nosuch","file":"n0"}"#),
        reopen(r#"{"driver":"throttle","node-name":"t0","file":"n0"}"#),
        with("object-del", r#""id":"tg0""#),
        reopen(r#"{"driver":"null-co","node-name":"n0","size":2097152}"#),
        reopen(r#"{"driver":"null-co","node-name":"n0"}"#),
        reopen(r#"{"driver":"null-co","node-name":"n0","size":1048576}"#),
        reopen(r#"{"driver":"raw","node-name":"r1","file":{"driver":"null-co","size":512}}"#),
        reopen(r#"{"driver":"raw","node-name":"r1","file":"n1","read-only":true}"#),
        reopen(r#"{"driver":"raw","node-name":"r1","file":{"driver":"null-co","size":1024}}"#),
        reopen(
            r#"{"driver":"raw","node-name":"r0","file":"f0"},{"driver":"raw","node-name":"nosuch","file":"f0"}"#,
        ),
    ] {
        both.alike(&request);
    }
}

/// `block-export-add` of a disk with these arguments.
fn disk(arguments: &str) -> String {
    with(
        "block-export-add",
        &format!(r#""type":"vhost-user-blk",{arguments}"#),
    )
}

#[test]
fn exports_come_and_go_as_in_the_storage_daemon() {
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    let unix = |id: &str, node: &str, more: &str| {
        disk(&format!(
            r#""id":"{id}","node-name":"{node}","addr":{{"type":"unix","path":"{id}.sock"}}{more}"#
        ))
    };
    for request in [
        add(r#""driver":"file","node-name":"ro","filename":"b.img","read-only":true"#),
        with("object-add", r#""qom-type":"iothread","id":"io0""#),
        plain("query-block-exports"),
        unix(
            "e0",
            "f0",
            r#","writable":true,"num-queues":2,"iothread":"io0""#,
        ),
        plain("query-block-exports"),
        unix("e0", "f0", ""),
        unix("e1", "f0", r#","writable":true"#),
        unix("e2", "n0", r#","logical-block-size":4096"#),
        unix("e3", "ro", ""),
        plain("query-block-exports"),
        with("blockdev-del", r#""node-name":"f0""#),
        unix("e4", "nosuch", ""),
        unix("e4", "ro", r#","writable":true"#),
        unix("1e", "n0", ""),
        unix("e4", "n0", r#","num-queues":0"#),
        unix("e4", "n0", r#","num-queues":70000"#),
        unix("e4", "n0", r#","logical-block-size":1000"#),
        unix("e4", "n0", r#","logical-block-size":256"#),
        unix("e4", "n0", r#","logical-block-size":4194304"#),
        unix("e4", "n0", r#","iothread":"nosuch""#),
        unix("e4", "n0", r#","bogus":1"#),
        unix("e4", "n0", r#","writable":"on""#),
        unix("nosuch/e4", "n0", ""),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"unix","path":"/nosuch/e4.sock"}"#),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"inet","host":"localhost","port":"1"}"#),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"unix","path":"e4.sock","foo":1}"#),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"unix"}"#),
        disk(r#""id":"e4","node-name":"n0","addr":{"type":"nosuch"}"#),
        disk(r#""id":"e4","node-name":"n0","addr":5"#),
        disk(r#""id":"e4","node-name":"n0""#),
        disk(r#""id":"e4""#),
        disk(r#""node-name":"n0""#),
        with("block-export-add", r#""id":"e4""#),
        with(
            "block-export-add",
            r#""type":"nosuch","id":"e4","node-name":"n0""#,
        ),
        with("block-export-del", r#""id":"nosuch""#),
        with("block-export-del", ""),
        with("block-export-del", r#""id":"e1","mode":"foo""#),
    ] {
        both.alike(&request);
    }
    for (id, mode) in [
        ("e0", ""),
        ("e2", r#","mode":"hard""#),
        ("e3", r#","mode":"safe""#),
    ] {
        let request = with("block-export-del", &format!(r#""id":"{id}"{mode}"#));
        both.deleted(&request, id);
    }
    both.alike(&plain("query-block-exports"));
    both.deleted(&with("block-export-del", r#""id":"e1""#), "e1");
    both.alike(&with("blockdev-del", r#""node-name":"f0""#));
}

#[test]
fn tls_credentials_have_the_storage_daemons_answers() {
    if let Some(reason) = support::pki::missing() {
        return support::skip::skip(reason);
    }
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    for daemon in [&both.theirs, &both.ours] {
        support::pki::make(&daemon.directory.file("pki"), "disks.example");
    }
    let creds = |id: &str, more: &str| {
        let arguments = format!(r#""qom-type":"tls-creds-x509","id":"{id}","dir":"pki"{more}"#);
        with("object-add", &arguments)
    };
    let start = |id: &str| {
        let address = r#"{"type":"unix","data":{"path":"nbd.sock"}}"#;
        let arguments = format!(r#""addr":{address},"tls-creds":"{id}""#);
        with("nbd-server-start", &arguments)
    };
    let connect = |id: &str| {
        add(&format!(
            r#""driver":"nbd","node-name":"n1","server":{{"type":"unix","path":"x"}},"tls-creds":"{id}","tls-hostname":"x""#
        ))
    };
    for request in [
        with("object-add", r#""qom-type":"iothread","id":"io0""#),
        with("object-add", r#""qom-type":"tls-creds-x509","id":"x""#),
        creds("x", r#","endpoint":"both""#),
        creds("x", r#","verify-peer":1"#),
        creds("client", ""),
        creds("server", r#","endpoint":"server","verify-peer":false"#),
        creds("server", r#","endpoint":"server""#),
        start("nosuch"),
        start("io0"),
        start("client"),
        connect("nosuch"),
        connect("io0"),
        connect("server"),
        start("server"),
        with("object-del", r#""id":"client""#),
        plain("nbd-server-stop"),
        with("object-del", r#""id":"server""#),
    ] {
        both.alike(&request);
    }
}

/// `block-export-add` of a node for NBD clients with these arguments.
fn nbd(arguments: &str) -> String {
    with("block-export-add", &format!(r#""type":"nbd",{arguments}"#))
}

#[test]
fn the_nbd_server_has_the_storage_daemons_answers() {
    let Some(mut both) = Both::start(&NODES) else {
        return;
    };
    let start =
        |address: &str, more: &str| with("nbd-server-start", &format!(r#""addr":{address}{more}"#));
    let unix = r#"{"type":"unix","data":{"path":"nbd.sock"}}"#;
    let inet = |more: &str| {
        let address =
            format!(r#"{{"type":"inet","data":{{"host":"127.0.0.1","port":"1"{more}}}}}"#);
        start(&address, "")
    };
    let node = |server: &str| {
        add(&format!(
            r#""driver":"nbd","node-name":"n9","server":{{{server}}}"#
        ))
    };
    for request in [
        add(r#""driver":"file","node-name":"ro","filename":"b.img","read-only":true"#),
        plain("nbd-server-stop"),
        with("nbd-server-add", r#""device":"f0""#),
        nbd(r#""id":"e0","node-name":"f0""#),
        start(r#"{"type":"unix","data":{"path":"/nosuch/nbd.sock"}}"#, ""),
        start(r#"{"type":"unix","data":{}}"#, ""),
        start(r#"{"type":"nosuch","data":{}}"#, ""),
        start(unix, r#","tls-creds":"nosuch""#),
        inet(r#","ipv4":false,"ipv6":false"#),
        inet(r#","ipv4":1"#),
        inet(r#","to":65536"#),
        inet(r#","bogus":1"#),
        node(r#""type":"inet","host":"127.0.0.1","port":"1""#),
        node(r#""type":"inet","host":"127.0.0.1","port":"1","ipv4":false,"ipv6":false"#),
        node(r#""type":"inet","host":"127.0.0.1","port":"1","ipv4":false,"to":3"#),
        node(r#""type":"inet","host":"127.0.0.1","port":"1","numeric":true,"keep-alive":true"#),
        node(r#""type":"unix","path":"x","tight":false"#),
        node(r#""type":"fd""#),
        start(unix, r#","max-connections":-1"#),
        start(unix, r#","bogus":1"#),
        start(unix, r#","max-connections":3,"handshake-max-seconds":30"#),
        start(unix, ""),
        with("nbd-server-add", ""),
        with("nbd-server-add", r#""device":"nosuch""#),
        with(
            "nbd-server-add",
            r#""device":"f0","name":"x","writable":true,"description":"text""#,
        ),
        with("nbd-server-add", r#""device":"f0","name":"x""#),
        with(
            "nbd-server-add",
            r#""device":"f0","name":"y","bitmap":"nosuch""#,
        ),
        with("nbd-server-add", r#""device":"ro","writable":true"#),
        plain("query-block-exports"),
        nbd(r#""id":"e1","node-name":"f0","name":"x""#),
        nbd(r#""id":"e1","node-name":"f0","name":"e1","bitmaps":["nosuch"]"#),
        nbd(r#""id":"e1","node-name":"f0","name":"e1","bitmaps":[{"node":"f0","name":"nosuch"}]"#),
        nbd(r#""id":"e1","node-name":"ro","writable":true"#),
        nbd(r#""id":"e1","node-name":"n0","allocation-depth":true,"writable":true"#),
        nbd(r#""id":"e2","node-name":"f0","writable":1"#),
        nbd(r#""id":"e2","node-name":"f0","bogus":1"#),
        plain("query-block-exports"),
        disk(r#""id":"v0","node-name":"n0","addr":{"type":"unix","path":"v0.sock"}"#),
        with("nbd-server-remove", r#""name":"nosuch""#),
        with("nbd-server-remove", r#""name":"v0""#),
        with("nbd-server-remove", r#""name":"x","mode":"foo""#),
        with("blockdev-del", r#""node-name":"f0""#),
    ] {
        both.alike(&request);
    }
    both.deleted(&with("nbd-server-remove", r#""name":"x""#), "x");
    both.deleted(
        &with("block-export-del", r#""id":"e1","mode":"hard""#),
        "e1",
    );
    both.deleted(&plain("nbd-server-stop"), "ro");
    for request in [
        plain("query-block-exports"),
        plain("nbd-server-stop"),
        with("blockdev-del", r#""node-name":"f0""#),
        start(unix, ""),
        nbd(r#""id":"e1","node-name":"ro""#),
    ] {
        both.alike(&request);
    }
}

#[test]
fn objects_and_unknown_commands_have_the_storage_daemons_texts() {
    let Some(mut both) = Both::start(&[]) else {
        return;
    };
    for request in [
        plain("nosuch"),
        with("quit", r#""a":1"#),
        with("object-add", r#""qom-type":"nosuch","id":"a""#),
        with("object-add", r#""id":"a""#),
        with("object-add", r#""qom-type":"iothread""#),
        with("object-add", r#""qom-type":"iothread","id":"1a""#),
        with("object-add", r#""qom-type":"iothread","id":"a","x":1"#),
        with(
            "object-add",
            r#""qom-type":"iothread","id":"a","poll-max-ns":-5"#,
        ),
        with(
            "object-add",
            r#""qom-type":"iothread","id":"a","poll-max-ns":"1""#,
        ),
        with(
            "object-add",
            r#""qom-type":"iothread","id":"a","poll-max-ns":5"#,
        ),
        with("object-add", r#""qom-type":"iothread","id":"a""#),
        with("qom-get", r#""path":"/objects/a","property":"poll-max-ns""#),
        with(
            "qom-set",
            r#""path":"/objects/a","property":"poll-max-ns","value":7"#,
        ),
        with("qom-get", r#""path":"/objects/a","property":"poll-max-ns""#),
        with("qom-list", r#""path":"/nosuch""#),
        with("qom-list-properties", r#""typename":"nosuch""#),
        with("object-del", r#""id":"a""#),
        with("object-del", r#""id":"a""#),
    ] {
        both.alike(&request);
    }
}

#[test]
fn jobs_that_do_not_exist_have_the_storage_daemons_texts() {
    let Some(mut both) = Both::start(&[]) else {
        return;
    };
    let id = r#""id":"nosuch""#;
    let device = r#""device":"nosuch""#;
    let verbs = [
        "cancel", "complete", "dismiss", "finalize", "pause", "resume",
    ];
    for verb in verbs {
        both.alike(&with(&format!("job-{verb}"), id));
        both.alike(&with(&format!("job-{verb}"), ""));
        let name = if matches!(verb, "dismiss" | "finalize") {
            id
        } else {
            device
        };
        both.alike(&with(&format!("block-job-{verb}"), name));
    }
    for request in [
        plain("query-jobs"),
        plain("query-block-jobs"),
        with("block-job-cancel", r#""device":"nosuch","force":true"#),
        with("block-job-cancel", r#""device":"nosuch","force":1"#),
        with("block-job-set-speed", r#""device":"nosuch","speed":1"#),
        with("block-job-set-speed", r#""device":"nosuch""#),
        with(
            "block-job-change",
            r#""id":"nosuch","type":"mirror","copy-mode":"background""#,
        ),
        with("block-job-change", r#""id":"nosuch","type":"mirror""#),
        with("block-job-change", r#""id":"nosuch","type":"stream""#),
        with("block-job-change", r#""id":"nosuch","type":"nosuch""#),
    ] {
        both.alike(&request);
    }
}

/// Two parents of a node, which `blkdebug` lets need and refuse to share any permission.
#[test]
fn each_permission_is_refused_with_both_parents_as_in_the_storage_daemon() {
    for permission in ["consistent-read", "write", "write-unchanged", "resize"] {
        for (first, second) in [
            ("unshare-child-perms", "take-child-perms"),
            ("take-child-perms", "unshare-child-perms"),
        ] {
            let Some(mut both) = Both::start(&NODES) else {
                return;
            };
            let parent = |name: &str, access: &str| {
                let text = format!(
                    r#""driver":"blkdebug","node-name":"{name}","image":"n0","{access}":["{permission}"]"#
                );
                add(&text)
            };
            both.alike(&parent("p0", first));
            both.alike(&parent("p1", second));
            let answer = both.ours.ask(&parent("p2", second));
            let error = answer
                .member("error")
                .and_then(|error| error.member("desc"));
            let text = error.and_then(qcontext::object::Value::as_str).unwrap();
            let name = permission.replace('-', " ");
            for part in [&format!("'{name}'"), "'p0'", "'p2'"] {
                assert!(text.contains(part), "{text}");
            }
            both.alike(&plain("query-named-block-nodes"));
        }
    }
}
