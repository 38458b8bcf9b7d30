//! Dirty bitmaps over NBD: what clients see, and a chain of incremental backups that is made and restored with QEMU's tools.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use support::deadline::wait_for;
use support::directory::TestDir;
use support::process::{Process, qctx};
use support::qemu_img::qemu_img;
use support::qmp::Client;
use support::random::Random;

use super::tools::{STORAGE_DAEMON, are_installed, printed};

const LENGTH: u64 = 8 << 20;

/// A daemon with a disk that has a bitmap, offered for writing.
struct Daemon {
    client: Client,
    _process: Process,
}

impl Daemon {
    fn start(program: &OsStr, directory: &TestDir) -> Daemon {
        let mut command = Command::new(program);
        command.args([
            "--blockdev",
            "file,node-name=disk,filename=disk.raw",
            "--nbd-server",
            "addr.type=unix,addr.path=nbd.sock,max-connections=8",
            "--export",
            "nbd,id=guest,node-name=disk,name=guest,writable=on",
            "--chardev",
            "socket,id=m,path=qmp.sock,server=on,wait=off",
            "--monitor",
            "m",
        ]);
        command.current_dir(directory.path()).stdin(Stdio::null());
        let process = Process::start(&mut command);
        let socket = directory.socket("qmp.sock");
        wait_for("the monitor", || UnixStream::connect(&socket).ok());
        let mut client = Client::connect(&socket);
        client.ask(r#"{"execute":"qmp_capabilities"}"#);
        Daemon {
            client,
            _process: process,
        }
    }

    #[track_caller]
    fn run(&mut self, command: &str, arguments: &str) {
        let answer = self.ask(command, arguments);
        assert!(answer.contains(r#""return""#), "{command}: {answer}");
    }

    fn ask(&mut self, command: &str, arguments: &str) -> String {
        let request = format!(r#"{{"execute":"{command}","arguments":{{{arguments}}}}}"#);
        self.client.send(request.as_bytes());
        self.answer()
    }

    /// The next line that is no event.
    fn answer(&mut self) -> String {
        loop {
            let line = self.client.line();
            if !line.contains(r#""event""#) {
                return line;
            }
        }
    }

    /// Deletes an export, whose last client may be going, and waits until it has gone.
    fn unexport(&mut self, id: &str) {
        let request = format!(
            r#"{{"execute":"block-export-del","arguments":{{"id":"{id}","mode":"hard"}}}}"#
        );
        self.client.send(request.as_bytes());
        let mut lines = [self.client.line(), self.client.line()];
        lines.sort();
        assert!(
            lines
                .iter()
                .any(|line| line.contains("BLOCK_EXPORT_DELETED")),
            "{lines:?}"
        );
    }
}

fn io(directory: &TestDir, export: &str, commands: &[&str]) {
    let url = format!("nbd+unix:///{export}?socket=nbd.sock");
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().flat_map(|one| ["-c", one]));
    arguments.push(&url);
    printed(directory.path(), "qemu-io", &arguments);
}

const SHOWN: &str =
    r#""type":"nbd","id":"shown","node-name":"disk","name":"shown","bitmaps":["b"]"#;

#[test]
fn clients_see_the_same_bitmap_as_of_the_storage_daemon() {
    if !are_installed(&["nbdinfo", "qemu-img", "qemu-io", STORAGE_DAEMON]) {
        return;
    }
    let answers = [OsStr::new(STORAGE_DAEMON), &qctx()].map(|program| {
        let directory = TestDir::new();
        directory.image("disk.raw", LENGTH >> 20);
        let mut daemon = Daemon::start(program, &directory);
        daemon.run("block-dirty-bitmap-add", r#""node":"disk","name":"b""#);
        let other = r#""node":"disk","name":"fine","granularity":512,"disabled":true"#;
        daemon.run("block-dirty-bitmap-add", other);
        io(&directory, "guest", &["write 1000k 300k", "write -z 4M 1M", "write 8388096 512"]);
        let mut seen = Vec::new();
        seen.push(daemon.ask("block-export-add", SHOWN));
        seen.push(daemon.ask("block-export-add", &SHOWN.replace("[\"b\"]", "[\"none\"]")));
        daemon.run("block-dirty-bitmap-disable", r#""node":"disk","name":"b""#);
        let both = SHOWN.replace("[\"b\"]", r#"["b",{"node":"disk","name":"fine"}]"#);
        daemon.run("block-export-add", &both);
        for command in ["clear", "remove", "enable"] {
            let command = format!("block-dirty-bitmap-{command}");
            seen.push(daemon.ask(&command, r#""node":"disk","name":"b""#));
        }
        let url = "nbd+unix:///shown?socket=nbd.sock";
        for context in ["qemu:dirty-bitmap:b", "qemu:dirty-bitmap:fine", "base:allocation"] {
            let map = format!("--map={context}");
            let map = printed(directory.path(), "nbdinfo", &[&map, url]);
            seen.push(if context.starts_with("base") { String::new() } else { map });
        }
        let json = printed(directory.path(), "nbdinfo", &["--json", url]);
        let contexts = json.split("\"contexts\"").nth(1).unwrap();
        seen.push(contexts.split(']').next().unwrap().to_owned());
        let image = r#"driver=nbd,export=shown,server.type=unix,server.path=nbd.sock,x-dirty-bitmap=qemu:dirty-bitmap:b"#;
        let map = ["map", "--output=json", "--image-opts", image];
        seen.push(printed(directory.path(), "qemu-img", &map));
        daemon.unexport("shown");
        seen.push(daemon.ask("block-dirty-bitmap-clear", r#""node":"disk","name":"b""#));
        // QEMU ends its lines as a terminal does.
        seen.iter().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
    });
    let [theirs, ours] = answers;
    for (wanted, found) in theirs.iter().zip(&ours) {
        assert_eq!(found, wanted);
    }
}

/// Which ranges of the export `shown` are dirty.
fn dirty(directory: &TestDir, bitmap: &str) -> Vec<(u64, u64)> {
    let map = format!("--map=qemu:dirty-bitmap:{bitmap}");
    let url = "nbd+unix:///shown?socket=nbd.sock";
    let map = printed(directory.path(), "nbdinfo", &[&map, url]);
    let extents = map.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| fields[index].parse::<u64>().unwrap();
        (fields[2] == "1").then(|| (number(0), number(1)))
    });
    extents.collect()
}

/// Each backup copies what is dirty into an overlay over the backup before, from an export that shows the moment at which the next bitmap
/// began. Restored, each is the disk as it was.
#[test]
fn a_chain_of_incremental_backups_restores_the_disk_byte_by_byte() {
    if !are_installed(&["nbdinfo", "qemu-img", "qemu-io"]) {
        return;
    }
    let directory = TestDir::new();
    let mut random = Random(11);
    let mut content = vec![0; usize::try_from(LENGTH).unwrap()];
    random.fill(&mut content);
    std::fs::write(directory.file("disk.raw"), &content).unwrap();
    let mut daemon = Daemon::start(&qctx(), &directory);
    let length = LENGTH.to_string();
    daemon.run("block-dirty-bitmap-add", r#""node":"disk","name":"b0""#);
    qemu_img(
        directory.path(),
        &[
            "convert",
            "-O",
            "qcow2",
            "-f",
            "raw",
            "disk.raw",
            "full.qcow2",
            "-U",
        ],
    );
    let mut wanted = vec![std::fs::read(directory.file("disk.raw")).unwrap()];
    let (mut base, mut images) = ("full.qcow2".to_owned(), vec!["full.qcow2".to_owned()]);
    for round in 1..=4_u64 {
        for _ in 0..20 {
            let at = random.below(LENGTH / 512) * 512;
            let count = (random.below(300) + 1) * 512;
            let count = count.min(LENGTH - at);
            let write = match random.below(3) {
                0 => format!("write -z {at} {count}"),
                _ => format!("write -P {round} {at} {count}"),
            };
            io(&directory, "guest", &[&write]);
        }
        // In one moment, the bitmap stops and the next one begins.
        let (old, new) = (format!("b{}", round - 1), format!("b{round}"));
        daemon.run(
            "transaction",
            &format!(
                r#""actions":[{{"type":"block-dirty-bitmap-disable","data":{{"node":"disk","name":"{old}"}}}},
                {{"type":"block-dirty-bitmap-add","data":{{"node":"disk","name":"{new}"}}}}]"#
            )
            .replace('\n', ""),
        );
        daemon.run(
            "block-export-add",
            &SHOWN.replace("\"b\"", &format!("\"{old}\"")),
        );
        let image = format!("inc{round}.qcow2");
        qemu_img(
            directory.path(),
            &[
                "create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &image, &length,
            ],
        );
        let ranges = dirty(&directory, &old);
        let copied: u64 = ranges.iter().map(|(_, count)| count).sum();
        assert!(copied > 0 && copied < LENGTH, "{ranges:?}");
        copy(&directory, &ranges, &image);
        daemon.unexport("shown");
        daemon.run(
            "block-dirty-bitmap-remove",
            &format!(r#""node":"disk","name":"{old}""#),
        );
        wanted.push(std::fs::read(directory.file("disk.raw")).unwrap());
        images.push(image.clone());
        base = image;
    }
    for (image, expected) in images.iter().zip(&wanted) {
        let restored = support::qemu_img::content(directory.path(), image);
        assert!(restored == *expected, "{image}");
    }
}

/// Copies ranges of the export `shown` into an image.
fn copy(directory: &TestDir, ranges: &[(u64, u64)], image: &str) {
    let server =
        "file.driver=nbd,file.export=shown,file.server.type=unix,file.server.path=nbd.sock";
    for (start, length) in ranges {
        let source = format!("driver=raw,offset={start},size={length},{server}");
        let convert = ["convert", "--image-opts", "-O", "raw", &source, "part.raw"];
        qemu_img(directory.path(), &convert);
        let write = format!("write -s part.raw {start} {length}");
        printed(directory.path(), "qemu-io", &["-c", &write, image]);
    }
}
