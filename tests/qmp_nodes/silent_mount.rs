//! A file of a FUSE file system whose server stops to answer.
//!
//! The server is a thread of the test. When it ends, the kernel lets all requests fail, so no program waits for longer than the test.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use support::deadline::DEADLINE;
use support::directory::TestDir;
use support::skip::skip;

/// The length of the file.
const LENGTH: u64 = 1 << 20;
const BUFFER_LEN: usize = 1 << 20;

/// The numbers of requests (linux/fuse.h).
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;

/// The mounted file. It goes when this is dropped.
pub(crate) struct SilentMount {
    path: PathBuf,
    directory: TestDir,
    control: Option<UnixStream>,
    unanswered: Receiver<u32>,
    server: Option<JoinHandle<()>>,
}

impl SilentMount {
    /// Mounts a file in a directory of its own. `None` if there is no FUSE here.
    pub(crate) fn new() -> Option<SilentMount> {
        let device = match File::options().read(true).write(true).open("/dev/fuse") {
            Ok(device) => device,
            Err(error) => {
                skip(format!("/dev/fuse: {error}"));
                return None;
            }
        };
        let directory = TestDir::new();
        let path = directory.file("silent");
        File::create(&path).unwrap();
        let options = "fd=0,rootmode=100000,user_id=0,group_id=0";
        let mut command = Command::new("mount");
        command.args(["-i", "-t", "fuse", "-o", options, "silent"]);
        command.arg(&path).stdin(device.try_clone().unwrap());
        let output = command.output().unwrap();
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            skip(format!("mount: {complaint}"));
            return None;
        }
        let (control, other_end) = UnixStream::pair().unwrap();
        let (sender, unanswered) = channel();
        Some(SilentMount {
            path,
            directory,
            control: Some(control),
            unanswered,
            server: Some(thread::spawn(move || serve(device, other_end, &sender))),
        })
    }

    /// Where the file is, under the name `silent`.
    pub(crate) fn directory(&self) -> &TestDir {
        &self.directory
    }

    /// Nothing is answered from now on.
    pub(crate) fn be_silent(&mut self) {
        self.control.as_mut().unwrap().write_all(&[0]).unwrap();
        // The server says that it has heard of it.
        let mut word = [0];
        self.control
            .as_mut()
            .unwrap()
            .read_exact(&mut word)
            .unwrap();
    }

    /// Waits until a request waits for its answer. Returns its number.
    pub(crate) fn request(&self) -> u32 {
        self.unanswered.recv_timeout(DEADLINE).unwrap()
    }

    /// All requests fail.
    pub(crate) fn abort(&mut self) {
        self.control = None;
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
    }
}

impl Drop for SilentMount {
    fn drop(&mut self) {
        self.abort();
        let mut command = Command::new("umount");
        command.arg("-l").arg(&self.path).stderr(Stdio::null());
        assert!(command.status().is_ok());
    }
}

/// Answers until it is told to be silent; ends, and lets all requests fail, when the other end of `control` is closed.
fn serve(mut device: File, mut control: UnixStream, unanswered: &Sender<u32>) {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut is_silent = false;
    loop {
        let mut fds = [
            PollFd::new(&device, PollFlags::IN),
            PollFd::new(&control, PollFlags::IN),
        ];
        poll(&mut fds, -1).unwrap();
        let [has_request, is_told] = [&fds[0], &fds[1]].map(|fd| !fd.revents().is_empty());
        if is_told {
            if control.read(&mut [0]).unwrap() == 0 {
                return;
            }
            is_silent = true;
            control.write_all(&[0]).unwrap();
        } else if has_request {
            let Ok(len) = device.read(&mut buffer) else {
                return;
            };
            let request = &buffer[..len];
            match is_silent {
                true => {
                    let _ = unanswered.send(word(request, 4));
                }
                false => answer(&mut device, request),
            }
        }
    }
}

fn answer(device: &mut File, request: &[u8]) {
    let data = match word(request, 4) {
        INIT => Ok(init()),
        GETATTR => Ok(attributes()),
        OPEN => Ok(vec![0; 16]),
        READ => Ok(vec![0; word(request, 40 + 16) as usize]),
        FLUSH | RELEASE => Ok(Vec::new()),
        _ => Err(-38_i32), // ENOSYS
    };
    let error = data.as_ref().err().copied().unwrap_or(0);
    let data = data.unwrap_or_default();
    let len = u32::try_from(16 + data.len()).unwrap();
    let mut reply = len.to_le_bytes().to_vec();
    reply.extend(error.to_le_bytes());
    reply.extend(&request[8..16]);
    reply.extend(data);
    // A request that was given up has no reply.
    let _ = device.write(&reply);
}

/// Version 7.31, and requests of the least size.
fn init() -> Vec<u8> {
    let mut data = vec![0; 64];
    data[0..4].copy_from_slice(&7_u32.to_le_bytes());
    data[4..8].copy_from_slice(&31_u32.to_le_bytes());
    data[20..24].copy_from_slice(&4096_u32.to_le_bytes());
    data
}

/// Those of a file, which the kernel may not keep.
fn attributes() -> Vec<u8> {
    let mut data = vec![0; 104];
    let mut set = |at: usize, value: &[u8]| data[at..at + value.len()].copy_from_slice(value);
    set(16, &1_u64.to_le_bytes());
    set(24, &LENGTH.to_le_bytes());
    set(32, &(LENGTH / 512).to_le_bytes());
    set(76, &0o100_600_u32.to_le_bytes());
    set(80, &1_u32.to_le_bytes());
    set(96, &4096_u32.to_le_bytes());
    data
}

/// The little-endian number at a place.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Whether it asks for the attributes of the file.
pub(crate) fn is_about_attributes(request: u32) -> bool {
    request == GETATTR
}

/// Whether it tells that the file is closed.
pub(crate) fn is_about_closing(request: u32) -> bool {
    request == FLUSH
}
