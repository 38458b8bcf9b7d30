//! A raw QMP client, and the texts of answers.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::deadline::DEADLINE;

/// What `query-version` answers.
pub const VERSION: &str =
    r#"{"qemu": {"micro": 0, "minor": 1, "major": 0}, "package": "qcontext 0.1.0"}"#;

/// An error of the general class.
pub fn generic(desc: &str) -> String {
    format!(r#"{{"error": {{"class": "GenericError", "desc": "{desc}"}}}}"#)
}

/// An error.
pub fn of_class(class: &str, desc: &str) -> String {
    format!(r#"{{"error": {{"class": "{class}", "desc": "{desc}"}}}}"#)
}

/// A successful answer.
pub fn returns(value: &str) -> String {
    format!(r#"{{"return": {value}}}"#)
}

/// A QMP client that checks nothing.
#[derive(Debug)]
pub struct Client {
    pub stream: UnixStream,
    reader: BufReader<UnixStream>,
    pub greeting: String,
}

impl Client {
    pub fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let mut client = Client {
            stream,
            reader,
            greeting: String::new(),
        };
        client.greeting = client.line();
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next line, without its end; empty at the end of the stream.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        assert_eq!(
            line.last().copied().unwrap_or(b'\n'),
            b'\n',
            "unfinished line"
        );
        String::from_utf8(line)
            .unwrap()
            .trim_end_matches('\n')
            .to_owned()
    }

    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> String {
        self.send(request.as_ref());
        self.line()
    }

    /// What still comes until the server hangs up; a reset counts as that, because the server did not read all.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        String::from_utf8(rest).unwrap()
    }
}
