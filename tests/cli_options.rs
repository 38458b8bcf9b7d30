//! The options of `qctx`: mistakes in objects and options, help, signals. (Devices that cannot be served: cli_refusals.rs.)
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use support::directory::TestDir;
use support::process::{outcome, qctx, refused, run};
use support::server::Server;

const TRY: &str = "Try 'qctx --help' for more information.";

#[test]
fn mistakes_in_objects_are_told_in_the_known_words() {
    let cases = [
        ("qcontext", "Parameter 'id' is missing"),
        (
            "qcontext,id=1d",
            "Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
        ),
        ("id=a", "Parameter 'qom-type' is missing"),
        (
            "nosuch,id=a",
            "Parameter 'qom-type' does not accept value 'nosuch'",
        ),
        ("qcontext,id=a,bogus=1", "Invalid parameter 'bogus'"),
        (
            "qcontext,id=a,threaded=On",
            "Parameter 'threaded' expects 'on' or 'off'",
        ),
        (
            "qcontext,id=a,threaded=",
            "Parameter 'threaded' expects 'on' or 'off'",
        ),
        (
            "qcontext,id=a,poll-max-ns=x",
            "Parameter 'poll-max-ns' expects an int64 value",
        ),
        (
            "qcontext,id=a,poll-max-ns=-1",
            "poll-max-ns value must be in range [0, 9223372036854775807]",
        ),
        (
            "qcontext,id=a,thread-pool-min=3,thread-pool-max=2",
            "bad thread-pool-min/thread-pool-max values",
        ),
        (
            "qcontext,id=a,threaded=on,cpu-affinity=0,cpu-affinity=4095",
            "cpu-affinity of context 'a': not all of the CPUs [0, 4095] are there for this process",
        ),
        (
            "iothread,id=a,nice=20",
            "nice of context 'a': a nice value is from -20 to 19, not 20",
        ),
        (
            "iothread,id=a,sched-policy=fifo",
            "sched-policy of context 'a': a policy is 'other', 'batch', 'idle', 'fifo:N' or 'rr:N' with N from 1 to 99, not 'fifo'",
        ),
        (
            "qcontext,id=a,sched-policy=idle",
            "sched-policy of context 'a' expects a thread of the context's own (threaded=on)",
        ),
        (
            "iothread,id=a,cpu-affinity=x",
            "Parameter 'cpu-affinity' expects a uint64 value or range",
        ),
        (
            "iothread,id=a,cpu-affinity=0,cpu-affinity=3-2",
            "Parameter 'cpu-affinity' expects a uint64 value or range",
        ),
        (
            "qcontext,id=a,cpu-affinity=0",
            "cpu-affinity of context 'a' expects a thread of the context's own (threaded=on)",
        ),
        (
            r#"{"qom-type":"iothread","id":"a","cpu-affinity":[]}"#,
            "cpu-affinity of context 'a': a list of CPUs must not be empty",
        ),
        (
            "qcontext,id=qcontext-main",
            "attempt to add duplicate property 'qcontext-main' to object (type 'container')",
        ),
        (r#"{"qom-type":"qcontext"}"#, "Parameter 'id' is missing"),
        (
            r#"{"qom-type":"qcontext","id":"a","bogus":1}"#,
            "Parameter 'bogus' is unexpected",
        ),
        (
            r#"{"qom-type":"qcontext","id":"a","threaded":"on"}"#,
            "Invalid parameter type for 'threaded', expected: boolean",
        ),
        ("{bad", "JSON parse error, invalid keyword 'bad'"),
        (
            r#"{"qom-type":"qcontext","id":"a"} x"#,
            "Expecting at most one JSON value",
        ),
    ];
    for (object, message) in cases {
        refused(
            &["-object", object],
            &format!("qctx: -object {object}: {message}"),
        );
    }
}

#[test]
fn second_object_of_an_id_is_refused_in_either_form() {
    refused(
        &["-object", "qcontext,id=a", "--object", "qcontext,id=a"],
        "qctx: -object qcontext,id=a: Duplicate ID 'a' for object",
    );
    let json = r#"{"qom-type":"qcontext","id":"a"}"#;
    refused(
        &["-object", "qcontext,id=a", "-object", json],
        &format!(
            "qctx: -object {json}: attempt to add duplicate property 'a' to object (type 'container')"
        ),
    );
}

#[test]
fn mistakes_in_options_are_told() {
    refused(&["-bogus"], &format!("qctx: -bogus: invalid option\n{TRY}"));
    for option in ["-T", "--trace"] {
        let message = format!("qctx: {option}: is not supported: the program has no trace events");
        refused(&[option, "enable=bdrv_*"], &message);
    }
    refused(
        &["disk.raw"],
        &format!("qctx: disk.raw: unknown command\n{TRY}"),
    );
    refused(&["-object"], "qctx: -object: requires an argument");
    refused(
        &["-device", "nosuch,id=d"],
        "qctx: -device nosuch,id=d: 'nosuch' is not a valid device model name",
    );
    refused(
        &["-device", "id=d"],
        "qctx: -device id=d: Parameter 'driver' is missing",
    );
    refused(
        &["-qmp", "tcp::4444"],
        "qctx: -qmp tcp::4444: expects 'stdio' or 'unix:PATH,server=on,wait=off'",
    );
    refused(
        &["-qmp", "unix:x"],
        "qctx: -qmp unix:x: cannot connect to a client, add 'server=on'",
    );
    refused(
        &["-qmp", "unix:x,server=on,wait=on"],
        "qctx: -qmp unix:x,server=on,wait=on: cannot wait for a client, use 'wait=off'",
    );
}

#[test]
fn mistakes_in_what_is_booted_are_told() {
    let directory = TestDir::new();
    let text = directory.file("text");
    std::fs::write(&text, "no kernel").unwrap();
    let text = text.to_str().unwrap();
    let absent = "No such file or directory (os error 2)";
    refused(
        &["-machine", "microvm", "-kernel", "/nonexistent"],
        &format!("qctx: -kernel /nonexistent: cannot open kernel '/nonexistent': {absent}"),
    );
    refused(
        &["-machine", "microvm", "-kernel", text],
        &format!(
            "qctx: -kernel {text}: kernel '{text}' is neither a bzImage nor an ELF file, expected a 64-bit bzImage or an ELF kernel"
        ),
    );
}

#[test]
fn failed_start_leaves_no_socket_behind() {
    let directory = TestDir::new();
    let socket = directory.socket("qmp.sock");
    let qmp = format!("unix:{},server=on,wait=off", socket.display());
    let (status, ..) = outcome(&run(&["-qmp", &qmp, "-device", "nosuch,id=d"]));
    assert_eq!((status, socket.exists()), (Some(1), false));
}

#[test]
fn busy_socket_is_an_error_and_stays_with_its_owner() {
    let directory = TestDir::new();
    let socket = directory.socket("qmp.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let qmp = format!("unix:{},server=on,wait=off", socket.display());
    let message = format!(
        "qctx: -qmp {qmp}: '{}' is in use: another server listens there",
        socket.display()
    );
    refused(&["-qmp", &qmp], &message);
    assert!(socket.exists());
}

#[test]
fn help_and_version_are_printed() {
    for spelling in ["--help", "-help", "-h"] {
        let (status, output, error) = outcome(&run(&[spelling]));
        assert_eq!((status, error.as_str()), (Some(0), ""));
        assert!(output.contains("-object qcontext,id=ID") && output.contains("qom-list"));
        assert!(output.lines().all(|line| line.len() <= 120));
    }
    for spelling in ["--version", "-version", "-V"] {
        let expected = concat!("qctx ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(
            outcome(&run(&[spelling])),
            (Some(0), expected.into(), String::new())
        );
    }
    let (_, types, _) = outcome(&run(&["-object", "help"]));
    assert_eq!(
        types,
        "List of user creatable objects:\n  qcontext\n  iothread\n  throttle-group\n  tls-creds-x509\n"
    );
    let (_, models, _) = outcome(&run(&["-device", "help"]));
    assert_eq!(models, "List of devices:\n  virtio-blk\n");
    let (_, model, _) = outcome(&run(&["-device", "virtio-blk,help"]));
    assert!(model.starts_with("virtio-blk options:\n") && model.contains("  num-queues=<int>\n"));
    let (_, options, _) = outcome(&run(&["-object", "qcontext,help"]));
    assert!(options.starts_with("qcontext options:\n") && options.contains("  threaded=<bool>\n"));
}

#[test]
fn termination_signals_end_it_gracefully() {
    for signal in ["TERM", "INT", "HUP"] {
        let mut server = Server::start_alone(&["-object", "qcontext,id=a,threaded=on"]);
        let mut client = server.client();
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0));
        assert_eq!(client.rest(), "");
        assert!(!server.socket().exists());
    }
}

#[test]
fn flags_work_and_are_warned_about() {
    let directory = TestDir::new();
    let log = directory.file("log");
    let mut child = Command::new(qctx())
        .args(["-object", "qcontext,id=a,threaded", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(
        &mut input,
        b"{'execute':'qmp_capabilities'}{'execute':'quit'}",
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        "qctx: -object qcontext,id=a,threaded: warning: short-form boolean option 'threaded' deprecated\nPlease use threaded=on instead\n"
    );
}
