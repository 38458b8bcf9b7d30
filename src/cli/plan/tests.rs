//! What the command line is read as, and in which words it is refused.
#![forbid(unsafe_code)]

use super::*;

fn plan(arguments: &[&str]) -> Plan {
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    match parse(&arguments).unwrap() {
        Invocation::Run(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn refusal(arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    parse(&arguments).unwrap_err().to_string()
}

#[test]
fn options_are_sorted_by_what_they_make() {
    let plan = plan(&[
        "-device",
        "virtio-blk,id=disk0,drive=d0",
        "--qmp",
        "unix:qmp.sock,server=on,wait=off",
        "-drive",
        "if=none,id=d0,file=a,,b.raw",
        "-blockdev",
        "raw,node-name=n,file.filename=x",
        "-object",
        "qcontext,id=ctx1",
        "--object",
        "qcontext,id=ctx2",
    ]);
    let ids: Vec<_> = plan
        .objects
        .iter()
        .map(|item| item.options.peek("id"))
        .collect();
    assert_eq!(ids, [Some("ctx1"), Some("ctx2")]);
    assert_eq!(plan.objects[1].place, "-object qcontext,id=ctx2");
    assert_eq!(plan.devices[0].options.peek("driver"), Some("virtio-blk"));
    assert_eq!(plan.drives[0].options.peek("file"), Some("a,b.raw"));
    assert_eq!(plan.blockdevs[0].options.peek("file.filename"), Some("x"));
    assert_eq!(plan.monitors[0].channel, Channel::Unix("qmp.sock".into()));
}

#[test]
fn old_spellings_of_the_monitor_socket_work() {
    let plan = plan(&["-qmp", "unix:a,,b,server,nowait", "-qmp", "stdio"]);
    assert_eq!(plan.monitors[0].channel, Channel::Unix("a,b".into()));
    assert_eq!(plan.monitors[1].channel, Channel::Stdio);
}

#[test]
fn ids_are_separate_for_objects_drives_and_devices() {
    let same = [
        "-object",
        "qcontext,id=a",
        "-drive",
        "id=a,file=x",
        "-device",
        "d,id=a",
    ];
    assert_eq!(plan(&same).devices.len(), 1);
    assert_eq!(
        refusal(&["-device", "d,id=a", "-device", "e,id=a"]),
        "qctx: -device e,id=a: Duplicate ID 'a' for device"
    );
    assert_eq!(
        refusal(&["-drive", "id=a,file=x", "-drive", "id=a,file=y"]),
        "qctx: -drive id=a,file=y: Duplicate ID 'a' for drive"
    );
}

#[test]
fn dotted_form_refuses_flags() {
    assert_eq!(
        refusal(&["-blockdev", "raw,read-only"]),
        "qctx: -blockdev raw,read-only: Expected '=' after parameter 'read-only'"
    );
}

#[test]
fn no_arguments_ask_for_the_demonstration() {
    assert!(matches!(parse(&[]).unwrap(), Invocation::Demonstrate));
}
