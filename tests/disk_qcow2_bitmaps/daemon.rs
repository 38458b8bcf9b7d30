//! `qctx` or QEMU's daemon with an image.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use qcontext::json;
use qcontext::object::Value;
use support::deadline::wait_for;
use support::directory::TestDir;
use support::process::Process;
use support::qemu_img::wait_unlocked;
use support::qmp::Client;

/// What the query says of each bitmap and what its bits are, by name.
pub(super) type Bitmaps = Vec<(String, Value, String)>;

/// A daemon with the image `disk.qcow2`.
pub(super) struct Daemon<'a> {
    directory: &'a TestDir,
    client: Client,
    process: Process,
}

impl Daemon<'_> {
    pub(super) fn start<'a>(program: &OsStr, directory: &'a TestDir, more: &str) -> Daemon<'a> {
        Daemon::start_image(program, directory, "disk", more)
    }

    /// With another image as the node `disk`.
    pub(super) fn start_image<'a>(
        program: &OsStr,
        directory: &'a TestDir,
        image: &str,
        more: &str,
    ) -> Daemon<'a> {
        let image =
            format!("qcow2,node-name=disk,file.driver=file,file.filename={image}.qcow2{more}");
        let mut command = Command::new(program);
        command.args(["--blockdev", &image, "--chardev"]);
        command.arg("socket,id=m,path=qmp.sock,server=on,wait=off");
        command.args(["--monitor", "m"]);
        command.args(["--nbd-server", "addr.type=unix,addr.path=nbd.sock"]);
        command.current_dir(directory.path()).stdin(Stdio::null());
        let process = Process::start(&mut command);
        let socket = directory.socket("qmp.sock");
        wait_for("the monitor", || UnixStream::connect(&socket).ok());
        let mut client = Client::connect(&socket);
        client.ask(r#"{"execute":"qmp_capabilities"}"#);
        Daemon {
            directory,
            client,
            process,
        }
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn ask(&mut self, command: &str, arguments: &str) -> Value {
        let request = format!(r#"{{"execute":"{command}","arguments":{{{arguments}}}}}"#);
        self.client.send(request.as_bytes());
        loop {
            let value = json::parse(&self.client.line()).unwrap();
            if value.member("event").is_none() {
                return value;
            }
        }
    }

    #[track_caller]
    pub(super) fn run(&mut self, command: &str, arguments: &str) -> Value {
        let answer = self.ask(command, arguments);
        let returned = answer.member("return").cloned();
        returned.unwrap_or_else(|| panic!("{command}: {answer:?}"))
    }

    pub(super) fn error(&mut self, command: &str, arguments: &str) -> String {
        let answer = self.ask(command, arguments);
        let error = answer
            .member("error")
            .and_then(|error| error.member("desc"));
        error.and_then(Value::as_str).unwrap_or("none").to_owned()
    }

    pub(super) fn add(&mut self, name: &str, more: &str) {
        let arguments = format!(r#""node":"disk","name":"{name}","persistent":true{more}"#);
        self.run("block-dirty-bitmap-add", &arguments);
    }

    /// Each bitmap with what the query says and what its bits are, by name.
    pub(super) fn bitmaps(&mut self) -> Bitmaps {
        self.bitmaps_of("disk")
    }

    pub(super) fn bitmaps_of(&mut self, node_name: &str) -> Bitmaps {
        let nodes = self.run("query-named-block-nodes", r#""flat":true"#);
        let Value::List(nodes) = nodes else {
            panic!("{nodes:?}")
        };
        let is_disk =
            |node: &&Value| node.member("node-name").and_then(Value::as_str) == Some(node_name);
        let node = nodes.iter().find(is_disk).unwrap();
        let Some(Value::List(bitmaps)) = node.member("dirty-bitmaps").cloned() else {
            return Vec::new();
        };
        let mut all: Vec<_> = bitmaps
            .into_iter()
            .map(|bitmap| {
                let name = bitmap
                    .member("name")
                    .and_then(Value::as_str)
                    .unwrap()
                    .to_owned();
                let arguments = format!(r#""node":"{node_name}","name":"{name}""#);
                let bits = self.ask("x-debug-block-dirty-bitmap-sha256", &arguments);
                let Value::Dict(mut members) = bitmap else {
                    panic!("{bitmap:?}")
                };
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                (name, Value::Dict(members), format!("{bits:?}"))
            })
            .collect();
        all.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        all
    }

    /// Lets a client of an export write.
    pub(super) fn write(&mut self, commands: &[String]) {
        self.write_to("disk", commands);
    }

    pub(super) fn write_to(&mut self, node: &str, commands: &[String]) {
        let export =
            format!(r#""type":"nbd","id":"e","node-name":"{node}","name":"disk","writable":true"#);
        self.run("block-export-add", &export);
        let mut io = Command::new("qemu-io");
        io.args(["-f", "raw"]);
        io.args(commands.iter().flat_map(|one| ["-c", one]));
        io.arg("nbd+unix:///disk?socket=nbd.sock")
            .current_dir(self.directory.path());
        let output = io.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        self.client
            .send(br#"{"execute":"block-export-del","arguments":{"id":"e","mode":"hard"}}"#);
        let lines = [self.client.line(), self.client.line()];
        assert!(
            lines
                .iter()
                .any(|line| line.contains("BLOCK_EXPORT_DELETED")),
            "{lines:?}"
        );
    }

    /// Waits until the job `j` is `status`.
    pub(super) fn job_is(&mut self, status: &str) {
        wait_for("the job", || {
            let jobs = format!("{:?}", self.run("query-jobs", ""));
            jobs.contains(&format!("{status:?}")).then_some(())
        });
    }

    /// Runs a job to its end, and returns its error.
    pub(super) fn job(&mut self, command: &str, arguments: &str, is_completed: bool) -> String {
        let arguments = format!(r#""job-id":"j","auto-dismiss":false,{arguments}"#);
        self.run(command, &arguments);
        if is_completed {
            self.job_is("ready");
            self.run("job-complete", r#""id":"j""#);
        }
        self.job_is("concluded");
        let jobs = format!("{:?}", self.run("query-jobs", ""));
        self.run("job-dismiss", r#""id":"j""#);
        if jobs.contains("\"error\"") {
            jobs
        } else {
            String::new()
        }
    }

    pub(super) fn quit(mut self) {
        self.client.send(br#"{"execute":"quit"}"#);
        self.process.ends_well();
    }

    pub(super) fn kill(mut self) {
        self.process.signal("KILL");
        self.process.wait();
        wait_unlocked(self.directory.path(), "disk.qcow2");
    }
}
