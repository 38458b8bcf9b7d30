//! An NBD server on a thread, which does what a test says: right or wrong.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::nbd::protocol::export::{ExportDetail, ExportSize, transmission_flag};
use crate::nbd::protocol::handshake::{
    Greeting, OptionHeader, OptionReplyHeader, option, option_reply,
};
use crate::nbd::protocol::meta::{BASE_ALLOCATION, MetaContext};
use crate::nbd::protocol::reply::{ChunkHeader, chunk, chunk_flag};
use crate::nbd::protocol::request::{RequestHeader, command};

/// The size of the export.
pub(super) const SIZE: u64 = 1 << 20;

/// A connection as a test serves it.
pub(super) struct FakeConnection {
    pub(super) stream: UnixStream,
    /// Which connection it is, from 0.
    pub(super) number: usize,
}

/// A server. The socket goes with it; its thread ends with the process.
pub(super) struct FakeServer {
    pub(super) path: PathBuf,
    pub(super) connections: Arc<AtomicUsize>,
}

impl FakeServer {
    /// Serves each connection by `serve`, on a thread of its own.
    pub(super) fn new(serve: impl Fn(FakeConnection) + Send + Sync + 'static) -> FakeServer {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("qcontext-{}-nbd-{id}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, serve) = (Arc::clone(&connections), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let number = count.fetch_add(1, Ordering::Relaxed);
                let stream = stream.unwrap();
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(FakeConnection { stream, number }));
            }
        });
        FakeServer { path, connections }
    }

    /// Options of a node for it.
    pub(super) fn options(&self, more: &str) -> String {
        let path = self.path.display();
        format!("driver=nbd,server.type=unix,server.path={path}{more}")
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl FakeConnection {
    fn read<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Sends bytes. The client may have gone.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(super) fn greet(&mut self) {
        self.send(&Greeting { flags: 3 }.encode());
        self.read::<4>();
    }

    pub(super) fn option(&mut self) -> Option<OptionHeader> {
        let header = OptionHeader::decode(&self.read()?).ok()?;
        let mut data = vec![0; header.length as usize];
        self.stream.read_exact(&mut data).ok()?;
        Some(header)
    }

    pub(super) fn reply(&mut self, option: u32, reply: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let header = OptionReplyHeader {
            option,
            reply,
            length,
        };
        self.send(&header.encode());
        self.send(data);
    }

    /// The whole negotiation, with structured replies and these flags of the export.
    pub(super) fn negotiate(&mut self, flags: u16) -> Option<()> {
        self.negotiate_size(flags, SIZE)
    }

    /// The same for an export of another size.
    pub(super) fn negotiate_size(&mut self, flags: u16, size: u64) -> Option<()> {
        self.greet();
        loop {
            let chosen = self.option()?.option;
            match chosen {
                option::STRUCTURED_REPLY => {}
                option::SET_META_CONTEXT => {
                    let name = BASE_ALLOCATION.to_owned();
                    let context = MetaContext { id: 7, name };
                    self.reply(chosen, option_reply::META_CONTEXT, &context.encode());
                }
                option::GO => {
                    let flags = flags | transmission_flag::HAS_FLAGS;
                    let export = ExportDetail::Export(ExportSize { size, flags });
                    self.reply(chosen, option_reply::INFO, &export.encode());
                }
                _ => {
                    self.reply(chosen, option_reply::ERR_UNSUP, b"");
                    continue;
                }
            }
            self.reply(chosen, option_reply::ACK, b"");
            if chosen == option::GO {
                return Some(());
            }
        }
    }

    /// The next request, with its data.
    pub(super) fn request(&mut self) -> Option<(RequestHeader, Vec<u8>)> {
        let header = RequestHeader::decode(&self.read()?).ok()?;
        let mut data = Vec::new();
        if header.command == command::WRITE {
            data.resize(usize::try_from(header.length).unwrap(), 0);
            self.stream.read_exact(&mut data).ok()?;
        }
        Some((header, data))
    }

    pub(super) fn chunk(&mut self, kind: u16, is_last: bool, cookie: u64, payload: &[u8]) {
        let header = ChunkHeader {
            flags: if is_last { chunk_flag::DONE } else { 0 },
            kind,
            cookie,
            offset: 0,
            length: payload.len() as u64,
        };
        self.send(&header.encode());
        self.send(payload);
    }

    /// Serves a disk in memory until the client goes, or `count` requests have been read.
    pub(super) fn serve(&mut self, disk: &Mutex<Vec<u8>>, count: usize) {
        for _ in 0..count {
            let Some((asked, data)) = self.request() else {
                return;
            };
            if asked.command == command::DISC {
                return;
            }
            let start = usize::try_from(asked.offset).unwrap();
            let range = start..start + usize::try_from(asked.length).unwrap();
            match asked.command {
                command::READ => {
                    let mut payload = Vec::from(asked.offset.to_be_bytes());
                    payload.extend(&disk.lock().unwrap()[range]);
                    self.chunk(chunk::OFFSET_DATA, true, asked.cookie, &payload);
                    continue;
                }
                command::WRITE => disk.lock().unwrap()[range].copy_from_slice(&data),
                _ => {}
            }
            self.chunk(chunk::NONE, true, asked.cookie, b"");
        }
    }
}
