//! The monitor as a library: a program's own commands, replies that come later, events.
//!
//! Each test drives the default `GMainContext` on its own thread while a client asks from another, so they run one at
//! a time.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use qcontext::monitor::{Commands, Monitor, Reply, emit};
use qcontext::object::Value;
use qcontext::schema::{CommandType, EventType, Member, NOTHING, ObjectType, ValueType};
use qcontext::{Error, ErrorKind};
use support::directory::TestDir;
use support::qmp::Client;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves `commands` on this thread while `client` runs on another.
fn serve<T: Send>(commands: Commands, client: impl FnOnce(&dyn Fn() -> Client) -> T + Send) -> T {
    let directory = TestDir::new();
    let socket = directory.socket("qmp.sock");
    let mut server = Monitor::new(commands);
    server.listen(&socket).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let _finished = Finished(&done);
            client(&|| {
                let mut connected = Client::connect(&socket);
                connected.ask("{\"execute\":\"qmp_capabilities\"}");
                connected
            })
        });
        while !done.load(Ordering::Acquire) {
            glib::MainContext::default().iteration(true);
        }
        asking.join().unwrap()
    })
}

/// Ends the serving loop, also when the client's assertions fail.
struct Finished<'a>(&'a AtomicBool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        glib::MainContext::default().wakeup();
    }
}

static DOUBLE: CommandType = CommandType::returning(
    "double",
    &ObjectType::new("DoubleArguments", &[Member::new("number", ValueType::Int)]),
    ValueType::Int,
);
static LATER: CommandType = CommandType::new("later", &NOTHING);
static PANIC: CommandType = CommandType::new("panic", &NOTHING);
static FORGET: CommandType = CommandType::new("forget", &NOTHING);
static TELL: CommandType = CommandType::returning("tell", &NOTHING, ValueType::Null);
static TOLD: EventType = EventType::new(
    "TOLD",
    &ObjectType::new("ToldData", &[Member::new("what", ValueType::Str)]),
);
static COUNT: EventType = EventType::new(
    "COUNT",
    &ObjectType::new("CountData", &[Member::new("n", ValueType::Int)]),
);

static EMPTY: EventType = EventType::new("EMPTY", &NOTHING);
static LOUD: EventType = EventType::new(
    "LOUD",
    &ObjectType::new("LoudData", &[Member::new("text", ValueType::Str)]),
);

