//! Devices of a running `qctx`: the talk's command lines as typed, which context serves what, devices that come and go
//! at run time, and their type in the introspection.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use support::directory::TestDir;
use support::qmp::Client;
use support::server::Server;
use support::skip::skip;
use support::writer::Writer;

const TALK: &str = "-object qcontext,id=ctx1,threaded=yes \
    -drive if=none,id=d0,file=disk0.raw,format=raw \
    -device virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock";

/// A directory with two images in it.
fn directory() -> TestDir {
    let directory = TestDir::new();
    directory.image("disk0.raw", 16);
    directory.image("disk1.raw", 16);
    directory
}

fn start(directory: &TestDir, line: &str) -> Server {
    Server::start(directory, &line.split_whitespace().collect::<Vec<_>>())
}

/// A QMP client that has negotiated.
fn client(directory: &TestDir) -> Client {
    let mut client = Client::connect(&directory.socket("qmp.sock"));
    client.ask(r#"{"execute":"qmp_capabilities"}"#);
    client
}

/// Writes to each disk at the same time and checks that this context, and no other, has served it.
fn serves(line: &str, disks: &[(&str, &str)]) {
    let directory = directory();
    let mut server = start(&directory, line);
    let mut writers: Vec<Writer> = disks
        .iter()
        .map(|(disk, _)| Writer::connect(&directory.socket(&format!("{disk}.sock"))))
        .collect();
    writers
        .iter_mut()
        .for_each(|writer| writer.write_until(500));
    for (disk, context) in disks {
        let path = format!("/machine/peripheral/{disk}");
        assert_eq!(
            server.subcommand(&["qom-get", &format!("{path}.context")]),
            *context
        );
        assert!(server.number(&format!("{path}.writes")) >= 500);
        assert_eq!(server.number(&format!("{path}.errors")), 0);
        let in_use = format!(r#"{{"execute":"object-del","arguments":{{"id":"{context}"}}}}"#);
        let answer = client(&directory).ask(in_use);
        assert!(answer.contains("in use"), "{answer}");
    }
    server.stop();
}

#[test]
fn the_talks_disk_is_served_by_its_context() {
    serves(TALK, &[("disk0", "ctx1")]);
}

#[test]
fn two_contexts_serve_a_disk_each() {
    let line = format!(
        "{TALK} -object qcontext,id=ctx2,threaded=yes -drive if=none,id=d1,file=disk1.raw,format=raw \
         -device virtio-blk,id=disk1,drive=d1,x-data-plane=on,context=ctx2,vhost-user=disk1.sock"
    );
    serves(&line, &[("disk0", "ctx1"), ("disk1", "ctx2")]);
}

#[test]
fn two_disks_share_a_context() {
    let line = format!(
        "{TALK} -drive if=none,id=d1,file=disk1.raw,format=raw \
         -device virtio-blk,id=disk1,drive=d1,x-data-plane=on,context=ctx1,vhost-user=disk1.sock"
    );
    serves(&line, &[("disk0", "ctx1"), ("disk1", "ctx1")]);
}

#[test]
fn block_device_nodes_are_served_too() {
    let line = "-object qcontext,id=ctx1,threaded=yes \
        -blockdev driver=file,node-name=f0,filename=disk0.raw \
        -blockdev driver=raw,node-name=n0,file=f0 \
        -blockdev {\"driver\":\"raw\",\"node-name\":\"n1\",\"file\":{\"driver\":\"file\",\"filename\":\"disk1.raw\"}} \
        -device virtio-blk,id=disk0,drive=n0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock \
        -device virtio-blk,id=disk1,drive=n1,x-data-plane=on,context=ctx1,vhost-user=disk1.sock";
    serves(line, &[("disk0", "ctx1"), ("disk1", "ctx1")]);
}

#[test]
fn main_context_serves_what_names_no_context() {
    let line = "-drive if=none,id=d0,file=disk0.raw,format=raw -drive if=none,id=d1,file=disk1.raw,format=raw \
        -device virtio-blk,id=disk0,drive=d0,vhost-user=disk0.sock \
        -device virtio-blk,id=disk1,drive=d1,x-data-plane=on,vhost-user=disk1.sock";
    serves(
        line,
        &[("disk0", "qcontext-main"), ("disk1", "qcontext-main")],
    );
}

#[test]
fn order_of_the_options_does_not_matter() {
    let line = "-device virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock \
        --drive if=none,id=d0,file=disk0.raw,format=raw --object qcontext,id=ctx1,threaded=yes";
    serves(line, &[("disk0", "ctx1")]);
}

#[test]
fn object_names_the_context_that_the_kernel_runs_it_on() {
    let directory = directory();
    let mut server = start(&directory, TALK);
    let thread = server.number("/objects/ctx1.thread_id");
    let name = std::fs::read_to_string(format!("/proc/{}/task/{thread}/comm", server.pid()));
    assert_eq!(name.unwrap().trim(), "ctx1");
    let main = server.number("/objects/qcontext-main.thread_id");
    assert_eq!(main, i64::from(server.pid()));
    server.stop();
}

/// The names of the threads of a program, without io_uring's workers, which are the kernel's.
fn threads(server: &Server) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let names =
        tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    let mut names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
    names.retain(|name| !name.starts_with("iou-"));
    names.sort();
    names
}

#[test]
fn devices_have_no_threads_of_their_own() {
    let directory = directory();
    let line = format!(
        "{TALK} -object qcontext,id=ctx2,threaded=yes -drive if=none,id=d1,file=disk1.raw,format=raw \
         -device virtio-blk,id=disk1,drive=d1,num-queues=4,x-data-plane=on,context=ctx1,vhost-user=disk1.sock"
    );
    let mut server = start(&directory, &line);
    for disk in ["disk0.sock", "disk1.sock"] {
        Writer::connect(&directory.socket(disk)).write_until(500);
    }
    let names = threads(&server);
    server.stop();
    if names.iter().any(|name| name == "block-worker") {
        return skip("no io_uring here, so the thread engine serves");
    }
    assert_eq!(names, ["ctx1", "ctx2", "qctx"]);
}

#[test]
fn devices_come_and_go_at_run_time() {
    let directory = directory();
    let mut server = start(&directory, "-drive if=none,id=d0,file=disk0.raw,format=raw");
    let mut watcher = client(&directory);
    let mut client = client(&directory);
    let (ok, gone) = ("{\"return\": {}}", "disk0.sock");
    let add = r#"{"execute":"device_add","arguments":{"driver":"virtio-blk","id":"disk0","drive":"d0","x-data-plane":true,"context":"ctx9","vhost-user":"disk0.sock"}}"#;
    let refused = client.ask(add);
    assert_eq!(
        refused,
        r#"{"error": {"class": "GenericError", "desc": "device 'disk0': context 'ctx9' not found, expected the id of a qcontext object"}}"#
    );
    assert_eq!(
        client.ask(r#"{"execute":"object-add","arguments":{"qom-type":"qcontext","id":"ctx9","threaded":true}}"#),
        ok
    );
    assert_eq!(client.ask(add), ok);
    assert_eq!(
        client.ask(add),
        r#"{"error": {"class": "GenericError", "desc": "Duplicate device ID 'disk0'"}}"#
    );
    let mut writer = Writer::connect(&directory.socket("disk0.sock"));
    writer.write_until(500);
    let delete = r#"{"execute":"object-del","arguments":{"id":"ctx9"}}"#;
    assert_eq!(
        client.ask(delete),
        r#"{"error": {"class": "GenericError", "desc": "object 'ctx9' is in use by device 'disk0', can not be deleted"}}"#
    );
    let event = client.ask(r#"{"execute":"device_del","arguments":{"id":"disk0"}}"#);
    let expected = r#""event": "DEVICE_DELETED", "data": {"device": "disk0", "path": "/machine/peripheral/disk0"}}"#;
    assert!(event.ends_with(expected), "{event}");
    assert_eq!(client.line(), ok);
    assert_eq!(watcher.line(), event);
    assert!(!server.sockets().contains(&gone.to_owned()));
    assert_eq!(
        client.ask(r#"{"execute":"device_del","arguments":{"id":"disk0"}}"#),
        r#"{"error": {"class": "DeviceNotFound", "desc": "Device 'disk0' not found"}}"#
    );
    assert_eq!(client.ask(delete), ok);
    server.stop();
}

#[test]
fn device_model_is_a_type() {
    let directory = directory();
    let mut server = start(&directory, TALK);
    let mut client = client(&directory);
    assert_eq!(
        client.ask(r#"{"execute":"qom-list-types","arguments":{"implements":"device"}}"#),
        r#"{"return": [{"name": "virtio-blk", "parent": "device"}]}"#
    );
    let of_type =
        client.ask(r#"{"execute":"qom-list-properties","arguments":{"typename":"virtio-blk"}}"#);
    let of_device =
        client.ask(r#"{"execute":"qom-list","arguments":{"path":"/machine/peripheral/disk0"}}"#);
    assert!(
        of_type.contains(r#"{"name": "context", "type": "string"}"#),
        "{of_type}"
    );
    assert_eq!(of_type, of_device);
    assert_eq!(
        client.ask(r#"{"execute":"object-add","arguments":{"qom-type":"virtio-blk","id":"x"}}"#),
        r#"{"error": {"class": "GenericError", "desc": "Parameter 'qom-type' does not accept value 'virtio-blk'"}}"#
    );
    server.stop();
}

#[test]
fn what_is_asked_after_quit_leaves_nothing_behind() {
    let directory = directory();
    let drives: Vec<String> = (0..30)
        .map(|number| format!("-blockdev driver=null-co,node-name=n{number},size=1M"))
        .collect();
    let mut server = start(&directory, &format!("{TALK} {}", drives.join(" ")));
    let mut writer = Writer::connect(&directory.socket("disk0.sock"));
    writer.write_until(500);
    let mut requests = r#"{"execute":"quit"}"#.to_owned();
    for number in 0..30 {
        requests += &format!(
            r#"{{"execute":"device_add","arguments":{{"driver":"virtio-blk","id":"late{number}","drive":"n{number}","vhost-user":"late{number}.sock"}}}}"#
        );
    }
    let mut client = client(&directory);
    client.send(requests.as_bytes());
    assert!(server.wait().success());
    assert_eq!(server.sockets(), Vec::<String>::new());
}
