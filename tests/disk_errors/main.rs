//! `werror` and `rerror` of disks over vhost-user: a failed request is reported, ignored, or kept while the device takes no more
//! requests, and repeated after `cont`.
//!
//! * `rules`: what is done about which error
//! * `waiting`: what else may happen while a request waits
//!
//! One test mounts a small file system, and needs root for that.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::time::Duration;

use support::directory::TestDir;
use support::front_end::{Guest, Io};
use support::qmp::{Client, returns};
use support::server::Server;

mod rules;
mod waiting;

const BLOCK: usize = 4096;
const NO_SPACE: &str = "No space left on device";
/// Contexts that wait with each of the pollers, and disks with one queue and with several.
const SETTINGS: [(&str, usize); 4] = [("epoll", 1), ("epoll", 4), ("io_uring", 1), ("io_uring", 4)];

/// A rule of blkdebug: requests of that kind fail once where they touch the block, or for ever.
struct Rule {
    kind: &'static str,
    errno: i32,
    block: Option<usize>,
    is_once: bool,
    immediately: bool,
}

impl Rule {
    fn once(kind: &'static str, errno: i32) -> Rule {
        Rule {
            kind,
            errno,
            block: None,
            is_once: true,
            immediately: false,
        }
    }

    fn json(&self) -> String {
        let sector = self.block.map(|block| block * BLOCK / 512);
        let sector = sector.map_or(String::new(), |sector| format!(r#""sector":{sector},"#));
        format!(
            r#"{{"event":"none","iotype":"{}","errno":{},{sector}"once":{},"immediately":{}}}"#,
            self.kind, self.errno, self.is_once, self.immediately
        )
    }
}

/// A disk whose requests fail as the rules say, on a context of its own, and a client that has seen nothing yet.
struct Scene {
    directory: TestDir,
    server: Server,
    client: Client,
    queues: usize,
}

impl Scene {
    fn new((poller, queues): (&str, usize), rules: &[Rule], device: &str) -> Scene {
        let directory = TestDir::new();
        directory.image("disk0.raw", 1);
        let rules: Vec<String> = rules.iter().map(Rule::json).collect();
        let node = format!(
            r#"{{"driver":"blkdebug","node-name":"b0","discard":"unmap","image":{{"driver":"file","node-name":"f0",
                "filename":"disk0.raw","discard":"unmap"}},"inject-error":[{}]}}"#,
            rules.join(",")
        );
        Scene::of((poller, queues), directory, &["-blockdev", &node], device)
    }

    /// The disk is the node `b0`, which `more` makes.
    fn of(
        (poller, queues): (&str, usize),
        directory: TestDir,
        more: &[&str],
        device: &str,
    ) -> Scene {
        let context = format!("qcontext,id=c0,threaded=on,poller={poller}");
        let device = format!(
            "virtio-blk,id=disk0,drive=b0,x-data-plane=on,context=c0,num-queues={queues},vhost-user=disk0.sock{device}"
        );
        let arguments = [&["-object", &context], more, &["-device", &device]].concat();
        let server = Server::start(&directory, &arguments);
        Scene {
            client: server.client(),
            directory,
            server,
            queues,
        }
    }

    fn guest(&self) -> Guest {
        let socket = self.directory.socket("disk0.sock");
        let mut guest = Guest::connect(&socket, self.queues, 256, true, 64 * BLOCK).unwrap();
        for (number, block) in guest.memory.bytes().chunks_mut(BLOCK).enumerate() {
            block.fill(u8::try_from(number).unwrap() + 1);
        }
        guest
    }

    /// Checks the next event.
    #[track_caller]
    fn failed(&mut self, operation: &str, action: &str, nospace: Option<bool>, reason: &str) {
        let line = self.client.line();
        let event = &line[line.find("\"event\"").unwrap()..];
        let nospace = nospace.map_or(String::new(), |is| format!("\"nospace\": {is}, "));
        assert_eq!(
            event,
            format!(
                r#""event": "BLOCK_IO_ERROR", "data": {{"qom-path": "/machine/peripheral/disk0", "device": "", "node-name": "b0", "operation": "{operation}", "action": "{action}", {nospace}"reason": "{reason}"}}}}"#
            )
        );
    }

    /// What the device and `query-block` say.
    #[track_caller]
    fn status_is(&mut self, status: &str) {
        let path = "/machine/peripheral/disk0.io-status";
        assert_eq!(self.server.subcommand(&["qom-get", path]), status);
        let answer = self.client.ask(r#"{"execute":"query-block"}"#);
        let expected = format!(r#""io-status": "{status}""#);
        assert!(answer.contains(&expected), "{answer}");
    }

    #[track_caller]
    fn command(&mut self, name: &str, arguments: &str) {
        let command = format!(r#"{{"execute":"{name}","arguments":{{{arguments}}}}}"#);
        assert_eq!(self.client.ask(command), returns("{}"), "{name}");
    }

    #[track_caller]
    fn goes_on(&mut self) {
        self.command("cont", "");
    }

    fn property(&self, name: &str) -> String {
        let path = format!("/machine/peripheral/disk0.{name}");
        self.server.subcommand(&["qom-get", &path])
    }

    /// The first byte of a block of the image, which is the same as the others.
    fn block(&self, number: usize) -> u8 {
        let bytes = fs::read(self.directory.file("disk0.raw")).unwrap();
        let block = &bytes[number * BLOCK..][..BLOCK];
        assert!(block.iter().all(|byte| *byte == block[0]));
        block[0]
    }
}

/// A write of the block `number` of the guest's memory, or a read into it, from the same block of the disk.
fn io(write: bool, number: usize) -> Io {
    Io {
        write,
        offset: (number * BLOCK) as u64,
        segments: vec![
            (number * BLOCK, BLOCK / 4),
            (number * BLOCK + BLOCK / 4, BLOCK / 4 * 3),
        ],
    }
}

fn submit(guest: &mut Guest, queue: usize, io: &Io) {
    guest.submit(queue, 0, io);
    guest.kick(queue);
}

/// Whether the device has answered nothing on the queue.
fn is_silent(guest: &mut Guest, queue: usize) -> bool {
    guest.try_wait(queue, Duration::ZERO).is_empty()
}
