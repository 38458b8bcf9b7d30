//! A guest under a real QEMU: Linux, as `tests/guest/boot` starts it, or firmware, as `tests/guest/boot-firmware` does.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};

/// One guest at a time: two emulated machines on few processors only take longer.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A file or folder of the guest's scripts or of what they have fetched.
fn place(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(below)
}

/// Why this QEMU cannot be run here, if it cannot.
pub fn missing(qemu: u32) -> Option<String> {
    if place("target/guest/kernel").is_dir() && place(&format!("target/guest/qemu-{qemu}")).is_dir()
    {
        return None;
    }
    let reason = place(&format!("target/guest/qemu-{qemu}.missing"));
    let fallback = "no guest here, run tests/guest/packages and tests/guest/fetch";
    let reason = fs::read_to_string(reason).unwrap_or_else(|_| fallback.to_owned());
    Some(reason.trim().to_owned())
}

/// A running guest. Ended with the value.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    console: BufReader<std::process::ChildStdout>,
    seen: String,
    _turn: MutexGuard<'static, ()>,
}

impl Guest {
    /// Boots a guest with as many CPUs and queues per disk, which runs these jobs on the disks
    /// behind these sockets of the directory.
    pub fn boot(directory: &Path, qemu: u32, cpus: u32, jobs: &str, sockets: &[&str]) -> Guest {
        let (qemu, cpus) = (qemu.to_string(), cpus.to_string());
        let words = [&[qemu.as_str(), &cpus, jobs], sockets].concat();
        Guest::start(directory, "tests/guest/boot", &words)
    }

    /// Boots a firmware (`seabios`, `ovmf` or `u-boot`) with these disks of the directory, `SOCKET,QUEUE-SIZE`.
    pub fn boot_firmware(directory: &Path, qemu: u32, firmware: &str, disks: &[String]) -> Guest {
        let qemu = qemu.to_string();
        let disks = disks.iter().map(String::as_str);
        let words: Vec<&str> = [qemu.as_str(), firmware].into_iter().chain(disks).collect();
        Guest::start(directory, "tests/guest/boot-firmware", &words)
    }

    fn start(directory: &Path, script: &str, words: &[&str]) -> Guest {
        let turn = ONE_AT_A_TIME
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut child = Command::new("timeout")
            .args(["-k", "1", "120"])
            .arg(place(script))
            .args(words)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let console = BufReader::new(child.stdout.take().unwrap());
        Guest {
            child,
            console,
            seen: String::new(),
            _turn: turn,
        }
    }

    /// The next line of the console, none at the end.
    pub fn next_line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let length = self.console.read_until(b'\n', &mut line).unwrap();
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        self.seen.push_str(&line);
        self.seen.push('\n');
        (length > 0).then_some(line)
    }

    /// Lets the guest do its work, and checks that it found no fault on so many disks.
    /// Returns what it printed.
    pub fn finish(self, disks: usize) -> String {
        let console = self.end();
        let verdict = format!("guest: verdict PASS, {disks} disks");
        assert!(console.contains(&verdict), "console:\n{console}");
        console
    }

    /// Waits until the machine ends. Returns what it printed.
    pub fn end(mut self) -> String {
        while self.next_line().is_some() {}
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}, console:\n{}", self.seen);
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SIGTERM: `timeout` passes it on and, a second later, kills.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
    }
}

/// Checks an image against what the guest says it wrote on the disk.
pub fn check_image(directory: &Path, image: &str, disk: &str, console: &str) {
    fs::write(directory.join("console"), console).unwrap();
    let output = Command::new(place("tests/guest/check-image"))
        .args([image, disk, "console"])
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The interrupts that each queue of each disk got, in the guest's order.
pub fn interrupts(console: &str) -> Vec<u64> {
    let lines = console
        .lines()
        .filter_map(|line| line.strip_prefix("guest: interrupts "));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect()
}
