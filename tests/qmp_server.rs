//! The QMP server of `qctx`, from outside: exact texts, framing, several clients.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;

use support::directory::TestDir;
use support::process::{Process, qctx};
use support::qmp::{Client, VERSION, generic, of_class, returns};
use support::server::Server;

#[test]
fn greeting_and_negotiation_are_those_of_the_protocol() {
    let server = Server::start_alone(&[]);
    let mut client = server.connect();
    let greeting = format!(r#"{{"QMP": {{"version": {VERSION}, "capabilities": []}}}}"#);
    assert_eq!(client.greeting, greeting);
    let transcript = [
        (
            r#"{"execute":"qom-list","arguments":{"path":"/objects"}}"#,
            of_class("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"),
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["nosuch"]}}"#,
            generic("Parameter 'null' does not accept value 'nosuch'"),
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#,
            generic("Capability oob not available"),
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":5}}"#,
            generic("Invalid parameter type for 'enable', expected: array"),
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{},"id":0}"#,
            r#"{"return": {}, "id": 0}"#.to_owned(),
        ),
        (
            r#"{"execute":"qmp_capabilities","id":"again"}"#,
            r#"{"id": "again", "error": {"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete, command ignored"}}"#.to_owned(),
        ),
        (r#"{"execute":"query-version"}"#, returns(VERSION)),
    ];
    for (request, reply) in transcript {
        assert_eq!(client.ask(request), reply, "{request}");
    }
}

