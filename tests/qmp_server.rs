//! The QMP server of `qctx`, from outside: exact texts, framing, several clients.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use support::qmp::{Daemon, VERSION, generic, of_class, returns};

const TWO_CONTEXTS: [&str; 4] = [
    "-object",
    "qcontext,id=iot0,threaded=yes,poll-max-ns=20000",
    "-object",
    "qcontext,id=slow",
];

#[test]
fn greeting_and_negotiation_are_those_of_the_protocol() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
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
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
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
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
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
fn object_tree_is_listed_read_and_changed() {
    let daemon = Daemon::start(&TWO_CONTEXTS);
    let mut client = daemon.client();
    let get = |path: &str, property: &str| {
        format!(
            r#"{{"execute":"qom-get","arguments":{{"path":"{path}","property":"{property}"}}}}"#
        )
    };
    let set = |property: &str, value: &str| {
        format!(
            r#"{{"execute":"qom-set","arguments":{{"path":"/objects/iot0","property":"{property}","value":{value}}}}}"#
        )
    };
    let list = |path: &str| format!(r#"{{"execute":"qom-list","arguments":{{"path":"{path}"}}}}"#);
    let context = r#"[{"name": "type", "type": "string"}, {"name": "id", "type": "string"}, {"name": "threaded", "type": "bool"}, {"name": "thread_id", "type": "int"}, {"name": "poller", "type": "string"}, {"name": "poll-max-ns", "type": "int"}, {"name": "poll-grow", "type": "int"}, {"name": "poll-shrink", "type": "int"}, {"name": "thread-pool-min", "type": "int"}, {"name": "thread-pool-max", "type": "int"}]"#;
    let transcript = [
        (
            list("/"),
            returns(
                r#"[{"name": "type", "type": "string"}, {"name": "objects", "type": "child<container>"}, {"name": "machine", "type": "child<container>"}]"#,
            ),
        ),
        (
            list("/machine"),
            returns(
                r#"[{"name": "type", "type": "string"}, {"name": "peripheral", "type": "child<container>"}, {"name": "cpu", "type": "child<container>"}]"#,
            ),
        ),
        (list("/objects/iot0"), returns(context)),
        (list("/objects/iot0/"), returns(context)),
        (list("iot0"), returns(context)),
        (list(""), generic("Path '' is ambiguous")),
        (
            list("/objects/nosuch"),
            of_class("DeviceNotFound", "Device '/objects/nosuch' not found"),
        ),
        (get("/objects", "iot0"), returns(r#""/objects/iot0""#)),
        (get("/", "type"), returns(r#""container""#)),
        (get("/objects/iot0", "threaded"), returns("true")),
        (get("/objects/slow", "threaded"), returns("false")),
        (get("/objects/slow", "thread_id"), returns("-1")),
        (get("/objects/slow", "thread-id"), returns("-1")),
        (get("/objects/iot0", "type"), returns(r#""qcontext""#)),
        (
            get("/objects/iot0", "nosuch"),
            generic("Property 'qcontext.nosuch' not found"),
        ),
        (
            get("/objects/nosuch", "type"),
            of_class("DeviceNotFound", "Device '/objects/nosuch' not found"),
        ),
        (
            set("type", r#""x""#),
            generic("Property 'qcontext.type' is not writable"),
        ),
        (
            set("threaded", "false"),
            generic("Property 'qcontext.threaded' is not writable"),
        ),
        (
            set("nosuch", "1"),
            generic("Property 'qcontext.nosuch' not found"),
        ),
        (
            r#"{"execute":"qom-list-types","arguments":{"implements":"qcontext"}}"#.to_owned(),
            returns(r#"[{"name": "qcontext", "parent": "object"}]"#),
        ),
        (
            r#"{"execute":"qom-list-types","arguments":{"implements":"nosuch"}}"#.to_owned(),
            returns("[]"),
        ),
        (
            r#"{"execute":"qom-list-properties","arguments":{"typename":"qcontext"}}"#.to_owned(),
            returns(context),
        ),
        (
            r#"{"execute":"qom-list-properties","arguments":{"typename":"nosuch"}}"#.to_owned(),
            of_class("DeviceNotFound", "Class 'nosuch' not found"),
        ),
    ];
    for (request, reply) in transcript {
        assert_eq!(client.ask(&request), reply, "{request}");
    }
    let thread = client.ask(get("/objects/iot0", "thread_id"));
    assert_ne!(thread, returns("-1"));
    let main = client.ask(get("/objects/qcontext-main", "thread_id"));
    assert_eq!(main, returns(&daemon.child.id().to_string()));
    let iothreads = client.ask(r#"{"execute":"query-iothreads"}"#);
    let thread = thread
        .trim_start_matches(r#"{"return": "#)
        .trim_end_matches('}');
    assert_eq!(
        iothreads,
        returns(&format!(
            r#"[{{"poll-shrink": 0, "thread-id": {thread}, "aio-max-batch": 0, "poll-grow": 0, "poll-max-ns": 20000, "id": "iot0"}}]"#
        ))
    );
    let contexts = client.ask(r#"{"execute":"query-qcontexts"}"#);
    assert_eq!(contexts.matches("\"threaded\"").count(), 3, "{contexts}");
}

#[test]
fn polling_is_read_and_changed() {
    let daemon = Daemon::start(&TWO_CONTEXTS);
    let mut client = daemon.client();
    let get = |path: &str| {
        format!(
            r#"{{"execute":"qom-get","arguments":{{"path":"{path}","property":"poll-max-ns"}}}}"#
        )
    };
    let set = |value: &str| {
        format!(
            r#"{{"execute":"qom-set","arguments":{{"path":"/objects/iot0","property":"poll-max-ns","value":{value}}}}}"#
        )
    };
    let add =
        r#"{"execute":"object-add","arguments":{"qom-type":"qcontext","id":"d","poll-max-ns":-4}}"#;
    let range = "poll-max-ns value must be in range [0, 9223372036854775807]";
    let integer = "Invalid parameter type for 'poll-max-ns', expected: integer";
    let transcript = [
        (get("/objects/iot0"), returns("20000")),
        (get("/objects/slow"), returns("32768")),
        (get("/objects/qcontext-main"), returns("32768")),
        (set("5"), returns("{}")),
        (get("iot0"), returns("5")),
        (set("-1"), generic(range)),
        (set(r#""5""#), generic(integer)),
        (set("1.5"), generic(integer)),
        (set("12345678901234567890"), generic(integer)),
        (get("iot0"), returns("5")),
        (add.to_owned(), generic(range)),
        (
            get("/objects/d"),
            of_class("DeviceNotFound", "Device '/objects/d' not found"),
        ),
    ];
    for (request, reply) in transcript {
        assert_eq!(client.ask(&request), reply, "{request}");
    }
}

#[test]
fn the_worker_pool_is_read_and_changed() {
    let daemon = Daemon::start(&[
        "-object",
        "qcontext,id=iot0,threaded=yes,thread-pool-min=2,thread-pool-max=8",
    ]);
    let mut client = daemon.client();
    let get = |path: &str, limit: &str| {
        format!(
            r#"{{"execute":"qom-get","arguments":{{"path":"{path}","property":"thread-pool-{limit}"}}}}"#
        )
    };
    let set = |limit: &str, value: &str| {
        format!(
            r#"{{"execute":"qom-set","arguments":{{"path":"/objects/iot0","property":"thread-pool-{limit}","value":{value}}}}}"#
        )
    };
    let add = |limits: &str| {
        format!(
            r#"{{"execute":"object-add","arguments":{{"qom-type":"qcontext","id":"d",{limits}}}}}"#
        )
    };
    let bad = "bad thread-pool-min/thread-pool-max values";
    let range = "value must be in range [0, 9223372036854775807]";
    let transcript = [
        (get("/objects/iot0", "min"), returns("2")),
        (get("/objects/iot0", "max"), returns("8")),
        (get("/objects/qcontext-main", "min"), returns("0")),
        (get("/objects/qcontext-main", "max"), returns("64")),
        (set("max", "3"), returns("{}")),
        (set("min", "4"), generic(bad)),
        (set("max", "1"), generic(bad)),
        (set("max", "2147483648"), generic(bad)),
        (
            set("min", "-1"),
            generic(&format!("thread-pool-min {range}")),
        ),
        (
            set("max", r#""5""#),
            generic("Invalid parameter type for 'thread-pool-max', expected: integer"),
        ),
        (set("min", "3"), returns("{}")),
        (get("iot0", "min"), returns("3")),
        (get("iot0", "max"), returns("3")),
        (add(r#""thread-pool-max":0"#), generic(bad)),
        (add(r#""thread-pool-min":65"#), generic(bad)),
        (
            add(r#""thread-pool-max":80,"thread-pool-min":65"#),
            returns("{}"),
        ),
        (get("d", "min"), returns("65")),
    ];
    for (request, reply) in transcript {
        assert_eq!(client.ask(&request), reply, "{request}");
    }
}

#[test]
fn objects_are_added_and_deleted_at_run_time() {
    let daemon = Daemon::start(&TWO_CONTEXTS);
    let mut client = daemon.client();
    let add = |rest: &str| format!(r#"{{"execute":"object-add","arguments":{{{rest}}}}}"#);
    let del = |id: &str| format!(r#"{{"execute":"object-del","arguments":{{"id":"{id}"}}}}"#);
    let transcript = [
        (
            add(r#""qom-type":"qcontext","id":"c","threaded":true"#),
            returns("{}"),
        ),
        (
            add(r#""qom-type":"qcontext","id":"c""#),
            generic("attempt to add duplicate property 'c' to object (type 'container')"),
        ),
        (
            add(r#""qom-type":"qcontext","id":"iot0""#),
            generic("attempt to add duplicate property 'iot0' to object (type 'container')"),
        ),
        (
            add(r#""qom-type":"nosuch","id":"d""#),
            generic("Parameter 'qom-type' does not accept value 'nosuch'"),
        ),
        (
            add(r#""id":"d""#),
            generic("Parameter 'qom-type' is missing"),
        ),
        (
            add(r#""qom-type":"qcontext""#),
            generic("Parameter 'id' is missing"),
        ),
        (
            add(r#""qom-type":"qcontext","id":"1d""#),
            generic("Parameter 'id' expects an identifier"),
        ),
        (
            add(r#""qom-type":"qcontext","id":5"#),
            generic("Invalid parameter type for 'id', expected: string"),
        ),
        (
            add(r#""qom-type":"qcontext","id":"d","threaded":"on""#),
            generic("Invalid parameter type for 'threaded', expected: boolean"),
        ),
        (
            add(r#""qom-type":"qcontext","id":"d","foo":5"#),
            generic("Parameter 'foo' is unexpected"),
        ),
        (del("d"), generic("object 'd' not found")),
        (del("c"), returns("{}")),
        (del("c"), generic("object 'c' not found")),
        (
            r#"{"execute":"device_del","arguments":{"id":"nope"}}"#.to_owned(),
            of_class("DeviceNotFound", "Device 'nope' not found"),
        ),
        (
            r#"{"execute":"device_add","arguments":{"driver":"nosuch","id":"d"}}"#.to_owned(),
            generic("'nosuch' is not a valid device model name"),
        ),
    ];
    for (request, reply) in transcript {
        assert_eq!(client.ask(&request), reply, "{request}");
    }
    assert!(client.ask(del("qcontext-main")).contains("GenericError"));
}

#[test]
fn requests_may_be_split_at_every_byte() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
    let mut other = daemon.client();
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
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
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
    let daemon = Daemon::start(&[]);
    let mut client = daemon.client();
    client.send(br#"{"execute":"query-version"}{"execute":"query-version"}"#);
    client.stream.shutdown(Shutdown::Write).unwrap();
    let line = returns(VERSION);
    assert_eq!(client.rest(), format!("{line}\n{line}\n"));
}

#[test]
fn clients_negotiate_each_for_itself() {
    let daemon = Daemon::start(&[]);
    let mut first = daemon.client();
    let mut second = daemon.connect();
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
    let mut daemon = Daemon::start(&[]);
    assert_eq!(
        daemon.ask_stdio(r#"{"execute":"qmp_capabilities"}"#),
        returns("{}")
    );
    assert_eq!(
        daemon.ask_stdio(r#"{"execute":"query-version"}"#),
        returns(VERSION)
    );
    let mut client = daemon.client();
    assert_eq!(
        client.ask(r#"{"execute":"query-version"}"#),
        returns(VERSION)
    );
    assert!(daemon.quit().success());
}

#[test]
fn socket_belongs_to_its_user_and_goes_with_the_program() {
    let daemon = Daemon::start(&[]);
    let socket = daemon.socket();
    let mode = socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut bystander = daemon.client();
    let mut client = daemon.client();
    assert_eq!(
        client.ask(r#"{"execute":"quit","id":"bye"}"#),
        r#"{"return": {}, "id": "bye"}"#
    );
    assert_eq!(client.rest(), "");
    assert_eq!(bystander.rest(), "");
    let Daemon { ref directory, .. } = daemon;
    let names = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!((names, socket.exists()), (0, false));
}
