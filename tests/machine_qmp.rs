//! A machine directed over QMP, with QEMU's commands and events.
//!
//! What needs a machine says SKIP where there is no KVM.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "kvm"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use support::deadline::DEADLINE;
use support::directory::TestDir;
use support::qmp::{Client, generic, returns};
use support::server::Server;
use support::skip::skip;
use support::tiny_kernel;

const STATUS: &str = r#"{"execute":"query-status"}"#;

/// A `qctx` with the busy kernel, whose console is a file.
struct Machine {
    server: Server,
    client: Client,
    console: PathBuf,
    _directory: TestDir,
}

impl Machine {
    /// None without KVM.
    fn start(more: &[&str]) -> Option<Machine> {
        if let Err(error) = qcontext::kvm::open() {
            skip(error);
            return None;
        }
        let directory = TestDir::new();
        let (kernel, console) = (directory.file("kernel"), directory.file("console"));
        fs::write(&kernel, tiny_kernel::busy()).unwrap();
        let serial = format!("file:{}", console.display());
        let mut options = vec!["-machine", "microvm", "-kernel", kernel.to_str().unwrap()];
        options.extend(["-smp", "2", "-serial", &serial]);
        options.extend(more);
        let server = Server::start_alone(&options);
        Some(Machine {
            client: server.client(),
            server,
            console,
            _directory: directory,
        })
    }

    /// Everything up to the answer to a command, events without their time.
    fn ask(&mut self, command: &str) -> Vec<String> {
        self.client
            .send(format!("{{\"execute\":\"{command}\"}}").as_bytes());
        let mut lines = vec![line(&mut self.client)];
        while lines.last().unwrap().starts_with("{\"event\"") {
            lines.push(line(&mut self.client));
        }
        lines
    }

    fn status(&mut self) -> String {
        self.ask("query-status").pop().unwrap()
    }

    /// How often the kernel has begun.
    fn boots(&self) -> usize {
        let said = fs::read(&self.console).unwrap();
        said.iter().filter(|byte| **byte == b'A').count()
    }

    fn said(&self) -> usize {
        fs::read(&self.console).unwrap().len()
    }

    /// Waits until the guest says something.
    fn is_alive(&mut self) {
        let (said, end) = (self.said(), Instant::now() + DEADLINE);
        while self.said() == said {
            assert!(Instant::now() < end, "the guest says nothing");
            self.status();
        }
    }

    /// Waits until the kernel has begun so often: what it said before a reset may come out after it.
    fn has_booted(&mut self, times: usize) {
        let end = Instant::now() + DEADLINE;
        while self.boots() < times {
            assert!(Instant::now() < end, "the guest does not boot");
            self.status();
        }
        assert_eq!(self.boots(), times);
    }

    /// The threads of the processors, as the monitor says.
    fn threads(&mut self) -> Vec<String> {
        let text = self.ask("query-cpus-fast").pop().unwrap();
        let found = text.split("{\"thread-id\": ").skip(1);
        let number = |rest: &str| rest.split(',').next().unwrap().to_owned();
        found.map(number).collect()
    }

    /// The processor time of a thread in nanoseconds, read while it sleeps. A vcpu thread that has reported that it is parked
    /// may still need a processor until it sleeps.
    fn work(&self, thread: &str) -> String {
        let place = format!("/proc/{}/task/{thread}", self.server.pid());
        let read = |name| fs::read_to_string(format!("{place}/{name}")).unwrap();
        let end = Instant::now() + DEADLINE;
        while !read("stat").rsplit(") ").next().unwrap().starts_with('S') {
            assert!(Instant::now() < end, "the processor is at work");
            std::thread::yield_now();
        }
        read("schedstat").split(' ').next().unwrap().to_owned()
    }

    /// The main loop answers; the same loop writes the console's output.
    fn let_it_work(&mut self) {
        for _ in 0..100 {
            self.status();
        }
    }

    /// Waits for the end of the program, which says this before.
    #[track_caller]
    fn ends(mut self, said: &[&str]) {
        let rest: Vec<String> = self.client.rest().lines().map(without_time).collect();
        assert_eq!(rest, said);
        let status = self.server.wait();
        assert_eq!(status.code(), Some(0));
    }
}

/// A line without the time of an event.
fn without_time(line: &str) -> String {
    match line.split_once("}, \"event\"") {
        Some((time, rest)) if time.starts_with("{\"timestamp\"") => format!("{{\"event\"{rest}"),
        _ => line.to_owned(),
    }
}

fn line(client: &mut Client) -> String {
    without_time(&client.line())
}

