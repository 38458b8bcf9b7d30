//! Certificates for TLS, made by `openssl`, with the file names of QEMU.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

/// Why there are no certificates, if `openssl` is missing.
pub fn missing() -> Option<String> {
    let found = Command::new("openssl").arg("version").output();
    found.err().map(|error| format!("openssl: {error}"))
}

const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];

fn openssl(dir: &Path, command: &str, arguments: &[&str]) {
    let mut openssl = Command::new("openssl");
    openssl.arg(command).args(arguments).current_dir(dir);
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{openssl:?}: {output:?}");
}

/// Makes an authority, a server of this name and a client in a directory.
pub fn make(dir: &Path, server: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let authority = ["-x509", "-subj", "/CN=authority", "-days", "2"];
    let files = ["-keyout", "ca-key.pem", "-out", "ca-cert.pem"];
    openssl(dir, "req", &[&NEW_KEY[..], &authority, &files].concat());
    for (who, name) in [("server", server), ("client", "client")] {
        let subject = format!("/CN={name}");
        let key = format!("{who}-key.pem");
        let arguments = ["-subj", &subject, "-keyout", &key, "-out", "request.pem"];
        openssl(dir, "req", &[&NEW_KEY[..], &arguments].concat());
        let extensions = format!(
            "subjectAltName=DNS:{name},DNS:localhost\nextendedKeyUsage={who}Auth\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n"
        );
        std::fs::write(dir.join("extensions"), extensions).unwrap();
        let certificate = format!("{who}-cert.pem");
        let signing = [
            "-req",
            "-in",
            "request.pem",
            "-CA",
            "ca-cert.pem",
            "-CAkey",
            "ca-key.pem",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "extensions",
            "-out",
            &certificate,
        ];
        openssl(dir, "x509", &signing);
    }
}

/// Runs the authority's own command.
fn authority(dir: &Path, arguments: &[&str]) {
    let config = "[ca]\ndefault_ca=all\n[all]\ndatabase=index.txt\nserial=serial\ncrlnumber=number\nnew_certs_dir=.\ndefault_md=sha256\ndefault_crl_days=2\n\
                  policy=any\nx509_extensions=new\n[new]\nbasicConstraints=CA:FALSE\n[any]\ncommonName=supplied\n";
    std::fs::write(dir.join("ca.conf"), config).unwrap();
    for (name, content) in [("index.txt", ""), ("serial", "1000\n"), ("number", "01\n")] {
        if !dir.join(name).exists() {
            std::fs::write(dir.join(name), content).unwrap();
        }
    }
    let who = [
        "-config",
        "ca.conf",
        "-cert",
        "ca-cert.pem",
        "-keyfile",
        "ca-key.pem",
        "-batch",
    ];
    openssl(dir, "ca", &[&who[..], arguments].concat());
}

/// Makes a list of revoked certificates that has the client's.
pub fn revoke_client(dir: &Path) {
    authority(dir, &["-revoke", "client-cert.pem"]);
    authority(dir, &["-gencrl", "-out", "ca-crl.pem"]);
}

/// Puts another certificate of the server in place, which has expired.
pub fn expire_server(dir: &Path) {
    let request = [
        "-subj",
        "/CN=old",
        "-key",
        "server-key.pem",
        "-new",
        "-out",
        "request.pem",
    ];
    openssl(dir, "req", &request);
    let dates = [
        "-startdate",
        "20200101000000Z",
        "-enddate",
        "20200201000000Z",
    ];
    let files = ["-in", "request.pem", "-out", "server-cert.pem", "-notext"];
    authority(dir, &[&files[..], &dates].concat());
}
