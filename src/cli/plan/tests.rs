//! What the command line is read as, and in which words it is refused.
#![forbid(unsafe_code)]

use qcontext::monitor::ChardevAddress;

use super::*;

fn plan(arguments: &[&str]) -> Plan {
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    match parse(&arguments).unwrap() {
        Invocation::Run(plan) => *plan,
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
    assert_eq!(
        plan.monitors[0].chardev.backend,
        ChardevBackend::Server(ChardevAddress::Unix("qmp.sock".into()))
    );
}

#[test]
fn old_spellings_of_the_monitor_socket_work() {
    let plan = plan(&["-qmp", "unix:a,,b,server,nowait", "-qmp", "stdio"]);
    assert_eq!(
        plan.monitors[0].chardev.backend,
        ChardevBackend::Server(ChardevAddress::Unix("a,b".into()))
    );
    assert_eq!(plan.monitors[1].chardev.backend, ChardevBackend::Stdio);
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

fn machine(arguments: &[&str]) -> MachinePlan {
    let base = ["-machine", "microvm", "-kernel", "vmlinuz"];
    plan(&[&base, arguments].concat()).machine.unwrap()
}

#[test]
fn a_machine_has_defaults() {
    let machine = machine(&[]);
    assert_eq!(machine.place, "-machine microvm");
    assert_eq!(
        machine.kernel,
        ("-kernel vmlinuz".to_owned(), "vmlinuz".into())
    );
    assert_eq!(
        (machine.options.cpus, machine.options.memory),
        (1, 128 << 20)
    );
    assert!(machine.options.reboot);
    assert_eq!(machine.serial.1, SerialTarget::Stdio);
    assert!(machine.initrd.is_none() && machine.append.is_none());
}

#[test]
fn options_of_a_machine_are_read() {
    let machine = machine(&[
        "-m",
        "size=1G",
        "-smp",
        "cpus=2",
        "-initrd",
        "initrd",
        "-append",
        "a=b,c d",
        "-serial",
        "file:a,b",
        "-no-reboot",
        "-S",
    ]);
    assert_eq!((machine.options.cpus, machine.options.memory), (2, 1 << 30));
    assert!(!machine.options.reboot && machine.paused);
    assert_eq!(machine.initrd.unwrap().1, PathBuf::from("initrd"));
    assert_eq!(machine.append.unwrap().1, "a=b,c d");
    assert_eq!(
        machine.serial,
        (
            "-serial file:a,b".to_owned(),
            SerialTarget::File("a,b".into())
        )
    );
    assert!(plan(&["-object", "qcontext,id=a"]).machine.is_none());
}

#[test]
fn memory_is_in_mebibytes_unless_a_suffix_says_otherwise() {
    let cases = [
        ("256", 256 << 20),
        ("1.5g", 3 << 29),
        ("4096k", 4 << 20),
        ("5000000b", 5_001_216),
        ("0x1000000", 16 << 20),
    ];
    for (text, bytes) in cases {
        assert_eq!(machine(&["-m", text]).options.memory, bytes, "{text}");
    }
}

#[test]
fn mistakes_in_options_of_a_machine_are_told() {
    let sizes = "Optional suffixes k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta- and exabytes, respectively.";
    let cases: [(&[&str], &str); 17] = [
        (
            &["-machine", "q35"],
            "-machine q35: unsupported machine type: \"q35\"\nUse -machine help to list supported machines",
        ),
        (
            &["-machine", "microvm,accel=tcg"],
            "-machine microvm,accel=tcg: invalid accelerator tcg, expected kvm",
        ),
        (
            &["-machine", "microvm,x=1"],
            "-machine microvm,x=1: Invalid parameter 'x'",
        ),
        (
            &["-machine", "microvm"],
            "-machine microvm: has nothing to boot, add '-kernel FILE'",
        ),
        (
            &["-kernel", "k"],
            "-kernel k: needs a machine, add '-machine microvm'",
        ),
        (
            &["-m", "1"],
            "-m 1: needs a machine, add '-machine microvm'",
        ),
        (&["-S"], "-S: needs a machine, add '-machine microvm'"),
        (
            &["-no-reboot"],
            "-no-reboot: needs a machine, add '-machine microvm'",
        ),
        (
            &["-machine", "microvm", "-append", "a"],
            "-append a: only allowed with -kernel",
        ),
        (&["-initrd", "a"], "-initrd a: only allowed with -kernel"),
        (&["-machine"], "-machine: requires an argument"),
        (
            &["-m", "x"],
            "-m x: Parameter 'size' expects a non-negative number below 2^64\nSIZES",
        ),
        (
            &["-m", "0"],
            "-m 0: invalid RAM size, expected 1 byte to 256 TiB\nSIZES",
        ),
        (
            &["-m", "1,slots=2"],
            "-m 1,slots=2: Invalid parameter 'slots'",
        ),
        (
            &["-smp", "0"],
            "-smp 0: Parameter 'cpus' expects a number from 1 to 254",
        ),
        (
            &["-smp", "two"],
            "-smp two: Parameter 'cpus' expects an int64 value",
        ),
        (
            &["-serial", "pty"],
            "-serial pty: expects 'stdio', 'file:PATH' or 'none'",
        ),
    ];
    for (arguments, message) in cases {
        let expected = format!("qctx: {}", message.replace("SIZES", sizes));
        assert_eq!(refusal(arguments), expected);
    }
}

#[test]
fn standard_input_and_output_belong_to_one() {
    let base = ["-machine", "microvm", "-kernel", "k", "-qmp", "stdio"];
    assert_eq!(plan(&base).machine.unwrap().serial.1, SerialTarget::None);
    let both = [&base[..], &["-serial", "stdio"]].concat();
    let message = "qctx: -serial stdio: standard input and output belong to '-qmp stdio'";
    assert_eq!(refusal(&both), message);
}

#[test]
fn machine_help_lists_the_types() {
    let arguments = ["-machine".to_owned(), "help".to_owned()];
    let Invocation::Print(text) = parse(&arguments).unwrap() else {
        panic!("no help");
    };
    assert!(text.contains("\nmicrovm "), "{text}");
}
