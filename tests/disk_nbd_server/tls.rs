//! The NBD server under TLS: data is right for every client that shows a certificate, and nobody else learns anything.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use qcontext::nbd::protocol::export::ExportQuestion;
use qcontext::nbd::protocol::handshake::{OptionHeader, option, option_reply};
use support::deadline::{DEADLINE, wait_for};
use support::directory::TestDir;
use support::pki;
use support::process::{Process, outcome, qctx, run};
use support::qemu_img::qemu_img;
use support::random::Random;
use support::server::Server;
use support::skip::skip;

use super::peer::Peer;
use super::tools::{STORAGE_DAEMON, are_installed, printed};

fn is_missing(programs: &[&str]) -> bool {
    let missing = pki::missing().inspect(|reason| skip(reason));
    missing.is_some() || !are_installed(programs)
}

/// A directory with `disk.raw` of 4 MiB, the certificates `pki`, those of others, and an authority without a client's.
fn directory() -> TestDir {
    let directory = TestDir::new();
    directory.image("disk.raw", 4);
    pki::make(&directory.file("pki"), "disks.example");
    pki::make(&directory.file("others"), "disks.example");
    std::fs::create_dir(directory.file("nobody")).unwrap();
    let authority = |folder: &str| directory.file(folder).join("ca-cert.pem");
    std::fs::copy(authority("pki"), authority("nobody")).unwrap();
    directory
}

/// What starts a server at `address`, with these certificates.
fn arguments<'a>(creds: &'a str, address: &'a str) -> [&'a str; 8] {
    [
        "--object",
        creds,
        "--blockdev",
        "file,node-name=f0,filename=disk.raw",
        "--nbd-server",
        address,
        "--export",
        "nbd,id=e0,node-name=f0,name=disk,writable=on",
    ]
}

const CREDS: &str = "tls-creds-x509,id=t,dir=pki,endpoint=server";
const AT_SOCKET: &str = "addr.type=unix,addr.path=nbd.sock,tls-creds=t";

fn serve(directory: &TestDir, creds: &str, more: &str) -> Server {
    Server::start(directory, &arguments(creds, &format!("{AT_SOCKET}{more}")))
}

fn start(program: &OsStr, directory: &TestDir) -> Process {
    let mut command = Command::new(program);
    command
        .args(arguments(CREDS, AT_SOCKET))
        .current_dir(directory.path())
        .stdin(Stdio::null());
    let process = Process::start(&mut command);
    let socket = directory.socket("nbd.sock");
    wait_for("the NBD server", || UnixStream::connect(&socket).ok());
    process
}

