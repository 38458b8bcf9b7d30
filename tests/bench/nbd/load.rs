//! The client: one connection with many reads under way.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use qcontext::nbd::protocol::export::ExportSize;
use qcontext::nbd::protocol::handshake::{Greeting, OptionHeader, client_flag, option};
use qcontext::nbd::protocol::request::{RequestHeader, command};

use super::Result;

const BLOCK: usize = 4096;
/// A simple reply with its data.
const REPLY: usize = 16 + BLOCK;
const SLICE: Duration = Duration::from_millis(500);

/// What one slice has brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    /// Of the server.
    pub(crate) cpu_seconds: f64,
}

/// A connection to the export with the empty name or `disk`.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    blocks: u64,
    random: u64,
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> Result<Connection> {
        let mut stream = UnixStream::connect(socket)?;
        let mut greeting = [0; Greeting::LEN];
        stream.read_exact(&mut greeting)?;
        let flags = client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES;
        stream.write_all(&flags.to_be_bytes())?;
        let header = OptionHeader {
            option: option::EXPORT_NAME,
            length: 4,
        };
        stream.write_all(&[&header.encode()[..], b"disk"].concat())?;
        let mut export = [0; ExportSize::LEN];
        stream.read_exact(&mut export)?;
        Ok(Connection {
            stream,
            blocks: ExportSize::decode(&export).size / BLOCK as u64,
            random: 1,
        })
    }

    fn request(&mut self) -> [u8; RequestHeader::LEN] {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let header = RequestHeader {
            flags: 0,
            command: command::READ,
            cookie: 0,
            offset: (self.random >> 33) % self.blocks * BLOCK as u64,
            length: BLOCK as u64,
        };
        header.encode()
    }

    /// Reads for a while. `cpu` says how much time the server's processor has taken so far.
    pub(crate) fn load(&mut self, depth: usize, cpu: impl Fn() -> f64) -> Result<Slice> {
        let mut out: Vec<u8> = (0..depth).flat_map(|_| self.request()).collect();
        let mut buffer = vec![0; depth * REPLY];
        let (start, cpu_before) = (Instant::now(), cpu());
        let (mut received, mut answered) = (0, 0);
        let mut left = depth;
        while left > 0 {
            self.stream.write_all(&out)?;
            out.clear();
            received += self.stream.read(&mut buffer)?;
            let is_over = start.elapsed() > SLICE;
            while received >= (answered + 1) * REPLY {
                answered += 1;
                match is_over {
                    true => left -= 1,
                    false => out.extend(self.request()),
                }
            }
        }
        Ok(Slice {
            requests: answered as f64,
            seconds: start.elapsed().as_secs_f64(),
            cpu_seconds: cpu() - cpu_before,
        })
    }
}