fn status(name: &str, running: bool) -> String {
    returns(&format!(r#"{{"status": "{name}", "running": {running}}}"#))
}

fn event(name: &str) -> String {
    format!("{{\"event\": \"{name}\"}}")
}

const RESET: &str =
    r#"{"event": "RESET", "data": {"guest": false, "reason": "host-qmp-system-reset"}}"#;
const QUIT: &str = r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}"#;
const POWER_OFF: &str =
    r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#;

#[test]
fn stop_freezes_the_guest_and_cont_lets_it_go_on() {
    let Some(mut machine) = Machine::start(&[]) else {
        return;
    };
    let threads = machine.threads();
    for _ in 0..5 {
        machine.is_alive();
        assert_eq!(machine.status(), status("running", true));
        assert_eq!(machine.ask("stop"), [event("STOP"), returns("{}")]);
        assert_eq!(machine.status(), status("paused", false));
        machine.let_it_work();
        let (said, work) = (machine.said(), machine.work(&threads[0]));
        machine.let_it_work();
        assert_eq!((machine.said(), machine.work(&threads[0])), (said, work));
        // It is stopped already.
        assert_eq!(machine.ask("stop"), [returns("{}")]);
        assert_eq!(machine.ask("cont"), [event("RESUME"), returns("{}")]);
        assert_eq!(machine.ask("cont"), [returns("{}")]);
    }
    machine.is_alive();
}

#[test]
fn several_clients_are_told_and_the_order_of_commands_holds() {
    let Some(mut machine) = Machine::start(&[]) else {
        return;
    };
    let mut other = machine.server.client();
    let stop_and_look = format!("{{\"execute\":\"stop\",\"id\":1}}{STATUS}");
    machine.client.send(stop_and_look.as_bytes());
    let answers: Vec<String> = (0..3).map(|_| line(&mut machine.client)).collect();
    let stopped = r#"{"return": {}, "id": 1}"#.to_owned();
    assert_eq!(answers, [event("STOP"), stopped, status("paused", false)]);
    assert_eq!(line(&mut other), event("STOP"));
    machine.ask("quit");
    machine.ends(&[QUIT]);
}

#[test]
fn a_machine_that_is_told_to_wait_waits_for_cont() {
    let Some(mut machine) = Machine::start(&["-S"]) else {
        return;
    };
    assert_eq!(machine.status(), status("prelaunch", false));
    machine.let_it_work();
    assert_eq!(machine.said(), 0);
    assert_eq!(machine.ask("cont"), [event("RESUME"), returns("{}")]);
    machine.is_alive();
}

#[test]
fn system_reset_boots_again_and_leaves_a_stopped_machine_stopped() {
    let Some(mut machine) = Machine::start(&[]) else {
        return;
    };
    machine.is_alive();
    let threads = machine.threads();
    assert_eq!(machine.ask("system_reset"), [returns("{}")]);
    assert_eq!(line(&mut machine.client), RESET);
    assert_ne!(machine.threads(), threads);
    machine.has_booted(2);
    machine.ask("stop");
    assert_eq!(machine.ask("system_reset"), [returns("{}")]);
    assert_eq!(line(&mut machine.client), RESET);
    assert_eq!(machine.status(), status("prelaunch", false));
    machine.ask("cont");
    machine.has_booted(3);
}

#[test]
fn system_reset_ends_a_machine_that_does_not_reboot() {
    let Some(mut machine) = Machine::start(&["-no-reboot"]) else {
        return;
    };
    machine.ask("system_reset");
    let end =
        r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-system-reset"}}"#;
    machine.ends(&[end]);
}

#[test]
fn system_powerdown_is_the_guests_to_obey() {
    let Some(mut machine) = Machine::start(&[]) else {
        return;
    };
    machine.is_alive();
    assert_eq!(machine.ask("system_powerdown"), [returns("{}")]);
    let powerdown = event("POWERDOWN");
    machine.ends(&[&powerdown, POWER_OFF]);
}

#[test]
fn quit_ends_a_machine_that_runs_and_one_that_stands() {
    for stop in [false, true] {
        let Some(mut machine) = Machine::start(&[]) else {
            return;
        };
        if stop {
            machine.ask("stop");
        }
        assert_eq!(machine.ask("quit"), [returns("{}")]);
        machine.ends(&[QUIT]);
    }
}

#[test]
fn a_signal_is_told_as_such() {
    let Some(machine) = Machine::start(&[]) else {
        return;
    };
    machine.server.signal("TERM");
    machine.ends(&[r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}"#]);
}

#[test]
fn processors_are_objects_with_threads_of_the_process() {
    let Some(mut machine) = Machine::start(&[]) else {
        return;
    };
    let threads = machine.threads();
    let cpu = |index: usize| {
        let props = format!(r#"{{"core-id": {index}, "thread-id": 0, "socket-id": 0}}"#);
        format!(
            r#"{{"thread-id": {}, "props": {props}, "qom-path": "/machine/cpu/{index}", "cpu-index": {index}, "target": "x86_64"}}"#,
            threads[index]
        )
    };
    let all = returns(&format!("[{}, {}]", cpu(0), cpu(1)));
    assert_eq!(machine.ask("query-cpus-fast"), [all]);
    let tasks = format!("/proc/{}/task", machine.server.pid());
    for (index, thread) in threads.iter().enumerate() {
        let name = fs::read_to_string(format!("{tasks}/{thread}/comm")).unwrap();
        assert_eq!(name, format!("vcpu{index}\n"));
        let path = format!("/machine/cpu/{index}");
        assert_eq!(get(&mut machine, &path, "thread-id"), returns(thread));
        let quoted = format!("\"vcpu{index}\"");
        assert_eq!(get(&mut machine, &path, "thread-name"), returns(&quoted));
    }
    // A vcpu that may run stays parked until its thread gets a processor.
    let end = Instant::now() + DEADLINE;
    while get(&mut machine, "/machine/cpu/0", "state") != returns("\"running\"") {
        assert!(Instant::now() < end, "the processor does not run");
    }
    machine.ask("stop");
    assert_eq!(
        get(&mut machine, "/machine/cpu/0", "state"),
        returns("\"paused\"")
    );
}

fn get(machine: &mut Machine, path: &str, property: &str) -> String {
    machine.client.ask(format!(
        r#"{{"execute":"qom-get","arguments":{{"path":"{path}","property":"{property}"}}}}"#
    ))
}

fn pin(machine: &mut Machine, value: &str) -> String {
    machine.client.ask(format!(
        r#"{{"execute":"qom-set","arguments":{{"path":"/machine/cpu/1","property":"cpu-affinity","value":{value}}}}}"#
    ))
}

/// The processors that the kernel lets a thread run on.
fn allowed(machine: &Machine, thread: &str) -> String {
    let place = format!("/proc/{}/task/{thread}/status", machine.server.pid());
    let text = fs::read_to_string(place).unwrap();
    let mut lines = text.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_owned()
}

#[test]
fn affinity_of_a_processor_is_the_kernels() {
    let Some(mut machine) = Machine::start(&["-S"]) else {
        return;
    };
    let threads = machine.threads();
    let before = allowed(&machine, &threads[0]);
    let first: String = before.chars().take_while(char::is_ascii_digit).collect();
    assert_eq!(pin(&mut machine, &format!("[{first}]")), returns("{}"));
    assert_eq!(allowed(&machine, &threads[1]), first);
    let list = returns(&format!("[{first}]"));
    assert_eq!(get(&mut machine, "/machine/cpu/1", "cpu-affinity"), list);
    assert_eq!(allowed(&machine, &threads[0]), before, "the other thread");
    let place = "Property 'cpu-affinity' of '/machine/cpu/1'";
    for (wrong, message) in [
        ("[]", format!("{place}: a list of CPUs must not be empty")),
        (
            "[4095]",
            format!("{place}: not all of the CPUs [4095] are there for this process"),
        ),
        (
            "\"0\"",
            "Invalid parameter type for 'cpu-affinity', expected: array of CPU numbers".to_owned(),
        ),
        (
            "[-1]",
            "Invalid parameter type for 'cpu-affinity', expected: array of CPU numbers".to_owned(),
        ),
    ] {
        assert_eq!(pin(&mut machine, wrong), generic(&message));
        assert_eq!(allowed(&machine, &threads[1]), first, "after {wrong}");
    }
}

#[test]
fn without_a_machine_there_is_nothing_to_direct() {
    let server = Server::start_alone(&[]);
    let mut client = server.client();
    for command in ["stop", "cont", "system_reset", "system_powerdown"] {
        let message =
            format!("There is no machine for '{command}', start qctx with '-machine microvm'");
        let answer = client.ask(format!("{{\"execute\":\"{command}\"}}"));
        assert_eq!(answer, generic(&message));
    }
    assert_eq!(client.ask(STATUS), status("running", true));
    assert_eq!(
        client.ask(r#"{"execute":"query-cpus-fast"}"#),
        returns("[]")
    );
    // Without a machine there is no SHUTDOWN event.
    assert_eq!(client.ask(r#"{"execute":"quit"}"#), returns("{}"));
    assert_eq!(client.rest(), "");
}

#[test]
fn orders_have_no_arguments() {
    let server = Server::start_alone(&[]);
    let mut client = server.client();
    let answer = client.ask(r#"{"execute":"stop","arguments":{"now":true}}"#);
    assert_eq!(answer, generic("Parameter 'now' is unexpected"));
}
