//! Jobs: what clients hear of them, in which order, and what `blockdev-create` makes, as `qemu-img` sees it.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use qcontext::json;
use qcontext::object::Value;
use support::deadline::wait_for;
use support::qemu_img::overlay;

use super::both::{Both, Daemon, difference, plain, with};

/// `blockdev-create` with these options, as the job `j`.
fn create(options: &str) -> String {
    with(
        "blockdev-create",
        &format!(r#""job-id":"j","options":{{{options}}}"#),
    )
}

/// What became of a job.
#[derive(Debug, PartialEq)]
enum Outcome {
    Refused(String),
    /// The events, and the job's error.
    Concluded(Vec<String>, Option<String>),
}

impl Daemon {
    /// Starts the job `j`, waits until it is concluded, and dismisses it.
    fn create(&mut self, options: &str) -> Outcome {
        self.run_job(&create(options))
    }

    /// The same with a request of any kind.
    fn run_job(&mut self, request: &str) -> Outcome {
        let mut heard = Vec::new();
        self.client.send(request.as_bytes());
        let mut is_answered = false;
        while !is_answered || heard.last().is_none_or(|last| last != "concluded") {
            let value = json::parse(&self.client.line()).unwrap();
            if let Some(error) = value.member("error") {
                return Outcome::Refused(
                    error.member("desc").unwrap().as_str().unwrap().to_owned(),
                );
            }
            match value.member("event").and_then(Value::as_str) {
                None => is_answered = true,
                Some("JOB_STATUS_CHANGE") => {
                    let status = value.member("data").unwrap().member("status").unwrap();
                    heard.push(status.as_str().unwrap().to_owned());
                }
                Some(other) => heard.push(other.to_owned()),
            }
        }
        let jobs = self.ask(&plain("query-jobs"));
        let Some(Value::List(jobs)) = jobs.member("return") else {
            panic!("{jobs:?}");
        };
        assert_eq!(jobs.len(), 1);
        let error = jobs[0].member("error").and_then(Value::as_str);
        let error = error.map(str::to_owned);
        self.ask(&with("job-dismiss", r#""id":"j""#));
        Outcome::Concluded(heard, error)
    }

    /// What `qemu-img` prints about an image, in JSON.
    fn image(&self, arguments: &[&str], name: &str) -> Value {
        let mut command = Command::new("qemu-img");
        command.args(arguments).args(["--output=json", "-U", name]);
        let output = command.current_dir(self.directory.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let problems = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?} {name} {text} {problems}"
        );
        json::parse(&text).unwrap()
    }
}

impl Both {
    /// Both make the same of it. True if there is an image now.
    #[track_caller]
    fn create(&mut self, options: &str) -> bool {
        let (theirs, ours) = (self.theirs.create(options), self.ours.create(options));
        match (&theirs, &ours) {
            (Outcome::Concluded(heard, Some(error)), Outcome::Concluded(ours, Some(our_error))) => {
                assert_eq!(heard, ours, "{options}");
                assert!(
                    our_error.starts_with(error),
                    "{options}\n{error}\n{our_error}"
                );
                false
            }
            (Outcome::Refused(error), Outcome::Refused(our_error)) => {
                assert!(
                    our_error.starts_with(error),
                    "{options}\n{error}\n{our_error}"
                );
                false
            }
            _ => {
                assert_eq!(theirs, ours, "{options}");
                true
            }
        }
    }

    /// Both make an image that is good and of the same shape.
    #[track_caller]
    fn same_image(&mut self, options: &str, name: &str) {
        assert!(self.create(options), "{options}");
        let (theirs, ours) = (self.shape(name, true), self.shape(name, false));
        assert_eq!(difference("", &theirs, &ours), None, "{options}");
    }

    fn shape(&self, name: &str, of_theirs: bool) -> Value {
        let daemon = if of_theirs { &self.theirs } else { &self.ours };
        let [check, info] = ["check", "info"].map(|command| daemon.image(&[command], name));
        let member = |key| (key, info.member(key).cloned().unwrap_or(Value::Null));
        Value::dict([
            member("virtual-size"),
            member("format"),
            member("cluster-size"),
            member("backing-filename"),
            member("backing-filename-format"),
            // Not in what is compared elsewhere.
            ("features", member("format-specific").1),
            (
                "clusters",
                check
                    .member("total-clusters")
                    .cloned()
                    .unwrap_or(Value::Null),
            ),
            (
                "allocated",
                check
                    .member("allocated-clusters")
                    .cloned()
                    .unwrap_or(Value::Null),
            ),
        ])
    }
}

#[test]
fn files_are_created_as_by_the_storage_daemon() {
    let Some(mut both) = Both::start(&[]) else {
        return;
    };
    for options in [
        r#""driver":"file","filename":"new","size":1048576"#,
        r#""driver":"file","filename":"new","size":1000000"#,
        r#""driver":"file","filename":"new","size":0"#,
        r#""driver":"file","filename":"/nosuch/new","size":512"#,
        r#""driver":"file","filename":"new","size":1048576,"preallocation":"off","nocow":true"#,
        r#""driver":"file","filename":"new","size":1048576,"preallocation":"metadata""#,
        r#""driver":"file","filename":"new","size":3145728,"preallocation":"falloc""#,
        r#""driver":"file","filename":"new","size":3145728,"preallocation":"full""#,
        r#""driver":"file","filename":"new","size":1048576,"preallocation":"nosuch""#,
        r#""driver":"file","filename":"new""#,
        r#""driver":"file","size":512"#,
        r#""driver":"file","filename":"new","size":512,"bogus":1"#,
        r#""driver":"null-co""#,
        r#""driver":"raw""#,
        r#""driver":"nosuch""#,
    ] {
        if both.create(options) {
            // QEMU writes the first block of each file.
            let is_reserved = options.contains("falloc") || options.contains("full");
            let sizes = [&both.theirs, &both.ours].map(|daemon| {
                let made = daemon.directory.file("new").metadata().unwrap();
                (made.len(), is_reserved.then(|| made.blocks()))
            });
            assert_eq!(sizes[0], sizes[1], "{options}");
        }
    }
    both.alike(&with(
        "blockdev-create",
        r#""options":{"driver":"file","filename":"new","size":0}"#,
    ));
    both.alike(&with(
        "blockdev-create",
        r#""job-id":"1x","options":{"driver":"file","filename":"new","size":0}"#,
    ));
}

const FILES: [&str; 4] = [
    "--blockdev",
    "file,node-name=f,filename=a.img",
    "--blockdev",
    "file,node-name=d,filename=b.img",
];

fn qcow2(more: &str) -> String {
    format!(r#""driver":"qcow2","file":"f","size":67108864{more}"#)
}

#[test]
fn qcow2_images_are_created_as_by_the_storage_daemon() {
    let Some(mut both) = Both::start(&FILES) else {
        return;
    };
    for more in [
        "",
        r#","version":"v2""#,
        r#","version":"v3","cluster-size":2097152"#,
        r#","cluster-size":512,"refcount-bits":1"#,
        r#","refcount-bits":64,"lazy-refcounts":true"#,
        r#","extended-l2":true,"compression-type":"zstd""#,
        r#","preallocation":"metadata""#,
        r#","preallocation":"metadata","cluster-size":4096,"refcount-bits":8"#,
        r#","preallocation":"falloc""#,
        r#","preallocation":"full""#,
        r#","preallocation":"metadata","extended-l2":true"#,
        r#","data-file":"d""#,
        r#","data-file":"d","data-file-raw":true"#,
        r#","data-file":"d","preallocation":"metadata""#,
    ] {
        both.same_image(&qcow2(more), "a.img");
    }
    let backed = r#","backing-file":"base.img","backing-fmt":"raw""#;
    for daemon in [&both.theirs, &both.ours] {
        daemon.directory.image("base.img", 1);
    }
    both.same_image(&qcow2(backed), "a.img");
    let allocated = format!(r#"{backed},"extended-l2":true,"preallocation":"metadata""#);
    both.same_image(&qcow2(&allocated), "a.img");
}

#[test]
fn a_data_file_keeps_what_the_storage_daemon_keeps() {
    let Some(mut both) = Both::start(&FILES) else {
        return;
    };
    for more in [
        "",
        r#","data-file-raw":true"#,
        r#","preallocation":"metadata""#,
        r#","preallocation":"falloc""#,
        r#","preallocation":"full""#,
    ] {
        // Shorter than the image, as long, and longer.
        for length in [1 << 20, 2 << 20, 3 << 20] {
            both.alike(&with(
                "block_resize",
                &format!(r#""node-name":"d","size":{length}"#),
            ));
            for daemon in [&both.theirs, &both.ours] {
                std::fs::write(daemon.directory.file("b.img"), vec![0xab; length]).unwrap();
            }
            let options =
                format!(r#""driver":"qcow2","file":"f","size":2097152,"data-file":"d"{more}"#);
            both.same_image(&options, "a.img");
            let [theirs, ours] = [&both.theirs, &both.ours]
                .map(|daemon| std::fs::read(daemon.directory.file("b.img")).unwrap());
            assert_eq!(theirs.len(), ours.len(), "{length} {options}");
            let differs = theirs
                .iter()
                .zip(&ours)
                .position(|(one, other)| one != other);
            assert_eq!(differs, None, "{length} {options}");
        }
    }
}

#[test]
fn wrong_options_of_a_new_qcow2_image_have_the_storage_daemons_texts() {
    let Some(mut both) = Both::start(&FILES) else {
        return;
    };
    for more in [
        r#","cluster-size":1000"#,
        r#","cluster-size":256"#,
        r#","cluster-size":4194304"#,
        r#","refcount-bits":3"#,
        r#","refcount-bits":-1"#,
        r#","version":"v2","refcount-bits":1"#,
        r#","version":"v2","lazy-refcounts":true"#,
        r#","version":"v2","extended-l2":true"#,
        r#","version":"v2","compression-type":"zstd""#,
        r#","version":"v2","data-file":"d""#,
        r#","version":"v4""#,
        r#","extended-l2":true,"cluster-size":4096"#,
        r#","data-file-raw":true"#,
        r#","backing-fmt":"raw""#,
        r#","backing-file":"b","preallocation":"metadata""#,
        r#","backing-file":"b","preallocation":"full""#,
        r#","backing-file":"b","data-file":"d","data-file-raw":true"#,
        r#","bogus":1"#,
    ] {
        assert!(!both.create(&qcow2(more)), "{more}");
    }
    for options in [
        r#""driver":"qcow2","file":"nosuch","size":67108864"#,
        r#""driver":"qcow2","file":"f","size":1000"#,
        r#""driver":"qcow2","file":"f""#,
        r#""driver":"qcow2","size":512"#,
        r#""driver":"qcow2","file":{"driver":"file","filename":"nosuch"},"size":67108864"#,
    ] {
        assert!(!both.create(options), "{options}");
    }
}

#[test]
fn an_image_in_use_is_not_made_anew() {
    let Some(mut both) = Both::start(&FILES) else {
        return;
    };
    both.same_image(&qcow2(""), "a.img");
    both.alike(&with(
        "blockdev-add",
        r#""driver":"qcow2","node-name":"q","file":"f""#,
    ));
    for daemon in [&mut both.theirs, &mut both.ours] {
        let Outcome::Concluded(_, Some(error)) = daemon.create(&qcow2("")) else {
            panic!("an image was made of one that is in use");
        };
        let conflict =
            "Permission conflict on node 'f': permissions 'write, resize' are both required by ";
        assert!(error.starts_with(conflict), "{error}");
    }
    let locked = r#""driver":"file","filename":"a.img","size":512"#;
    assert!(!both.create(locked));
    both.alike(&with("blockdev-del", r#""node-name":"q""#));
    assert!(both.create(&qcow2("")));
}

#[test]
fn wrong_arguments_of_streams_and_snapshots_have_the_storage_daemons_texts() {
    let nodes = [
        "--blockdev",
        "file,node-name=base,filename=a.img",
        "--blockdev",
        "file,node-name=other,filename=b.img",
        "--blockdev",
        "raw,node-name=r,file=other",
    ];
    let Some(mut both) = Both::start(&nodes) else {
        return;
    };
    for name in ["o1", "o2", "o3"] {
        let file = format!(r#""driver":"file","filename":"{name}","size":0"#);
        assert!(both.create(&file));
        let node = format!(r#""driver":"file","node-name":"f{name}","filename":"{name}""#);
        both.alike(&with("blockdev-add", &node));
        let image = format!(r#""driver":"qcow2","file":"f{name}","size":1048576"#);
        assert!(both.create(&image));
    }
    let stream = |arguments: &str| with("block-stream", arguments);
    let snapshot = |node: &str, overlay: &str| {
        let arguments = format!(r#""node":"{node}","overlay":"{overlay}""#);
        with("blockdev-snapshot", &arguments)
    };
    for request in [
        with(
            "blockdev-add",
            r#""driver":"qcow2","node-name":"o1","file":"fo1","backing":"base""#,
        ),
        with(
            "blockdev-add",
            r#""driver":"qcow2","node-name":"o2","file":"fo2","backing":"o1""#,
        ),
        with(
            "blockdev-add",
            r#""driver":"qcow2","node-name":"o3","file":"fo3""#,
        ),
        stream(r#""device":"nosuch","job-id":"s""#),
        stream(r#""device":"o2","job-id":"s","base":"a.img","base-node":"base""#),
        stream(r#""device":"o2","job-id":"s","bottom":"o1","base-node":"base""#),
        stream(r#""device":"o2","job-id":"s","base-node":"nosuch""#),
        stream(r#""device":"o2","job-id":"s","base":"nosuch""#),
        stream(r#""device":"o2","job-id":"s","base-node":"o2""#),
        stream(r#""device":"o2","job-id":"s","base-node":"o3""#),
        stream(r#""device":"o2","job-id":"s","bottom":"o3""#),
        stream(r#""device":"o2","job-id":"s","backing-file":"foo""#),
        stream(r#""device":"o2","job-id":"s","on-error":"nosuch""#),
        stream(r#""device":"o2","job-id":"s","speed":-1"#),
        stream(r#""device":"o2","job-id":"1x""#),
        stream(r#""device":"o2""#),
        stream(r#""job-id":"s""#),
        snapshot("nosuch", "o3"),
        snapshot("base", "nosuch"),
        snapshot("o2", "nosuch"),
        snapshot("o2", "r"),
        snapshot("o3", "o2"),
        with(
            "transaction",
            r#""actions":[{"type":"blockdev-snapshot","data":{"node":"o2","overlay":"nosuch"}}]"#,
        ),
        with("transaction", r#""actions":[{"type":"nosuch","data":{}}]"#),
        with("transaction", r#""actions":[{"type":"abort","data":{}}]"#),
        with("transaction", r#""actions":[{"type":"abort"}]"#),
        with("transaction", r#""actions":[]"#),
        snapshot("o2", "o3"),
        plain("query-jobs"),
    ] {
        both.alike(&request);
    }
}

/// Three images over `a.img`, of which `o3` is the disk. The first has data.
fn chain() -> Option<Both> {
    let base = [
        "--blockdev",
        "raw,node-name=base,read-only=on,file.driver=file,file.filename=a.img",
        "--blockdev",
        "raw,node-name=other,file.driver=file,file.filename=b.img",
    ];
    let mut both = Both::start(&base)?;
    let mut below = ("base", "a.img", "raw");
    for (name, file) in [("o1", "o1.qcow2"), ("o2", "o2.qcow2"), ("o3", "o3.qcow2")] {
        for daemon in [&both.theirs, &both.ours] {
            overlay(daemon.directory.path(), file, below.1, below.2);
            if name == "o1" {
                let write = ["-c", "write -P 3 0 256k", file];
                let mut command = Command::new("qemu-io");
                command.args(write).current_dir(daemon.directory.path());
                assert!(command.output().unwrap().status.success());
            }
        }
        let read_only = name != "o3";
        both.alike(&with(
            "blockdev-add",
            &format!(
                r#""driver":"qcow2","node-name":"{name}","read-only":{read_only},"backing":"{}","file":{{"driver":"file","filename":"{file}"}}"#,
                below.0
            ),
        ));
        below = (name, file, "qcow2");
    }
    Some(both)
}

#[test]
fn wrong_arguments_of_commits_have_the_storage_daemons_texts() {
    let Some(mut both) = chain() else {
        return;
    };
    for arguments in [
        r#""device":"nosuch","job-id":"c""#,
        r#""device":"o3","job-id":"c","top":"o2.qcow2","top-node":"o2""#,
        r#""device":"o3","job-id":"c","top-node":"nosuch""#,
        r#""device":"o3","job-id":"c","top-node":"other""#,
        r#""device":"o3","job-id":"c","top":"nosuch""#,
        r#""device":"o3","job-id":"c","top-node":"o2","base":"a.img","base-node":"base""#,
        r#""device":"o3","job-id":"c","top-node":"o2","base-node":"nosuch""#,
        r#""device":"o3","job-id":"c","top-node":"o2","base-node":"other""#,
        r#""device":"o3","job-id":"c","top-node":"o2","base-node":"o3""#,
        r#""device":"o3","job-id":"c","top-node":"o2","base":"nosuch""#,
        r#""device":"o3","job-id":"c","top-node":"o2","base-node":"o2""#,
        r#""device":"o3","job-id":"c","top-node":"base""#,
        r#""device":"other","job-id":"c""#,
        r#""device":"o2","job-id":"c""#,
        r#""device":"o3","top-node":"o2""#,
        r#""device":"o3","job-id":"1x","top-node":"o2""#,
        r#""device":"o3","job-id":"c","top-node":"o2","speed":-1"#,
        r#""device":"o3","job-id":"c","top-node":"o2","on-error":"nosuch""#,
        r#""device":"o3","job-id":"c","top-node":"o2","filter-node-name":"o1""#,
        r#""device":"o3","job-id":"c","backing-file":"x""#,
        r#""job-id":"c""#,
    ] {
        both.alike(&with("block-commit", arguments));
    }
    both.alike(&plain("query-jobs"));
}

fn reopen(node: &str, backing: &str, read_only: bool) -> String {
    with(
        "blockdev-reopen",
        &format!(
            r#""options":[{{"driver":"qcow2","node-name":"{node}","read-only":{read_only},"backing":{backing},"file":{{"driver":"file","filename":"{node}.qcow2"}}}}]"#
        ),
    )
}

/// What the storage daemon refuses is refused with its words, and the rest is done.
#[test]
fn a_chain_below_a_job_stays_as_it_is() {
    let Some(mut both) = chain() else {
        return;
    };
    let export = |node: &str| {
        let arguments = format!(
            r#""type":"vhost-user-blk","id":"e{node}","node-name":"{node}","addr":{{"type":"unix","path":"{node}.sock"}}"#
        );
        with("block-export-add", &arguments)
    };
    let commit = r#""device":"o3","job-id":"j","top-node":"o2","speed":4096"#;
    both.alike(&with("block-commit", commit));
    for request in [
        with("block-commit", commit),
        with("block-stream", r#""device":"o3","job-id":"s""#),
        with("block-stream", r#""device":"o2","job-id":"s""#),
        with("blockdev-del", r#""node-name":"o3""#),
        with("blockdev-del", r#""node-name":"o1""#),
        with("blockdev-del", r#""node-name":"base""#),
        with("block_resize", r#""node-name":"o1","size":1048576"#),
        with("block_resize", r#""node-name":"base","size":1048576"#),
        with("blockdev-snapshot", r#""node":"o3","overlay":"other""#),
        reopen("o2", "\"base\"", true),
        reopen("o2", "null", true),
        reopen("o2", "\"o1\"", true),
        reopen("o1", "\"base\"", false),
        reopen("o3", "\"o2\"", false),
        export("base"),
    ] {
        both.alike(&request);
    }
    // Who reads and shares is named otherwise.
    for node in ["o1", "o2"] {
        for daemon in [&mut both.theirs, &mut both.ours] {
            let answer = format!("{:?}", daemon.ask(&export(node)));
            let conflict = format!(
                "Permission conflict on node '{node}': permissions 'consistent read' are both required by "
            );
            let who = format!("job 'j' (uses node '{node}' as 'intermediate node' child)");
            assert!(
                answer.contains(&conflict) && answer.contains(&who),
                "{answer}"
            );
        }
    }
    both.alike(&with("block-job-set-speed", r#""device":"j","speed":0"#));
    for daemon in [&mut both.theirs, &mut both.ours] {
        while !daemon.client.line().contains(r#""status": "null""#) {}
    }
    for node in ["o2", "o1"] {
        both.alike(&with("blockdev-del", &format!(r#""node-name":"{node}""#)));
    }
    let stream = r#""device":"o3","job-id":"j","speed":4096"#;
    both.alike(&with("block-stream", stream));
    both.alike(&reopen("o3", "null", false));
    both.alike(&with("block-job-cancel", r#""device":"j""#));
}

/// The states of a commit, and the events between them.
#[test]
fn a_commit_is_told_as_by_the_storage_daemon() {
    for more in ["", r#","base-node":"o1""#] {
        let Some(mut both) = chain() else {
            return;
        };
        let arguments =
            format!(r#""device":"o3","job-id":"j","top-node":"o2","auto-dismiss":false{more}"#);
        let request = with("block-commit", &arguments);
        let expected = both.theirs.run_job(&request);
        assert_eq!(both.ours.run_job(&request), expected);
        let [theirs, ours] = [&both.theirs, &both.ours].map(|daemon| {
            let info = daemon.image(&["info"], "o3.qcow2");
            let name = |member| info.member(member).cloned();
            (name("backing-filename"), name("backing-filename-format"))
        });
        assert_eq!(theirs, ours);
        both.alike(&plain("query-named-block-nodes"));
    }
}

#[test]
fn wrong_arguments_of_mirrors_have_the_storage_daemons_texts() {
    let nodes = [
        "--blockdev",
        "file,node-name=a,filename=a.img",
        "--blockdev",
        "null-co,node-name=b,size=1048576",
        "--blockdev",
        "null-co,node-name=below,size=1048576",
        "--blockdev",
        "raw,node-name=above,file=below",
        "--blockdev",
        "null-co,node-name=fixed,size=1048576,read-only=on",
    ];
    let Some(mut both) = Both::start(&nodes) else {
        return;
    };
    let mirror = |more: &str| with("blockdev-mirror", more);
    for more in [
        r#""device":"nosuch","target":"b","sync":"full""#,
        r#""device":"a","target":"nosuch","sync":"full""#,
        r#""device":"a","target":"b","sync":"full""#,
        r#""job-id":"j","device":"a","target":"b""#,
        r#""job-id":"j","device":"a","target":"a","sync":"full""#,
        r#""job-id":"j","device":"a","target":"b","sync":"incremental""#,
        r#""job-id":"j","device":"a","target":"b","sync":"bitmap""#,
        r#""job-id":"j","device":"a","target":"b","sync":"nosuch""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","granularity":256"#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","granularity":3000"#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","granularity":134217728"#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","buf-size":-1"#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","speed":-1"#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","replaces":"nosuch""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","replaces":"below""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","filter-node-name":"1x""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","filter-node-name":"b""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","copy-mode":"nosuch""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","target-is-zero":true"#,
        r#""job-id":"1x","device":"a","target":"b","sync":"full""#,
        r#""job-id":"j","device":"below","target":"b","sync":"full""#,
        r#""job-id":"j","device":"a","target":"fixed","sync":"full""#,
    ] {
        both.alike(&mirror(more));
    }
    for more in [
        r#""device":"nosuch","target":"new","sync":"full""#,
        r#""job-id":"j","device":"below","target":"new","sync":"full""#,
        r#""job-id":"j","device":"a","target":"new","format":"nosuch","sync":"full""#,
        r#""job-id":"j","device":"a","target":"/nosuch/new","format":"raw","sync":"full""#,
        r#""job-id":"j","device":"a","target":"nosuch","format":"raw","sync":"full","mode":"existing""#,
        r#""job-id":"j","device":"a","target":"new","format":"raw","sync":"full","replaces":"a""#,
        r#""job-id":"j","device":"a","target":"new","format":"raw","sync":"full","node-name":"b""#,
        r#""device":"a","target":"new","format":"raw","sync":"full""#,
    ] {
        both.alike(&with("drive-mirror", more));
    }
}

#[test]
fn wrong_arguments_of_synchronous_snapshots_have_the_storage_daemons_texts() {
    let nodes = [
        "--blockdev",
        "raw,node-name=base,file.driver=file,file.filename=a.img",
        "--blockdev",
        "raw,node-name=b,file.driver=file,file.filename=b.img",
    ];
    let Some(mut both) = Both::start(&nodes) else {
        return;
    };
    for arguments in [
        r#""node-name":"nosuch","snapshot-file":"s.qcow2","snapshot-node-name":"s""#,
        r#""snapshot-file":"s.qcow2","snapshot-node-name":"s""#,
        r#""device":"base","snapshot-file":"s.qcow2","snapshot-node-name":"s""#,
        r#""node-name":"base","snapshot-file":"s.qcow2","snapshot-node-name":"b""#,
        r#""node-name":"base","snapshot-file":"s.qcow2""#,
        r#""node-name":"base","snapshot-file":"s.qcow2","snapshot-node-name":"s","format":"raw""#,
        r#""node-name":"base","snapshot-file":"s.qcow2","snapshot-node-name":"s","format":"nosuch""#,
        r#""node-name":"base","snapshot-file":"s.qcow2","snapshot-node-name":"s","mode":"nosuch""#,
        r#""node-name":"base","snapshot-file":"/nosuch/s.qcow2","snapshot-node-name":"s""#,
        r#""node-name":"base","snapshot-file":"nosuch.qcow2","snapshot-node-name":"s","mode":"existing""#,
        r#""node-name":"base","snapshot-file":"a.img","snapshot-node-name":"s""#,
        r#""node-name":"base""#,
    ] {
        both.alike(&with("blockdev-snapshot-sync", arguments));
    }
    let action = |node: &str, name: &str| {
        format!(
            r#"{{"type":"blockdev-snapshot-sync","data":{{"node-name":"{node}","snapshot-file":"{name}.qcow2","snapshot-node-name":"{name}"}}}}"#
        )
    };
    for arguments in [
        format!(r#""actions":[{},{}]"#, action("b", "s1"), action("b", "s2")),
        format!(
            r#""actions":[{}],"properties":{{"completion-mode":"grouped"}}"#,
            action("b", "s1")
        ),
        format!(
            r#""actions":[{},{{"type":"abort","data":{{}}}}]"#,
            action("b", "s1")
        ),
    ] {
        both.alike(&with("transaction", &arguments));
    }
}

impl Daemon {
    /// Starts the job `j`, ends it with `command` when it is ready, and returns the events until it is concluded.
    fn end_when_ready(&mut self, request: &str, command: &str) -> Vec<String> {
        let mut heard: Vec<String> = Vec::new();
        self.client.send(request.as_bytes());
        while heard.last().is_none_or(|last| last != "concluded") {
            let value = json::parse(&self.client.line()).unwrap();
            assert_eq!(value.member("error"), None, "{request}");
            let Some(event) = value.member("event").and_then(Value::as_str) else {
                continue;
            };
            let status = value.member("data").unwrap().member("status");
            let name = status.and_then(Value::as_str).unwrap_or(event);
            heard.push(name.to_owned());
            if name == "BLOCK_JOB_READY" {
                self.client.send(command.as_bytes());
            }
        }
        heard
    }
}

/// The disk goes into its own base.
#[test]
fn a_commit_of_the_disk_is_told_as_by_the_storage_daemon() {
    for (command, more) in [
        (with("job-complete", r#""id":"j""#), ""),
        (with("job-cancel", r#""id":"j""#), ""),
        (
            with("block-job-cancel", r#""device":"j""#),
            r#","base-node":"o1""#,
        ),
        (
            with("block-job-complete", r#""device":"j""#),
            r#","base-node":"o1""#,
        ),
    ] {
        let Some(mut both) = chain() else {
            return;
        };
        for missing in [r#""device":"o3""#, r#""device":"o3","job-id":"1x""#] {
            both.alike(&with("block-commit", missing));
        }
        let arguments = format!(r#""device":"o3","job-id":"j","auto-dismiss":false{more}"#);
        let request = with("block-commit", &arguments);
        let expected = both.theirs.end_when_ready(&request, &command);
        assert_eq!(both.ours.end_when_ready(&request, &command), expected);
        both.alike(&with("job-dismiss", r#""id":"j""#));
        both.alike(&plain("query-jobs"));
        // The chain is free again.
        both.alike(&reopen("o3", "\"o2\"", false));
    }
}

#[test]
fn wrong_arguments_of_backups_have_the_storage_daemons_texts() {
    let nodes = [
        "--blockdev",
        "null-co,node-name=a,size=1048576",
        "--blockdev",
        "null-co,node-name=b,size=1048576",
        "--blockdev",
        "null-co,node-name=small,size=524288",
        "--blockdev",
        "null-co,node-name=fixed,size=1048576,read-only=on",
    ];
    let Some(mut both) = Both::start(&nodes) else {
        return;
    };
    for more in [
        r#""device":"nosuch","target":"b","sync":"full""#,
        r#""device":"a","target":"nosuch","sync":"full""#,
        r#""job-id":"j","device":"a","target":"b""#,
        r#""job-id":"j","device":"a","target":"a","sync":"full""#,
        r#""job-id":"j","device":"a","target":"small","sync":"full""#,
        r#""job-id":"j","device":"a","target":"b","sync":"incremental""#,
        r#""job-id":"j","device":"a","target":"b","sync":"bitmap""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","bitmap":"none""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","bitmap-mode":"never""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","filter-node-name":"b""#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","x-perf":{"max-workers":0}"#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","x-perf":{"max-chunk":-1}"#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","x-perf":{"max-chunk":1000}"#,
        r#""job-id":"j","device":"a","target":"b","sync":"full","x-perf":{"min-cluster-size":1000}"#,
    ] {
        both.alike(&with("blockdev-backup", more));
    }
}

#[test]
fn an_image_that_is_written_slowly_is_given_up_at_once() {
    let limited = [
        "--object",
        "throttle-group,id=g,x-bps-write=1",
        "--blockdev",
        "throttle,node-name=t,throttle-group=g,file=f",
    ];
    let Some(mut both) = Both::start(&[FILES.as_slice(), &limited].concat()) else {
        return;
    };
    // The second cluster would come in many hours.
    let ours = &mut both.ours;
    ours.ask(&create(r#""driver":"qcow2","file":"t","size":67108864"#));
    let image = ours.directory.file("a.img");
    wait_for("the first cluster", || {
        (image.metadata().unwrap().blocks() > 0).then_some(())
    });
    ours.client
        .send(with("job-cancel", r#""id":"j""#).as_bytes());
    while !ours.client.line().contains("concluded") {}
}