#[test]
fn malformed_requests_have_the_known_answers_and_the_session_goes_on() {
    let server = Server::start_alone(&[]);
    let mut client = server.client();
    let transcript: [(&[u8], String); 24] = [
        (br#"{"execute":"nosuch"}"#, of_class("CommandNotFound", "The command nosuch has not been found")),
        (br#"{"exec":"x"}"#, generic("QMP input member 'exec' is unexpected")),
        (br#"{"exec-oob":"query-version"}"#, generic("QMP input member 'exec-oob' is unexpected")),
        (br#"{"execute":5}"#, generic("QMP input member 'execute' must be a string")),
        (br#"{"arguments":[],"execute":"x"}"#, generic("QMP input member 'arguments' must be an object")),
        (br#"{"id":1}"#, r#"{"id": 1, "error": {"class": "GenericError", "desc": "QMP input lacks member 'execute'"}}"#.to_owned()),
        (br"[1]", generic("QMP input must be a JSON object")),
        (br#""a""#, generic("QMP input must be a JSON object")),
        (b"42 ", generic("QMP input must be a JSON object")),
        (b"null ", generic("QMP input must be a JSON object")),
        (b"nul ", generic("JSON parse error, invalid keyword 'nul'")),
        (br#"{"a" 1}"#, generic("JSON parse error, missing : in object pair")),
        (br#"{"a":1,}"#, generic("JSON parse error, expecting value")),
        (b"}", generic("JSON parse error, expecting value")),
        (b"#", generic("JSON parse error, stray '#'")),
        (br#" {"a":1,"a":2}"#, generic("JSON parse error, duplicate key")),
        (b"\n\xff", generic(r"JSON parse error, stray '\uFFFD'")),
        (b"\n\"abc\x01", generic(r#"JSON parse error, stray '\"abc\u0001'"#)),
        (br#"{"execute":"query-version","id":"\ud800"}"#, generic(r"JSON parse error, \\ud800 is not a valid Unicode character")),
        (br#"{"execute":"query-version","arguments":{"x":5}}"#, generic("Parameter 'x' is unexpected")),
        (br#"{"execute":"qom-list","arguments":{"path":5}}"#, generic("Invalid parameter type for 'path', expected: string")),
        (br#"{"execute":"qom-list"}"#, generic("Parameter 'path' is missing")),
        (br#"{"execute":"qom-get","arguments":{"path":"/"}}"#, generic("Parameter 'property' is missing")),
        (br#"{"execute":"query-version"}"#, returns(VERSION)),
    ];
    for (request, reply) in transcript {
        assert_eq!(
            client.ask(request),
            reply,
            "{}",
            String::from_utf8_lossy(request)
        );
    }
}

#[test]
fn any_json_value_is_echoed_as_id() {
    let server = Server::start_alone(&[]);
    let mut client = server.client();
    let ids = [
        (r#""s""#, r#""s""#),
        ("'it\"s'", r#""it\"s""#),
        ("null", "null"),
        ("[1, {\"b\": 2, \"a\": 1}]", "[1, {\"b\": 2, \"a\": 1}]"),
        ("18446744073709551615", "18446744073709551615"),
        ("12345678901234567890123", "1.2345678901234568e22"),
        ("\"\u{e9}\u{1f600}\u{7f}\"", r#""\u00E9\uD83D\uDE00\u007F""#),
    ];
    for (id, echoed) in ids {
        let reply = client.ask(format!(r#"{{"execute":"query-version","id":{id}}}"#));
        assert_eq!(reply, format!(r#"{{"return": {VERSION}, "id": {echoed}}}"#));
    }
    assert_eq!(
        client.ask(r#"{"execute":"query-version","id":1e400}"#),
        generic("JSON parse error, number '1e400' is out of range")
    );
    let long = format!(
        r#"{{"execute":"query-version","id":"{}"}}"#,
        "x".repeat(70_000)
    );
    assert_eq!(
        client.ask(long),
        generic("QMP input member 'id' is longer than 65536 bytes")
    );
}

#[test]
fn requests_may_be_split_at_every_byte() {
    let server = Server::start_alone(&[]);
    let mut client = server.client();
    let mut other = server.client();
    let request = br#"{"execute":"query-version","arguments":{},"id":"\u00e9\\\""}"#;
    let reply = format!(r#"{{"return": {VERSION}, "id": "\u00E9\\\""}}"#);
    for cut in 1..request.len() {
        client.send(&request[..cut]);
        // Another client's round trip makes the server read the first part on its own.
        other.ask("{}");
        assert_eq!(client.ask(&request[cut..]), reply, "{cut}");
    }
    for byte in request {
        client.send(&[*byte]);
    }
    assert_eq!(client.line(), reply);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start_alone(&[]);
    let mut client = server.client();
    let requests: String = (0..2000)
        .map(|id| format!(r#"{{"execute":"query-version","id":{id}}}"#))
        .collect();
    let mut writer = client.stream.try_clone().unwrap();
    let writing = thread::spawn(move || writer.write_all(requests.as_bytes()).unwrap());
    for id in 0..2000 {
        assert_eq!(
            client.line(),
            format!(r#"{{"return": {VERSION}, "id": {id}}}"#)
        );
    }
    writing.join().unwrap();
}

#[test]
fn a_client_that_only_stops_writing_gets_its_replies() {
    let server = Server::start_alone(&[]);
    let mut client = server.client();
    client.send(br#"{"execute":"query-version"}{"execute":"query-version"}"#);
    client.stream.shutdown(Shutdown::Write).unwrap();
    let line = returns(VERSION);
    assert_eq!(client.rest(), format!("{line}\n{line}\n"));
}

#[test]
fn clients_negotiate_each_for_itself() {
    let server = Server::start_alone(&[]);
    let mut first = server.client();
    let mut second = server.connect();
    let expecting = "Expecting capabilities negotiation with 'qmp_capabilities'";
    let version = r#"{"execute":"query-version"}"#;
    assert_eq!(second.ask(version), of_class("CommandNotFound", expecting));
    assert_eq!(first.ask(version), returns(VERSION));
    assert_eq!(
        second.ask(r#"{"execute":"qmp_capabilities"}"#),
        returns("{}")
    );
    drop(first);
    assert_eq!(second.ask(version), returns(VERSION));
}

#[test]
fn standard_input_and_output_are_a_client_too() {
    let directory = TestDir::new();
    let mut command = Command::new(qctx());
    command.args(["-qmp", "unix:qmp.sock,server=on,wait=off", "-qmp", "stdio"]);
    command.current_dir(directory.path());
    let mut server = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut input = server.0.stdin.take().unwrap();
    let mut output = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let mut next = || output.next().unwrap().unwrap();
    assert!(next().starts_with("{\"QMP\""));
    let mut ask = |request: &str| {
        input.write_all(request.as_bytes()).unwrap();
        next()
    };
    assert_eq!(ask(r#"{"execute":"qmp_capabilities"}"#), returns("{}"));
    assert_eq!(ask(r#"{"execute":"query-version"}"#), returns(VERSION));
    // The monitors open in the order of the options.
    let mut client = Client::connect(&directory.socket("qmp.sock"));
    assert_eq!(
        client.ask(r#"{"execute":"qmp_capabilities"}"#),
        returns("{}")
    );
    assert_eq!(
        client.ask(r#"{"execute":"query-version"}"#),
        returns(VERSION)
    );
    client.send(br#"{"execute":"quit"}"#);
    server.ends_well();
}

#[test]
fn socket_belongs_to_its_user_and_goes_with_the_program() {
    let server = Server::start_alone(&[]);
    let socket = server.socket();
    let mode = socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut bystander = server.client();
    let mut client = server.client();
    assert_eq!(
        client.ask(r#"{"execute":"quit","id":"bye"}"#),
        r#"{"return": {}, "id": "bye"}"#
    );
    assert_eq!(client.rest(), "");
    assert_eq!(bystander.rest(), "");
    let names = std::fs::read_dir(socket.parent().unwrap()).unwrap().count();
    assert_eq!((names, socket.exists()), (0, false));
}
