//! Objects over QMP: the tree is listed, read and changed; objects come and go at run time.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use support::qmp::{generic, of_class, returns};
use support::server::Server;

const TWO_CONTEXTS: [&str; 4] = [
    "-object",
    "qcontext,id=iot0,threaded=yes,poll-max-ns=20000",
    "-object",
    "qcontext,id=slow",
];

#[test]
fn object_tree_is_listed_read_and_changed() {
    let server = Server::start_alone(&TWO_CONTEXTS);
    let mut client = server.client();
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
    let context = r#"[{"name": "type", "type": "string"}, {"name": "id", "type": "string"}, {"name": "threaded", "type": "bool"}, {"name": "thread_id", "type": "int"}, {"name": "poller", "type": "string"}, {"name": "poll-max-ns", "type": "int"}, {"name": "poll-grow", "type": "int"}, {"name": "poll-shrink", "type": "int"}, {"name": "thread-pool-min", "type": "int"}, {"name": "thread-pool-max", "type": "int"}, {"name": "cpu-affinity", "type": "int[]"}, {"name": "nice", "type": "int"}, {"name": "sched-policy", "type": "string"}]"#;
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
    assert_eq!(main, returns(&server.pid().to_string()));
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
    let server = Server::start_alone(&TWO_CONTEXTS);
    let mut client = server.client();
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
    let server = Server::start_alone(&[
        "-object",
        "qcontext,id=iot0,threaded=yes,thread-pool-min=2,thread-pool-max=8",
    ]);
    let mut client = server.client();
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
fn the_cpus_of_a_thread_are_read_and_changed() {
    let server = Server::start_alone(&TWO_CONTEXTS);
    let mut client = server.client();
    let get = |id: &str| {
        format!(
            r#"{{"execute":"qom-get","arguments":{{"path":"{id}","property":"cpu-affinity"}}}}"#
        )
    };
    let set = |id: &str, value: &str| {
        format!(
            r#"{{"execute":"qom-set","arguments":{{"path":"{id}","property":"cpu-affinity","value":{value}}}}}"#
        )
    };
    let add = |of: &str, cpus: &str| {
        let more = match of {
            "qcontext" => r#""threaded":true,"#,
            _ => "",
        };
        format!(
            r#"{{"execute":"object-add","arguments":{{"qom-type":"{of}","id":"d",{more}"cpu-affinity":{cpus}}}}}"#
        )
    };
    let del = r#"{"execute":"object-del","arguments":{"id":"d"}}"#.to_owned();
    let all = client.ask(get("iot0"));
    let first: String = all
        .chars()
        .skip_while(|c| *c != '[')
        .skip(1)
        .take_while(char::is_ascii_digit)
        .collect();
    let (one, none) = (
        format!("[{first}]"),
        "not all of the CPUs [4095] are there for this process",
    );
    let array = "Invalid parameter type for 'cpu-affinity', expected: array";
    let transcript = [
        (set("iot0", &one), returns("{}")),
        (get("iot0"), returns(&one)),
        (
            set("iot0", "[4095]"),
            generic(&format!("cpu-affinity of context 'iot0': {none}")),
        ),
        (
            set("iot0", "[]"),
            generic("cpu-affinity of context 'iot0': a list of CPUs must not be empty"),
        ),
        (
            set("iot0", r#""0""#),
            generic(&format!("{array} of CPU numbers")),
        ),
        (get("iot0"), returns(&one)),
        (get("qcontext-main"), all),
        (get("slow"), returns("[]")),
        (
            set("slow", &one),
            generic(
                "cpu-affinity of context 'slow' expects a thread of the context's own (threaded=on)",
            ),
        ),
        (add("qcontext", &one), returns("{}")),
        (get("d"), returns(&one)),
        (del.clone(), returns("{}")),
        (add("iothread", &one), returns("{}")),
        (get("d"), returns(&one)),
        (del, returns("{}")),
        (
            add("iothread", "[4095]"),
            generic(&format!("cpu-affinity of context 'd': {none}")),
        ),
        (add("iothread", r#""0""#), generic(array)),
        (
            add("iothread", "[-1]"),
            generic("Parameter 'cpu-affinity[0]' expects uint64"),
        ),
        (get("d"), of_class("DeviceNotFound", "Device 'd' not found")),
    ];
    for (request, reply) in transcript {
        assert_eq!(client.ask(&request), reply, "{request}");
    }
}

#[test]
fn objects_are_added_and_deleted_at_run_time() {
    let server = Server::start_alone(&TWO_CONTEXTS);
    let mut client = server.client();
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
