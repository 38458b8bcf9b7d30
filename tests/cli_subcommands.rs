//! The client subcommands of `qctx`, which ask a running one.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::process::{Command, Stdio};

use support::process::{outcome, qctx, refused, run};
use support::server::Server;

/// Runs a client subcommand against the server.
fn ask(server: &Server, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(qctx());
    command.env("QMP_SOCKET", server.socket()).args(arguments);
    outcome(&command.stdin(Stdio::null()).output().unwrap())
}

#[track_caller]
fn prints(server: &Server, arguments: &[&str], expected: &str) {
    assert_eq!(
        ask(server, arguments),
        (Some(0), expected.to_owned(), String::new())
    );
}

#[test]
fn subcommands_show_what_the_talk_shows() {
    let server = Server::start_alone(&["-object", "qcontext,id=ctx1,threaded=yes"]);
    prints(
        &server,
        &["qom-list", "/objects/"],
        "ctx1/\nqcontext-main/\ntype\n",
    );
    prints(
        &server,
        &["qom-list", "/objects/ctx1"],
        "cpu-affinity\nid\nnice\npoll-grow\npoll-max-ns\npoll-shrink\npoller\nsched-policy\nthread-pool-max\nthread-pool-min\nthread_id\nthreaded\ntype\n",
    );
    let (status, thread, _) = ask(&server, &["qom-get", "/objects/ctx1.thread_id"]);
    assert_eq!(status, Some(0));
    assert!(thread.trim_end().parse::<i32>().unwrap() > 0, "{thread}");
    prints(&server, &["qom-get", "/objects/ctx1.threaded"], "true\n");
    prints(&server, &["qom-get", "/objects/ctx1.id"], "ctx1\n");
}

#[test]
fn subcommands_set_and_walk() {
    let server = Server::start_alone(&["-object", "qcontext,id=a.b"]);
    prints(&server, &["qom-set", "/objects/a.b.poll-max-ns", "0"], "");
    prints(&server, &["qom-get", "/objects/a.b.poll-max-ns"], "0\n");
    prints(&server, &["qom-get", "/objects/a.b.threaded"], "false\n");
    prints(&server, &["qom-get", "/objects/a.b.cpu-affinity"], "[]\n");
    let negative = ask(&server, &["qom-set", "/objects/a.b.poll-max-ns", "-1"]);
    let range = "qctx: qom-set: poll-max-ns value must be in range [0, 9223372036854775807]\n";
    assert_eq!(negative, (Some(1), String::new(), range.to_owned()));
    let (status, output, error) = ask(&server, &["qom-set", "/objects/a.b.threaded", "on"]);
    let message = "qctx: qom-set: Property 'qcontext.threaded' is not writable\n";
    assert_eq!(
        (status, output.as_str(), error.as_str()),
        (Some(1), "", message)
    );
    let (_, tree, _) = ask(&server, &["qom-tree"]);
    assert!(
        tree.starts_with("/\n  type: container (string)\n/machine\n"),
        "{tree}"
    );
    assert!(
        tree.contains("\n/objects/a.b\n  cpu-affinity: [] (int[])\n  id: a.b (string)\n"),
        "{tree}"
    );
    prints(
        &server,
        &["qom-tree", "/machine/peripheral"],
        "/machine/peripheral\n  type: container (string)\n",
    );
}

#[test]
fn client_options_may_stand_anywhere() {
    let server = Server::start_alone(&[]);
    let socket = server.socket();
    let socket = socket.to_str().unwrap();
    let expected = (Some(0), "container\n".to_owned(), String::new());
    assert_eq!(
        outcome(&run(&["qom-get", "-s", socket, "/objects.type"])),
        expected
    );
    assert_eq!(
        outcome(&run(&["-s", socket, "qom-get", "/objects.type"])),
        expected
    );
    assert_eq!(
        outcome(&run(&["qom-get", "/objects.type", "--socket", socket])),
        expected
    );
    let joined = format!("--socket={socket}");
    assert_eq!(
        outcome(&run(&["qom-get", &joined, "/objects.type"])),
        expected
    );
    // The option overrides the environment.
    let mut command = Command::new(qctx());
    command.env("QMP_SOCKET", "/nonexistent");
    command.args(["qom-get", "/objects.type", "-s", socket]);
    assert_eq!(outcome(&command.output().unwrap()), expected);
}

#[test]
fn mistakes_in_subcommands_are_told() {
    let server = Server::start_alone(&[]);
    let cases: [(&[&str], &str); 6] = [
        (
            &["qom-list", "/nosuch"],
            "qom-list: Device '/nosuch' not found",
        ),
        (
            &["qom-get", "/objects.nosuch"],
            "qom-get: Property 'container.nosuch' not found",
        ),
        (
            &["qom-get", "/objects"],
            "qom-get: '/objects' is not of the form PATH.PROPERTY",
        ),
        (
            &["qom-set", "/objects.type"],
            "qom-set: usage: qctx qom-set [-s SOCKET] PATH.PROPERTY VALUE",
        ),
        (
            &["qom-list"],
            "qom-list: usage: qctx qom-list [-s SOCKET] PATH",
        ),
        (
            &["qom-list", "/", "-s", "/nonexistent"],
            "qom-list: cannot connect to '/nonexistent': No such file or directory (os error 2)",
        ),
    ];
    for (arguments, message) in cases {
        assert_eq!(
            ask(&server, arguments),
            (Some(1), String::new(), format!("qctx: {message}\n"))
        );
    }
    refused(
        &["qom-list", "/"],
        "qctx: qom-list: no QMP socket given: use -s SOCKET or set QMP_SOCKET",
    );
}