#[test]
fn commands_of_the_program_are_listed_and_executed() {
    let _turn = one_at_a_time();
    let mut commands = Commands::new();
    commands.add(&DOUBLE, |mut arguments| {
        let number = arguments.take_int("number")?.unwrap_or(0);
        Ok(Value::Int(2 * number))
    });
    serve(commands, |connect| {
        let mut client = connect();
        assert!(
            client
                .ask(r#"{"execute":"query-commands"}"#)
                .contains(r#"{"name": "double"}"#)
        );
        let reply = client.ask(r#"{"execute":"double","arguments":{"number":21},"id":1}"#);
        assert_eq!(reply, r#"{"return": 42, "id": 1}"#);
    });
}

#[test]
fn reply_from_another_thread_keeps_the_order_and_holds_up_nobody_else() {
    let _turn = one_at_a_time();
    let (hand_over, waiting) = std::sync::mpsc::channel::<Reply>();
    let mut commands = Commands::new();
    commands.add_later(&LATER, move |_, reply| hand_over.send(reply).unwrap());
    serve(commands, move |connect| {
        let mut client = connect();
        client.send(br#"{"execute":"later","id":1}{"execute":"query-version","id":2}"#);
        let reply = waiting.recv().unwrap();
        let mut other = connect();
        assert!(
            other
                .ask(r#"{"execute":"query-version"}"#)
                .contains("return")
        );
        reply.complete(Err(Error::new(
            ErrorKind::DeviceNotFound,
            "Device 'x' not found",
        )));
        assert_eq!(
            client.line(),
            r#"{"id": 1, "error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}"#
        );
        assert!(client.line().ends_with(r#""id": 2}"#));
    });
}

#[test]
fn reply_to_a_client_that_left_goes_nowhere() {
    let _turn = one_at_a_time();
    let (hand_over, waiting) = std::sync::mpsc::channel::<Reply>();
    let mut commands = Commands::new();
    commands.add_later(&LATER, move |_, reply| hand_over.send(reply).unwrap());
    serve(commands, move |connect| {
        let mut client = connect();
        client.send(br#"{"execute":"later"}"#);
        let reply = waiting.recv().unwrap();
        drop(client);
        reply.done(Ok(()));
        assert!(
            connect()
                .ask(r#"{"execute":"query-version"}"#)
                .contains("return")
        );
    });
}

#[test]
fn command_that_panics_or_forgets_to_answer_is_an_error() {
    let _turn = one_at_a_time();
    let mut commands = Commands::new();
    commands.add(&PANIC, |_| panic!("on purpose"));
    commands.add_later(&FORGET, |_, reply| drop(reply));
    serve(commands, |connect| {
        let mut client = connect();
        let error = r#"{"error": {"class": "GenericError", "desc": "The command ended without an answer"}}"#;
        assert_eq!(client.ask(r#"{"execute":"panic"}"#), error);
        assert_eq!(client.ask(r#"{"execute":"forget"}"#), error);
        assert!(
            client
                .ask(r#"{"execute":"query-version"}"#)
                .contains("return")
        );
    });
}

#[test]
fn events_reach_negotiated_clients_in_order_with_replies() {
    let _turn = one_at_a_time();
    let mut commands = Commands::new();
    commands.add_event(&TOLD);
    commands.add_event(&COUNT);
    commands.add_event(&EMPTY);
    commands.add(&TELL, |_| {
        emit(&TOLD, vec![("what".to_owned(), "now".into())]);
        Ok(Value::Null)
    });
    serve(commands, |connect| {
        let (mut first, mut second) = (connect(), connect());
        first.send(br#"{"execute":"tell"}"#);
        for client in [&mut first, &mut second] {
            let event = client.line();
            assert!(
                event.starts_with(r#"{"timestamp": {"seconds": 1"#),
                "{event}"
            );
            assert!(
                event.ends_with(r#", "event": "TOLD", "data": {"what": "now"}}"#),
                "{event}"
            );
        }
        assert_eq!(first.line(), r#"{"return": null}"#);
        for number in 0..100 {
            emit(&COUNT, vec![("n".to_owned(), Value::Int(number))]);
        }
        for number in 0..100 {
            assert!(
                second
                    .line()
                    .ends_with(&format!(r#""data": {{"n": {number}}}}}"#))
            );
        }
        emit(&EMPTY, Vec::new());
        assert!(second.line().ends_with(r#""event": "EMPTY"}"#));
    });
}

#[test]
fn client_that_lets_events_pile_up_is_disconnected_with_a_message() {
    let _turn = one_at_a_time();
    let messages = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&messages);
    let levels = glib::LogLevels::LEVEL_MESSAGE;
    let handler = glib::log_set_handler(
        Some("qcontext"),
        levels,
        false,
        false,
        move |_: Option<&str>, _: glib::LogLevel, text: &str| {
            kept.lock().unwrap().push(text.to_owned());
        },
    );
    let mut commands = Commands::new();
    commands.add_event(&LOUD);
    serve(commands, |connect| {
        let (mut deaf, mut client) = (connect(), connect());
        let data = vec![("text".to_owned(), Value::Str("x".repeat(64 << 10)))];
        for _ in 0..64 {
            emit(&LOUD, data.clone());
            assert!(client.line().ends_with("xx\"}}"));
        }
        let heard = deaf.rest();
        assert!(heard.len() < 4 << 20);
        assert!(
            client
                .ask(r#"{"execute":"query-version"}"#)
                .contains("return")
        );
    });
    glib::log_remove_handler(Some("qcontext"), handler);
    let expected = "monitor: a client is disconnected: it has not read 2 MiB of events";
    assert_eq!(*messages.lock().unwrap(), [expected]);
}

#[test]
fn device_in_the_tree_is_found_by_path_and_by_name() {
    let _turn = one_at_a_time();
    struct Disk(Mutex<i64>);
    impl qcontext::object::Object for Disk {
        fn type_name(&self) -> &'static str {
            "disk"
        }
        fn properties(&self) -> Vec<qcontext::object::Property> {
            vec![qcontext::object::Property::new("size", "int")]
        }
        fn get(&self, _: &str) -> qcontext::Result<Value> {
            Ok(Value::Int(*self.0.lock().unwrap()))
        }
        fn set(&self, name: &str, _: Value) -> qcontext::Result<()> {
            Err(qcontext::object::not_writable("disk", name))
        }
    }
    use qcontext::object::tree;
    let path = "/machine/peripheral/disk0";
    tree::add_child(path, Arc::new(Disk(Mutex::new(7)))).unwrap();
    assert!(tree::add_child(path, Arc::new(Disk(Mutex::new(8)))).is_err());
    assert!(tree::add_child("/nowhere/disk0", Arc::new(Disk(Mutex::new(8)))).is_err());
    for spelling in [
        path,
        "disk0",
        "peripheral/disk0",
        "/machine//peripheral/disk0/",
    ] {
        assert_eq!(
            tree::get(spelling, "size").unwrap(),
            Value::Int(7),
            "{spelling}"
        );
    }
    let listed = tree::list("/machine/peripheral").unwrap();
    assert_eq!(
        (listed[1].name.as_ref(), listed[1].type_name.as_ref()),
        ("disk0", "child<disk>")
    );
    assert!(tree::remove_child(path).is_some());
    assert!(tree::remove_child(path).is_none());
    assert_eq!(
        tree::get(path, "size").unwrap_err().kind(),
        ErrorKind::DeviceNotFound
    );
}

#[test]
fn busy_socket_is_refused_and_a_dead_one_replaced() {
    let _turn = one_at_a_time();
    let directory = TestDir::new();
    let socket = directory.socket("qmp.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut monitor = Monitor::new(Commands::new());
    let error = monitor.listen(&socket).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    drop(listener);
    assert!(socket.exists());
    monitor.listen(&socket).unwrap();
    let file = directory.file("file");
    std::fs::write(&file, "precious").unwrap();
    assert_eq!(
        monitor.listen(&file).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let long = directory.file(&"x".repeat(120));
    assert!(monitor.listen(&long).is_err());
    drop(monitor);
    assert!(!socket.exists() && file.exists());
}