/// What `qemu-io` says and whether it was content, with the certificates of a folder.
fn qemu_io(directory: &TestDir, folder: &str, commands: &[&str]) -> (bool, String) {
    let creds = format!("tls-creds-x509,id=c,dir={folder},endpoint=client");
    let node = "driver=nbd,server.type=unix,server.path=nbd.sock,export=disk,tls-creds=c,tls-hostname=disks.example";
    let mut command = Command::new("qemu-io");
    command
        .args(["--object", &creds, "--image-opts", node])
        .current_dir(directory.path());
    let commands = commands.iter().flat_map(|text| ["-c", text]);
    let output = command
        .args(commands)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn is_served(directory: &TestDir, folder: &str) -> bool {
    qemu_io(directory, folder, &["read 0 4M"]).0
}

#[test]
fn tools_of_qemu_and_libnbd_copy_and_compare() {
    if is_missing(&["qemu-img", "qemu-io", "nbdinfo", "nbdcopy"]) {
        return;
    }
    let directory = directory();
    let mut content = vec![0; 4 << 20];
    Random(9).fill(&mut content[1 << 20..3 << 20]);
    std::fs::write(directory.file("wanted.raw"), &content).unwrap();
    let mut server = serve(&directory, CREDS, "");
    let path = directory.path();
    let uri = "nbds+unix://disks.example/disk?socket=nbd.sock&tls-certificates=pki";
    let about = printed(path, "nbdinfo", &[uri]);
    assert!(
        about.contains("newstyle-fixed with TLS") && about.contains("export-size: 4194304"),
        "{about}"
    );
    let list = printed(path, "nbdinfo", &["--list", uri]);
    assert!(list.contains(r#"export="disk""#), "{list}");
    printed(path, "nbdcopy", &["wanted.raw", uri]);
    assert!(std::fs::read(directory.file("disk.raw")).unwrap() == content);
    printed(path, "nbdcopy", &[uri, "copy.raw"]);
    assert!(std::fs::read(directory.file("copy.raw")).unwrap() == content);
    let commands = [
        "write -P 3 1000 3000",
        "aio_write -P 4 700001 1M",
        "aio_write -P 5 2M 1M",
        "aio_flush",
        "write -z 0 900",
        "discard 3M 512k",
    ];
    let (is_content, said) = qemu_io(&directory, "pki", &commands);
    assert!(is_content, "{said}");
    content[1000..4000].fill(3);
    content[700_001..][..1 << 20].fill(4);
    content[2 << 20..3 << 20].fill(5);
    std::fs::write(directory.file("wanted.raw"), &content).unwrap();
    let node = "driver=nbd,server.type=unix,server.path=nbd.sock,export=disk,tls-creds=c,tls-hostname=disks.example";
    let creds = "tls-creds-x509,id=c,dir=pki,endpoint=client";
    qemu_img(
        path,
        &[
            "compare",
            "--object",
            creds,
            "--image-opts",
            node,
            "driver=raw,file.driver=file,file.filename=wanted.raw",
        ],
    );
    server.stop();
    assert!(std::fs::read(directory.file("disk.raw")).unwrap() == content);
}

#[test]
fn a_tcp_port_is_served_under_the_name_of_its_host() {
    if is_missing(&["nbdinfo"]) {
        return;
    }
    let directory = directory();
    // A port that is free now. If another program takes it, the server does not start.
    let port = std::net::TcpListener::bind("localhost:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("addr.type=inet,addr.host=localhost,addr.port={port},tls-creds=t");
    let _server = Server::start(&directory, &arguments(CREDS, &address));
    let uri = |scheme: &str| format!("{scheme}://localhost:{port}/disk?tls-certificates=pki");
    assert_eq!(
        printed(directory.path(), "nbdinfo", &["--size", &uri("nbds")]),
        "4194304\n"
    );
    let plain = format!("nbd://localhost:{port}/disk");
    let output = Command::new("nbdinfo").arg(plain).output().unwrap();
    assert!(!output.status.success());
}

/// What a server says to a client that does not begin TLS: replies with texts, or that it hangs up.
fn said_in_the_clear(program: &OsStr) -> Vec<String> {
    let directory = directory();
    let _process = start(program, &directory);
    let go = ExportQuestion {
        name: "disk".into(),
        wanted: vec![],
    }
    .encode();
    let mut said = Vec::new();
    for number in [
        option::LIST,
        option::INFO,
        option::GO,
        option::STRUCTURED_REPLY,
        option::EXTENDED_HEADERS,
        option::SET_META_CONTEXT,
        77,
        option::ABORT,
        option::EXPORT_NAME,
        option::STARTTLS,
    ] {
        let mut peer = Peer::connect(&directory.socket("nbd.sock"));
        peer.greet();
        let data = if number == option::EXPORT_NAME {
            b"disk"
        } else {
            &go[..]
        };
        peer.option(number, data);
        let answer = match number {
            option::EXPORT_NAME => "no reply".to_owned(),
            _ => format!("{:?}", peer.option_reply()),
        };
        let goes = match number {
            option::EXPORT_NAME | option::ABORT | option::STARTTLS => peer.is_hung_up(),
            // It can still begin TLS.
            _ => {
                peer.option(option::STARTTLS, &[]);
                assert_eq!(peer.option_reply().0, option_reply::ACK);
                false
            }
        };
        said.push(format!("{number}: {answer} {goes}"));
    }
    said
}

#[test]
fn nothing_is_said_before_tls() {
    if is_missing(&[]) {
        return;
    }
    let ours = said_in_the_clear(&qctx());
    let refusals = [1, 2, 3].map(|at| {
        ours[at].starts_with(&format!(
            "{}: ({}, ",
            [6, 7, 8][at - 1],
            option_reply::ERR_TLS_REQD
        ))
    });
    assert_eq!(refusals, [true; 3], "{ours:#?}");
    if are_installed(&[STORAGE_DAEMON]) {
        assert_eq!(ours, said_in_the_clear(OsStr::new(STORAGE_DAEMON)));
    }
}

#[test]
fn a_client_without_a_good_certificate_is_not_served() {
    if is_missing(&["qemu-io"]) {
        return;
    }
    let directory = directory();
    // A seat that is not given back would be missed.
    let mut server = serve(&directory, CREDS, ",max-connections=1");
    for _ in 0..3 {
        assert!(!is_served(&directory, "nobody"));
        assert!(!is_served(&directory, "others"));
        assert!(is_served(&directory, "pki"));
    }
    server.stop();
    let mut open_server = serve(&directory, &format!("{CREDS},verify-peer=off"), "");
    assert!(is_served(&directory, "nobody"));
    open_server.stop();
    pki::revoke_client(&directory.file("pki"));
    let _server = serve(&directory, CREDS, "");
    let (is_content, said) = qemu_io(&directory, "pki", &["read 0 4M"]);
    assert!(!is_content, "{said}");
}

/// Begins TLS, as far as a request for it.
fn begin_tls(socket: &Path) -> Peer {
    let mut peer = Peer::connect(socket);
    peer.greet();
    peer.option(option::STARTTLS, &[]);
    assert_eq!(peer.option_reply().0, option_reply::ACK);
    peer
}

/// The beginning of a TLS record that has a handshake message of 512 bytes.
const HALF_A_HELLO: [u8; 9] = [22, 3, 1, 2, 0, 1, 0, 1, 252];

fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .unwrap()
        .count()
}

#[test]
fn handshakes_that_make_no_sense_end_one_connection() {
    if is_missing(&["qemu-io"]) {
        return;
    }
    let directory = directory();
    let mut server = serve(&directory, CREDS, ",max-connections=2");
    let socket = directory.socket("nbd.sock");
    assert!(is_served(&directory, "pki"));
    let before = open_files(&server);
    let mut random = Random(4);
    for round in 0..60 {
        let mut peer = begin_tls(&socket);
        let mut bytes = vec![0; 1 + random.index(3000)];
        random.fill(&mut bytes);
        // In the second half, behind a good beginning.
        if round >= 30 {
            bytes.splice(0..0, HALF_A_HELLO);
        }
        let _ = peer.stream.write_all(&bytes);
        let _ = peer.stream.shutdown(std::net::Shutdown::Write);
        // An alert may come first.
        let mut rest = Vec::new();
        let _ = peer.stream.read_to_end(&mut rest);
        assert!(rest.len() < 100);
    }
    assert!(is_served(&directory, "pki"));
    wait_for("the connections to end", || {
        (open_files(&server) <= before).then_some(())
    });
    server.stop();
}

#[test]
fn options_in_the_clear_behind_the_request_for_tls_are_not_answered() {
    if is_missing(&[]) {
        return;
    }
    let directory = directory();
    let _server = serve(&directory, CREDS, "");
    let mut peer = Peer::connect(&directory.socket("nbd.sock"));
    peer.greet();
    let both =
        [option::STARTTLS, option::LIST].map(|option| OptionHeader { option, length: 0 }.encode());
    peer.write(&both.concat());
    assert_eq!(peer.option_reply().0, option_reply::ACK);
    let mut rest = Vec::new();
    peer.stream.read_to_end(&mut rest).unwrap();
    // An alert at most, which is a record of this type.
    assert!(
        rest.len() < 32 && rest.first().is_none_or(|first| *first == 21),
        "{rest:?}"
    );
}

#[test]
fn a_handshake_of_tls_has_the_deadline_of_the_negotiation() {
    if is_missing(&[]) {
        return;
    }
    let directory = directory();
    let mut server = serve(&directory, CREDS, ",handshake-max-seconds=1");
    let socket = directory.socket("nbd.sock");
    let mut silent = begin_tls(&socket);
    let mut halfway = begin_tls(&socket);
    halfway.write(&HALF_A_HELLO);
    for peer in [&mut silent, &mut halfway] {
        peer.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut rest = Vec::new();
        peer.stream.read_to_end(&mut rest).unwrap();
    }
    server.stop();
}

#[test]
fn certificates_that_cannot_serve_are_refused_by_name() {
    if is_missing(&[]) {
        return;
    }
    let directory = directory();
    pki::make(&directory.file("old"), "disks.example");
    pki::expire_server(&directory.file("old"));
    std::fs::create_dir(directory.file("mixed")).unwrap();
    for (from, name) in [
        ("others", "ca-cert.pem"),
        ("pki", "server-cert.pem"),
        ("pki", "server-key.pem"),
    ] {
        std::fs::copy(
            directory.file(from).join(name),
            directory.file("mixed").join(name),
        )
        .unwrap();
    }
    let dir = |folder: &str| directory.file(folder).display().to_string();
    let cases = [
        (
            "nobody",
            "",
            format!(
                "Unable to access credentials {}/server-cert.pem: ",
                dir("nobody")
            ),
        ),
        (
            "mixed",
            "",
            format!(
                "Our own certificate {0}/server-cert.pem failed validation against {0}/ca-cert.pem: ",
                dir("mixed")
            ),
        ),
        (
            "old",
            "",
            format!("The certificate {}/server-cert.pem has expired", dir("old")),
        ),
        (
            "pki",
            ",endpoint=both",
            "Parameter 'endpoint' does not accept value 'both'".into(),
        ),
        (
            "pki",
            ",priority=NORMAL",
            "priority is not supported".into(),
        ),
        ("pki", ",passwordid=s", "passwordid is not supported".into()),
    ];
    for (folder, more, expected) in cases {
        let server = if more.contains("endpoint") {
            ""
        } else {
            ",endpoint=server"
        };
        let creds = format!("tls-creds-x509,id=t,dir={}{server}{more}", dir(folder));
        let (status, _, error) = outcome(&run(&["--object", &creds]));
        let start = format!("qctx: -object {creds}: ");
        assert_eq!(status, Some(1), "{error}");
        let said = error.strip_prefix(&start).unwrap_or(&error);
        assert!(said.starts_with(&expected), "{said}");
    }
    // The user may know better.
    for folder in ["mixed", "old"] {
        let creds = format!("tls-creds-x509,id=t,dir={folder},endpoint=server,sanity-check=off");
        serve(&directory, &creds, "").stop();
    }
}

#[test]
fn certificates_stay_as_long_as_the_server_runs() {
    if is_missing(&[]) {
        return;
    }
    let directory = directory();
    let server = serve(&directory, CREDS, "");
    let mut client = server.client();
    let delete = r#"{"execute":"object-del","arguments":{"id":"t"}}"#;
    let answer = client.ask(delete);
    assert!(
        answer.contains("object 't' is in use, can not be deleted"),
        "{answer}"
    );
    let peer = begin_tls(&directory.socket("nbd.sock"));
    assert!(
        client
            .ask(r#"{"execute":"nbd-server-stop"}"#)
            .contains("BLOCK_EXPORT_DELETED")
    );
    assert_eq!(client.line(), r#"{"return": {}}"#);
    drop(peer);
    assert_eq!(client.ask(delete), r#"{"return": {}}"#);
}
